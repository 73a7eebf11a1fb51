"""Complete a handshake with GnuTLS, then send an alert: late_alert.py LIBRARY HOST VERSION ALERT.

So does a client that verifies when all is done, as Firefox with TLS 1.2.
"""

import ctypes
import socket
import sys

CLIENT, CERTIFICATE, BY_NAME, FATAL = 2, 1, 1, 2

library, host, version, alert = sys.argv[1:]
gnutls = ctypes.CDLL(library)
session, credentials = ctypes.c_void_p(), ctypes.c_void_p()
with socket.create_connection((host, 443), timeout=20) as raw:
    raw.settimeout(None)
    gnutls.gnutls_init(ctypes.byref(session), CLIENT)
    gnutls.gnutls_certificate_allocate_credentials(ctypes.byref(credentials))
    gnutls.gnutls_credentials_set(session, CERTIFICATE, credentials)
    gnutls.gnutls_server_name_set(session, BY_NAME, host.encode(), ctypes.c_size_t(len(host)))
    priority = f"NORMAL:-VERS-ALL:+VERS-TLS{version}".encode()
    assert gnutls.gnutls_priority_set_direct(session, priority, None) == 0
    gnutls.gnutls_transport_set_int2(session, raw.fileno(), raw.fileno())
    assert gnutls.gnutls_handshake(session) == 0
    assert gnutls.gnutls_alert_send(session, FATAL, int(alert)) == 0
    raw.shutdown(socket.SHUT_WR)
    while raw.recv(1000):  # what is unread would make the end a reset, which outruns the alert
        pass
