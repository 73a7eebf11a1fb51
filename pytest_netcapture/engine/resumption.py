"""TLS sessions with servers, used again: a resumed handshake costs half (RFC 8446 §2.2).

1. A session is offered to the name, and by the context, that it came from. A server that has no use
   for it shakes hands in full, and its certificate is verified anew.
2. Tickets arrive after the handshake (§4.6.1), so a connection is asked for its session when the
   next one is made. Asking costs as much as it saves, so a session is used until it is refused.
3. uvloop makes the `SSLObject` itself and knows no sessions, but it asks the context.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from typing import Any

_REMEMBERED = 256


class ResumingContext(ssl.SSLContext):
    """A client's context that resumes where it can."""

    def __init__(self, *_: Any) -> None:
        self._last: OrderedDict[str, ssl.SSLObject] = OrderedDict()
        self._sessions: dict[str, ssl.SSLSession] = {}

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        session = session or self._session(str(server_hostname))
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def connected(self, name: str, tls: ssl.SSLObject) -> None:
        """Note that a handshake with `name` is complete."""
        if tls.session_reused:
            return
        self._sessions.pop(name, None)
        self._last[name] = tls
        self._last.move_to_end(name)
        if len(self._last) > _REMEMBERED:
            forgotten, _ = self._last.popitem(last=False)
            self._sessions.pop(forgotten, None)

    def _session(self, name: str) -> ssl.SSLSession | None:
        session = self._sessions.get(name)
        if session is None and name in self._last:
            session = self._last[name].session
            if session is not None and session.has_ticket:
                self._sessions[name] = session
        return session
