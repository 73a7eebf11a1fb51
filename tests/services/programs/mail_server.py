"""aiosmtpd with STARTTLS and a login, until it is ended: PORT CERTIFICATE PASSWORD."""

import asyncio
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult


class Postbox:
    async def handle_DATA(self, _server, session, envelope):
        return f"250 {'secret' if session.ssl else 'open'}, {len(envelope.content)} bytes"


def authenticate(_server, _session, _envelope, _mechanism, data):
    good = (data.login, data.password) == (b"app", sys.argv[3].encode())
    return AuthResult(success=good, handled=False)


def make():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2])
    return SMTP(
        Postbox(),
        tls_context=context,
        require_starttls=True,
        authenticator=authenticate,
        auth_required=True,
        loop=asyncio.get_running_loop(),
    )


async def main():
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


asyncio.run(main())
