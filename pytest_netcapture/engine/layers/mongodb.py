"""MongoDB: commands and their answers (its manual, "MongoDB Wire Protocol").

1. An exchange is a command; its session is the user and the database. What a session or a clock
   adds, and the `_id` that a driver makes up, does not identify it (mongodb_documents.py).
2. On replay identifiers that were made up stand for those of the recording, in both directions.
3. A driver asks `hello` when it connects, and then again and again on connections of its own. Only
   the first of a connection is an exchange when live. On replay it is answered whether or not it
   was recorded, as are logins and what closes sessions and cursors; a server that tells nothing of
   changes (topologyVersion) is asked every ten seconds only.
4. Of a login nothing is kept but who it was. On replay it is a login with a password that is known.
5. What has many answers (an exhaust cursor) is one exchange with all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from pytest_netcapture import mongodb_documents as documents
from pytest_netcapture.cassettes.miss import Miss, MissKind
from pytest_netcapture.engine.layers.layer import Context
from pytest_netcapture.engine.layers.ordered import Asked, Dialect, Part
from pytest_netcapture.engine.layers.scram import Scram
from pytest_netcapture.flows import MongoFlow, ServiceFlow
from pytest_netcapture.mongodb_messages import (
    QUERY,
    Message,
    Splitter,
    messages,
    read,
    replied,
    written,
)
from pytest_netcapture.unreadable import Unreadable

_HELLOS = frozenset(("hello", "isMaster", "ismaster"))
_LOGIN = frozenset(("saslStart", "saslContinue", "authenticate", "logout"))
_CLOSING = frozenset(("endSessions", "killCursors"))
_ALWAYS = _LOGIN | _CLOSING | {"hello"}
"""What is answered on replay whether or not it was recorded."""
_SPECULATION = "speculativeAuthenticate"
_ANY_PASSWORD = b"netcapture"
_NO_PASSWORD = (
    "the password of this login is not known, and the server has to prove that it knows it: "
    f'log in with "{_ANY_PASSWORD.decode()}", or name the password: an environment variable that '
    'is called like one, or filters={"values": [...]}'
)
_AUTHENTICATION_FAILED = 18
_HELLO = {
    "helloOk": True,
    "ismaster": True,
    "isWritablePrimary": True,
    "maxBsonObjectSize": 1 << 24,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
    "minWireVersion": 0,
    "maxWireVersion": 21,
    "readOnly": False,
}
_MOST = 1 << 16

_recorded: dict[bytes, bytes] = {}
"""Identifiers that were recorded, by those that clients have made up since."""
_made: dict[bytes, bytes] = {}
"""The other way round."""


def learn(before: bytes, now: bytes) -> None:
    """Take note of two identifiers that stand for each other."""
    for known, key, value in ((_recorded, now, before), (_made, before, now)):
        known[key] = value
        if len(known) > _MOST:
            del known[next(iter(known))]


class Mongodb(Dialect):
    """One connection."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._client, self._server = Splitter(), Splitter()
        self._user = ""
        self._greeted = False
        self._login: Scram | None = None
        self._proof = b""
        self._last = Message(0, 0, 0, False, b"")
        """What the client said last, or the server, while that is looked at."""
        self._numbers: deque[int] = deque()
        """Of the messages to which answers are to come."""
        self._apart: set[int] = set()
        """Of those whose answers are not kept."""

    # ── the client ───────────────────────────────────────────────────────────────────────────

    def asked(self, data: bytes) -> Iterator[Asked]:
        for whole in self._client.feed(data):
            self._last = message = read(whole)
            asked = self._command(message, documents.whole(message))
            if asked is not None:
                yield asked

    def _command(self, message: Message, command: dict[str, Any]) -> Asked | None:
        name = next(iter(command), "")
        if not name:
            raise Unreadable("a command without a name")
        database = command.get("$db", message.collection.partition(".")[0])
        if message.kind == QUERY and not message.collection.endswith(".$cmd"):
            raise Unreadable("a query of a server older than 3.6")
        if name in _HELLOS:
            again, self._greeted = self._greeted, True
            if again and self._context.has_server:
                self._apart.add(message.number)
                return None
            name = "hello"
        if name in _LOGIN:
            self._log_in(name, command)
        flow = self._flow(name, str(database))
        if name == "hello":
            flow.values = list(self._hello(command))
        elif name not in _LOGIN | _CLOSING:
            known = _as_it_is if self._context.has_server else _as_recorded
            flow.values, pairs = documents.values(command, known)
            if pairs:
                flow.notes["identifiers"] = pairs
        if not message.more:
            self._numbers.append(message.number)
        return Asked(flow, 0 if message.more else 1)

    def _flow(self, name: str, database: str) -> MongoFlow:
        endpoint = self._context.endpoint
        flow = MongoFlow(
            service="mongodb",
            host=endpoint.host,
            port=endpoint.port,
            session="" if name in _ALWAYS - _LOGIN else f"{self._user}@{database}",
            step="connect" if name in _ALWAYS | {"ping"} else "command",
            question=name,
        )
        if name in _ALWAYS:
            flow.notes["quiet"] = b"1"
        return flow

    def _hello(self, command: dict[str, Any]) -> Iterator[bytes]:
        """Tell a login from a look: what it asks is answered to it only."""
        if "saslSupportedMechs" in command:
            yield str(command["saslSupportedMechs"]).encode()
        login = command.get(_SPECULATION)
        if isinstance(login, dict):
            yield str(login.get("mechanism", "")).encode()
            self._log_in("saslStart", login)

    def _log_in(self, name: str, command: dict[str, Any]) -> None:
        payload = command.get("payload", b"")
        payload = payload if isinstance(payload, bytes) else b""
        if name == "saslStart":
            try:
                self._login = Scram(str(command.get("mechanism", "")), payload)
            except ValueError:
                self._login = None  # as PLAIN, which proves nothing to the client
                return
            self._user = self._login.user
        elif name == "saslContinue":
            self._proof = payload

    # ── the server ───────────────────────────────────────────────────────────────────────────

    def units(self, data: bytes) -> Iterator[bytes]:
        for whole in self._server.feed(data):
            self._last = message = read(whole)
            document = documents.whole(message)
            cleaned = _without_login(document)
            same = cleaned is document and not message.sequences
            kept = message.document if same else documents.encoded(cleaned)
            yield written(kept, more=message.more)

    def part(self, _unit: bytes, head: Asked | None) -> Part:
        message = self._last
        if message.answers in self._apart:
            self._apart.discard(message.answers)
            if message.more:
                self._apart.add(message.number)
            return Part.APART
        if head is None or not self._numbers or message.answers != self._numbers[0]:
            raise Unreadable("an answer to nothing")
        if message.more and head.flow.question != "hello":
            self._numbers[0] = message.number
            return Part.MORE
        if message.more:
            self._apart.add(message.number)
        self._numbers.popleft()
        return Part.LAST

    # ── replay ───────────────────────────────────────────────────────────────────────────────

    def answer(self, flow: ServiceFlow, recorded: ServiceFlow) -> bytes:
        for before, now in zip(_made_up(recorded), _made_up(flow), strict=False):
            learn(before, now)
        found = [documents.decoded(one.document) for one in messages(recorded.answer)]
        return self._said([self._fitted(flow, one) for one in found])

    def unrecorded(self, flow: ServiceFlow) -> bytes | None:
        if flow.question == "hello":
            return self._said([self._fitted(flow, {**_HELLO, "ok": 1.0})])
        if flow.question in _LOGIN | _CLOSING:
            return self._said([self._fitted(flow, {"ok": 1.0})])
        return None

    def refusal(self, _flow: ServiceFlow, text: str) -> bytes:
        return self._said([{"ok": 0.0, "errmsg": text, "code": 8, "codeName": "UnknownError"}])

    def _fitted(self, flow: ServiceFlow, document: dict[str, Any]) -> dict[str, Any]:
        """Return a document as this client has to be told it."""
        if flow.question == "hello":
            return self._greeting(flow, document)
        if flow.question in _LOGIN and document.get("ok"):
            return self._let_in(flow, document)
        return documents.with_identifiers(document, _as_made) if _made else document

    def _greeting(self, flow: ServiceFlow, document: dict[str, Any]) -> dict[str, Any]:
        document.pop("topologyVersion", None)
        if len(flow.values) > 0 and self._login is not None and _SPECULATION in document:
            document[_SPECULATION] = self._challenge()
        return document

    def _challenge(self) -> dict[str, Any]:
        assert self._login is not None
        return {"conversationId": 1, "done": False, "payload": self._login.challenge}

    def _let_in(self, flow: ServiceFlow, document: dict[str, Any]) -> dict[str, Any]:
        if self._login is None:
            return {"conversationId": 1, "done": True, "payload": b"", **document}
        if flow.question == "saslStart":
            return {**document, **self._challenge()}
        if flow.question != "saslContinue":
            return document
        proof = self._login.proof(self._proof, [*self._context.passwords(), _ANY_PASSWORD])
        if proof is not None or not self._proof:
            return {**document, "conversationId": 1, "done": True, "payload": proof or b""}
        self._context.unlike(flow, Miss(MissKind.NEVER, _NO_PASSWORD))
        failed = {"code": _AUTHENTICATION_FAILED, "codeName": "AuthenticationFailed"}
        return {"ok": 0.0, "errmsg": f"netcapture: {_NO_PASSWORD}", **failed}

    def _said(self, found: list[dict[str, Any]]) -> bytes:
        """Return documents as answers to what the client said last."""
        number, answers, parts = 1, self._last.number, []
        for document in found:
            data = documents.encoded(document)
            if self._last.kind == QUERY:
                parts.append(replied(data, number, answers))
            else:
                parts.append(written(data, number, answers, more=len(parts) < len(found) - 1))
            number, answers = number + 1, number
        return b"".join(parts)


def _made_up(flow: ServiceFlow) -> list[bytes]:
    """Return the identifiers that a client has made up for what it inserted."""
    pairs = documents.pairs_of(flow.notes.get("identifiers", b""))
    return [sent for kept, sent in pairs if kept == documents.MADE]


def _as_it_is(identifier: bytes) -> bytes:
    return identifier


def _as_recorded(identifier: bytes) -> bytes:
    return _recorded.get(identifier, identifier)


def _as_made(identifier: bytes) -> bytes:
    return _made.get(identifier, identifier)


def _without_login(document: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without what the two say to prove who they are."""
    if "payload" in document and "conversationId" in document:
        return {**document, "payload": b""}
    if isinstance(document.get(_SPECULATION), dict):
        return {**document, _SPECULATION: _without_login(document[_SPECULATION])}
    return document
