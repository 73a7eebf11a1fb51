"""TLS alerts (RFC 8446 §6): their names, and which of them refuse a certificate.

What a client that refuses a certificate sends, as seen from real ones: OpenSSL unknown_ca and
others; Go and GnuTLS bad_certificate; Java and Chromium certificate_unknown; Firefox unknown_ca;
rustls one for each reason, also decrypt_error (a bad signature), access_denied (its program's own
check) and bad_certificate_status_response. Tests: tests/engine/test_tls_refusals.py.
"""

from __future__ import annotations

import re

HUNG_UP = "hung up during the handshake"
"""What is said of a side that ended one without an alert."""

_NAMES = {
    0: "close_notify",
    10: "unexpected_message",
    20: "bad_record_mac",
    40: "handshake_failure",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    90: "user_canceled",
    109: "missing_extension",
    110: "unsupported_extension",
    112: "unrecognized_name",
    113: "bad_certificate_status_response",
    116: "certificate_required",
    120: "no_application_protocol",
}

OF_CERTIFICATES = frozenset(
    (
        *("bad_certificate", "unsupported_certificate", "certificate_revoked"),
        *("certificate_expired", "certificate_unknown", "unknown_ca", "access_denied"),
        *("decrypt_error", "bad_certificate_status_response"),
    )
)

_REASON = re.compile(r"\b(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?([A-Z_]+)")


def name_of(number: int) -> str:
    return _NAMES.get(number, f"alert {number}")


def record_of(name: str) -> bytes:
    """Return the fatal alert of that name as a record that is not encrypted; b"" for none."""
    number = next((n for n, known in _NAMES.items() if known == name and n), None)
    return b"" if number is None else bytes((21, 3, 3, 0, 2, 2, number))


def alert_in(text: str) -> str:
    """Return the alert that an error of OpenSSL's names (`SSLV3_ALERT_BAD_CERTIFICATE`), or ""."""
    found = _REASON.search(text)
    return found[1].lower() if found else ""
