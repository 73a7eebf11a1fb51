"""SMTP: a mail and what is said around it (RFC 5321), over TLS if a client asks (RFC 3207).

1. The server speaks first. Its greeting is an exchange, and so is each command; what sets a session
   up (EHLO, AUTH, STARTTLS, NOOP, RSET, QUIT) is of the step "connect", without its arguments:
   they name the client, or are a password.
2. A mail is an exchange of its own: its values are the envelope, `sent` is its content as sent.
3. Until a client says more than hello, its sockets are the opener's (clear_text.py): after a
   STARTTLS that is agreed to, TLS begins there as on any other connection.
4. BDAT and anything that is no command is relayed. FTP, which greets alike, is therefore too.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_netcapture.engine.layers.layer import Context
from pytest_netcapture.engine.layers.ordered import Asked, Dialect, OrderedLayer, Part
from pytest_netcapture.flows import MailFlow, ServiceFlow
from pytest_netcapture.unreadable import LIMIT, Unreadable

_HELLOS = frozenset((b"EHLO", b"HELO", b"LHLO"))
_SET_UP = _HELLOS | frozenset((b"AUTH", b"STARTTLS", b"NOOP", b"RSET", b"QUIT", b"VRFY", b"HELP"))
_COMMANDS = frozenset((b"MAIL", b"RCPT", b"DATA"))
_LONGEST_LINE = 1 << 16
_END = b"\r\n.\r\n"
_GO_ON, _CONTINUE, _AGREED = b"354", b"334", b"220"
RESPONSE = "(response)"


class SmtpLayer(OrderedLayer):
    """A connection, which may change to TLS before it has said more than hello."""

    def __init__(self, context: Context) -> None:
        self.smtp = Smtp(context)
        super().__init__(context, self.smtp)


def greets_like_smtp(data: bytes) -> bool:
    return data.startswith((b"220 ", b"220-"))


class Smtp(Dialect):
    """One connection."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._client, self._server = b"", b""
        self._authenticates = self._writes = False
        self._sender = ""
        self._recipients: list[str] = []
        self.encrypts = False
        """Whether TLS is to begin now."""
        self.beyond = False
        """Whether the client has said more than hello."""
        self.said: list[bytes] = []
        """The client's lines so far, to say them to another server."""

    def greeting(self) -> Asked | None:
        if self._context.endpoint.tls:
            return None
        flow = self._flow("greeting", "")
        flow.notes["speaks"] = b"1"
        return Asked(flow)

    def _flow(self, step: str, question: str) -> MailFlow:
        endpoint = self._context.endpoint
        return MailFlow(
            service="smtp",
            host=endpoint.host,
            port=endpoint.port,
            step=step,
            question=question,
            form="tls" if endpoint.tls else "",
        )

    # ── the client ───────────────────────────────────────────────────────────────────────────

    def asked(self, data: bytes) -> Iterator[Asked]:
        self._client += data
        while self._client:
            if self._writes:
                end = self._client.find(_END)
                if self._client.startswith(_END[2:]):
                    end = -2
                if end == -1:
                    break
                content, self._client = self._client[: max(end + 2, 0)], self._client[end + 5 :]
                yield self._mail(content)
                continue
            line, end_of_line, rest = self._client.partition(b"\r\n")
            if not end_of_line:
                if len(self._client) > _LONGEST_LINE:
                    raise Unreadable("a line without its end")
                break
            self._client = rest
            yield self._line(line)
        if len(self._client) > LIMIT:
            raise Unreadable(f"a mail of more than {LIMIT} bytes")

    def _line(self, line: bytes) -> Asked:
        if self._authenticates:
            return Asked(self._flow("connect", RESPONSE))
        words = line.split(None, 2)
        name = words[0].upper() if words else b""
        self.beyond = self.beyond or name not in _HELLOS | {b"STARTTLS", b"NOOP"}
        self.said.append(line + b"\r\n")
        if name == b"AUTH":
            how = words[1].decode("latin-1").upper() if len(words) > 1 else ""
            return Asked(self._flow("connect", f"AUTH {how}"))
        if name in _SET_UP:
            return Asked(self._flow("connect", name.decode()))
        if name in _COMMANDS:
            return Asked(self._flow("command", self._envelope(name, line)))
        raise Unreadable(f"the command {name[:20]!r} is not known")

    def _envelope(self, name: bytes, line: bytes) -> str:
        text = (name + line[len(name) :]).decode("utf-8", "surrogateescape").rstrip()
        address = text.partition("<")[2].partition(">")[0]
        if name == b"MAIL":
            self._sender, self._recipients = address, []
            return f"MAIL FROM:<{address}>"  # SIZE= and the like vary with the content
        if name == b"RCPT":
            self._recipients.append(address)
        return text

    def _mail(self, content: bytes) -> Asked:
        self._writes = False
        flow = self._flow("message", "")
        envelope = [self._sender, *self._recipients]
        flow.values = [one.encode("utf-8", "surrogateescape") for one in envelope]
        flow.sent = b"\n".join(
            one[1:] if one.startswith(b"..") else one for one in content.split(b"\r\n")
        )
        return Asked(flow)

    # ── the server ───────────────────────────────────────────────────────────────────────────

    def units(self, data: bytes) -> Iterator[bytes]:
        self._server += data
        while b"\r\n" in self._server:
            line, _, self._server = self._server.partition(b"\r\n")
            yield line + b"\r\n"
        if len(self._server) > _LONGEST_LINE:
            raise Unreadable("a line without its end")

    def part(self, unit: bytes, head: Asked | None) -> Part:
        if not unit[:3].isdigit() or unit[3:4] not in (b" ", b"-", b"\r"):
            raise Unreadable(f"no reply: {unit[:20]!r}")
        if head is None:
            return Part.APART  # as a 421, before the server ends the connection
        return Part.MORE if unit[3:4] == b"-" else Part.LAST

    def told(self, flow: ServiceFlow) -> None:
        code = flow.answer[:3]
        if flow.question == "DATA":
            self._writes = code == _GO_ON
        elif flow.question.startswith("AUTH ") or flow.question == RESPONSE:
            self._authenticates = code == _CONTINUE
        elif flow.question == "STARTTLS":
            self.encrypts = code == _AGREED

    # ── replay ───────────────────────────────────────────────────────────────────────────────

    def refusal(self, _flow: ServiceFlow, text: str) -> bytes:
        line = text.encode("ascii", "replace").replace(b"\r", b" ").replace(b"\n", b" ")
        return b"554 " + line + b"\r\n"
