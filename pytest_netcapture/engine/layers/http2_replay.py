"""Write a recorded response as HTTP/2 (RFC 9113 §8).

1. A body goes out in the pieces in which it came, content coding applied again to each.
2. Fields are as recorded, but for those that belong to an HTTP/1 connection, and a Content-Length
   that the bytes would contradict.
3. A recorded failure is a reset of this stream; after a time-out, or where the client itself had
   given up, nothing more comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pytest_netcapture.engine.layers.http1_framing import bodyless
from pytest_netcapture.engine.layers.http2_channel import Fields
from pytest_netcapture.engine.layers.http2_fields import to_raw
from pytest_netcapture.engine.layers.http2_frames import Code
from pytest_netcapture.engine.layers.layer import Play
from pytest_netcapture.engine.layers.played_body import coded, paced, recorded_chunks
from pytest_netcapture.flows import Body, FlowError, HttpRequest, HttpResponse

CONTINUE = 100
BY_CLIENT = "by the client"
"""The detail of a reset that was the client's own."""
_CODES = {"malformed": Code.PROTOCOL_ERROR}


@dataclass(slots=True)
class Answer:
    """Header sections to send, then `body`, then `trailers`; then the end, `reset`, or nothing."""

    sections: list[Fields] = field(default_factory=list)
    body: Iterator[bytes] | None = None
    trailers: Fields | None = None
    reset: int | None = None
    hangs: bool = False

    @property
    def ends_with_headers(self) -> bool:
        return self.body is None and self.trailers is None and self.reset is None and not self.hangs


def render(request: HttpRequest, play: Play, *, continued: bool = False) -> Answer:
    """Return the answer that `play` gives; `continued`: the client had its 100 already."""
    answer = Answer()
    if play.response is not None:
        slow = play.paced and bool(play.response.body.gaps)
        _respond(answer, request, play.response, continued=continued, slow=slow)
    if play.error is not None:
        answer.hangs = play.error.kind == "timeout" or play.error.detail == BY_CLIENT
        answer.reset = None if answer.hangs else _code(play.error)
        answer.trailers = None
    return answer


def _respond(
    answer: Answer, request: HttpRequest, response: HttpResponse, *, continued: bool, slow: bool
) -> None:
    for status, headers in response.interim:
        if status == CONTINUE and continued:
            continued = False
        else:
            answer.sections.append(_section(status, headers.fields))
    body, fields = response.body, response.headers
    if body.size and not bodyless(request.method, response.status):
        declared = fields.get("content-length")
        length = sum(map(len, _pieces(body))) if declared and body.coding else body.size
        if declared and declared != str(length):
            fields = fields.replace("content-length", str(length))
        answer.body = paced(body) if slow else _pieces(body)
    answer.sections.append(_section(response.status, fields.fields))
    if response.trailers.fields:
        answer.trailers = to_raw(response.trailers.fields)


def _pieces(body: Body) -> Iterator[bytes]:
    return coded(body, recorded_chunks(body) if body.chunks else None)


def _section(status: int, fields: list[tuple[str, str]]) -> Fields:
    return [(b":status", b"%d" % status), *to_raw(fields)]


def _code(error: FlowError) -> int:
    if error.code is not None:
        return error.code
    return _CODES.get(error.kind, Code.INTERNAL_ERROR)
