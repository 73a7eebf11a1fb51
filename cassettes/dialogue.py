"""A recorded exchange whose answer began before its request was complete, while it is played.

1. What the server said follows what of the request had come before it: whole messages of a gRPC
   call, bytes of anything else.
2. The messages of a gRPC call must be the recorded ones, in their order, compared as bodies are.
3. Of several recordings the first that begins with the client's first message is played, if the
   server had waited for that; else the first.

Proven by tests/engine/layers/test_dialogue.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_netcapture.cassettes.miss import Miss, MissKind
from pytest_netcapture.cassettes.nearest import protobuf_differences
from pytest_netcapture.cassettes.tags import bytes_without_tags
from pytest_netcapture.flows import FlowError, GrpcFlow, HttpFlow, HttpResponse
from pytest_netcapture.grpc_messages import Splitter

_ALL = 1 << 62
_RECORD = "record it again with --netcapture-record-mode=rewrite"


@dataclass
class Speech:
    """What the server says now: its `head` if it begins, `chunks`, and whether that is all."""

    head: HttpResponse | None = None
    chunks: list[bytes] = field(default_factory=list)
    ended: bool = False


class Dialogue:
    """Which recording it is may be open until the client has said something."""

    def __init__(
        self,
        candidates: list[HttpFlow],
        chosen: Callable[[int], None],
        scrub: Callable[[bytes], bytes],
    ) -> None:
        """Take recordings, and what is told the index of the one that is played."""
        self._candidates = candidates
        self._chosen = chosen
        self._scrub = scrub
        self._flow: HttpFlow | None = None
        self._expected: list[bytes] = []
        self._borders: list[int] = []
        self._chunks: list[bytes] = []
        self._heard = 0
        self._after: list[int] = []
        self._said = 0
        self._messages = 0
        encoding = candidates[0].request.headers.get("grpc-encoding") or ""
        self._splitter = Splitter(encoding) if isinstance(candidates[0], GrpcFlow) else None

    @property
    def response(self) -> HttpResponse | None:
        return self._flow.response if self._flow else None

    @property
    def error(self) -> FlowError | None:
        return self._flow.error if self._flow else None

    def begin(self) -> Speech:
        """Return what the server says before it was told anything."""
        response = self._candidates[0].response
        if self._splitter is None or (response and response.after[0] == 0):
            self._choose(0)
        return self._due()

    def heard(self, data: bytes, *, end: bool) -> Speech | Miss:
        """Take a piece of the request; `end` says that it was the last."""
        if self._splitter is None:
            self._heard += len(data)
        else:
            for message in self._splitter.feed(data):
                if miss := self._take(message):
                    return miss
        if end:
            if self._flow is None:
                self._choose(0)
            if self._messages < len(self._expected):
                said = f"{self._messages} of {len(self._expected)}"
                return self._miss(f"the client sent {said} messages", None)
            self._heard = _ALL
        return self._due()

    def _take(self, message: bytes) -> Miss | None:
        message = self._scrub(message)
        if self._flow is None:
            self._choose(self._like(message))
        self._messages += 1
        number = self._messages
        if number > len(self._expected):
            return self._miss(f"message {number} of the client is new", message)
        if bytes_without_tags(self._expected[number - 1]) != bytes_without_tags(message):
            return self._miss(f"message {number} of the client is not the recorded one", message)
        self._heard = self._borders[number - 1]
        return None

    def _miss(self, reason: str, actual: bytes | None) -> Miss:
        differences = []
        if actual is not None and self._messages <= len(self._expected):
            differences = protobuf_differences(self._expected[self._messages - 1], actual)
        return Miss(MissKind.NEVER, reason, self._flow, differences, _RECORD)

    def _like(self, message: bytes) -> int:
        for index, flow in enumerate(self._candidates):
            assert isinstance(flow, GrpcFlow)
            requests = flow.requests
            if requests and bytes_without_tags(requests[0].data) == bytes_without_tags(message):
                return index
        return 0

    def _choose(self, index: int) -> None:
        flow = self._flow = self._candidates[index]
        self._chosen(index)
        body = flow.response.body if flow.response else None
        if body is not None:
            self._chunks = _cut(body.content, body.chunks)
            self._after = flow.response.after if flow.response else []
        if isinstance(flow, GrpcFlow):
            self._expected = [message.data for message in flow.requests]
            self._borders = _borders(flow.request.content)

    def _due(self) -> Speech:
        """Return what follows what was heard so far."""
        speech = Speech()
        if self._flow is None or self._flow.response is None:
            return speech
        while self._said < len(self._after) and self._after[self._said] <= self._heard:
            if self._said == 0:
                speech.head = self._flow.response
            elif self._said <= len(self._chunks):
                speech.chunks.append(self._chunks[self._said - 1])
            else:
                speech.ended = True
            self._said += 1
        return speech


def _cut(content: bytes, sizes: list[int]) -> list[bytes]:
    if not sizes:
        return [content] if content else []
    out, position = [], 0
    for size in sizes:
        out.append(content[position : position + size])
        position += size
    return out


def _borders(body: bytes) -> list[int]:
    """Return where each gRPC message of `body` ends."""
    borders, position = [], 0
    while position + 5 <= len(body):
        position += 5 + int.from_bytes(body[position + 1 : position + 5], "big")
        if position <= len(body):
            borders.append(position)
    return borders
