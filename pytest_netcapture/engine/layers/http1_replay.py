"""Write a recorded response as HTTP/1 (RFC 9112).

1. Fields go out verbatim and in order; only what would contradict the bytes that follow is changed:
   Content-Length when the length differs, Transfer-Encoding for an HTTP/1.0 client.
2. A chunked body is framed by its recorded chunks; content coding is applied again with a flush at
   each of them, so that a client that reads chunk by chunk sees what it saw.
3. The connection ends where it would have: Connection: close, HTTP/1.0, a body ended by the close.
4. A body larger than `WHOLE` is streamed; if it is coded, its length is found by coding it twice.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

from pytest_netcapture.engine.layers.http1_framing import bodyless
from pytest_netcapture.engine.layers.layer import Play
from pytest_netcapture.engine.layers.played_body import Pause, coded, paced, recorded_chunks
from pytest_netcapture.flows import Headers, HttpRequest, HttpResponse

WHOLE = 1 << 18
_KEPT, _KEPT_SIZE = 16, 1 << 14
_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@dataclass(slots=True)
class Answer:
    """What to send: `data`, then `stream`; then close or reset the connection if it says so."""

    data: bytes = b""
    stream: Iterator[bytes] | None = None
    closes: bool = False
    resets: bool = False


class Renderer:
    """Renders for one connection; what it answered whole it can answer again for less."""

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], tuple[HttpResponse, Answer]] = {}

    def render(
        self, request: HttpRequest, play: Play, *, asked: str = "", continued: bool = False
    ) -> Answer:
        """Return the answer that `play` gives.

        `asked` is the request's Connection field; `continued`: the client had its 100 already.
        """
        response = play.response
        kept_ever = response is not None and _is_kept(response)
        if response is None or play.error is not None or play.paced or not kept_ever:
            return _render(request, play, asked, continued)
        key = (id(response), request.method, request.http_version, asked, continued)
        kept = self._kept.get(key)
        if kept is not None:
            return kept[1]
        answer = _render(request, play, asked, continued)
        if len(self._kept) >= _KEPT:
            self._kept.clear()
        self._kept[key] = response, answer  # the response too, so that its id stays its own
        return answer


def _is_kept(response: HttpResponse) -> bool:
    """Tell whether an answer is small, and the same for each such request."""
    switching = response.status == HTTPStatus.SWITCHING_PROTOCOLS
    return response.body.size <= _KEPT_SIZE and not switching


def _render(request: HttpRequest, play: Play, asked: str, continued: bool) -> Answer:
    response = play.response
    answer = Answer()
    if response is not None:
        slow = play.paced and play.error is None and bool(response.body.gaps)
        answer = _respond(request, response, asked, continued, play.error is None, slow=slow)
    if play.error is not None:
        answer.closes = play.error.kind in ("eof", "malformed")
        answer.resets = not answer.closes and play.error.kind != "timeout"
    return answer


def _respond(
    request: HttpRequest,
    response: HttpResponse,
    asked: str,
    continued: bool,
    whole: bool,
    *,
    slow: bool,
) -> Answer:
    old = request.http_version == "1.0"
    fields, special = response.headers.fields, _special(response.headers)
    answered = special.get("connection", "")
    closes = "close" in asked or _closes(request, response, answered)
    interim = b"" if old else _interim(response, continued=continued)
    if response.status == HTTPStatus.SWITCHING_PROTOCOLS:
        fields = _accepted(request, response.headers).fields
    if bodyless(request.method, response.status):
        return Answer(interim + _head(response, fields), closes=closes)
    chunked = "chunked" in special.get("transfer-encoding", "")
    if chunked and not old:
        head = interim + _head(response, fields)
        pieces = _chunked(response, whole=whole, slow=slow)
        if slow:
            return Answer(head, pieces, closes=closes)
        return _sized(head, pieces, response.body.size, closes=closes)
    if chunked:
        fields = response.headers.replace("transfer-encoding", None).fields
    body = response.body
    if body.size <= WHOLE:
        data = b"".join(coded(body)) if body.coding or body.path else body.data
        length, pieces = len(data), iter((data,))
    else:
        length = sum(map(len, coded(body))) if body.coding else body.size
        pieces = coded(body)
    until_close = response.closes or chunked
    if whole and not until_close and special.get("content-length") != str(length):
        fields = Headers(fields).replace("content-length", str(length)).fields
    head = interim + _head(response, fields)
    return _sized(head, pieces, body.size, closes=closes or until_close)


def _accepted(request: HttpRequest, headers: Headers) -> Headers:
    """Answer this client's key, and leave out what it did not offer (RFC 6455 §4.2.2)."""
    key = request.headers.get("sec-websocket-key")
    if key is None:
        return headers
    text = key.strip().encode("latin-1") + _WEBSOCKET_GUID
    digest = hashlib.sha1(text, usedforsecurity=False).digest()
    headers = headers.replace("sec-websocket-accept", base64.b64encode(digest).decode())
    if "permessage-deflate" not in (request.headers.get("sec-websocket-extensions") or ""):
        headers = headers.replace("sec-websocket-extensions", None)
    return headers


def _sized(head: bytes, pieces: Iterator[bytes], size: int, *, closes: bool) -> Answer:
    if size <= WHOLE:
        return Answer(head + b"".join(pieces), closes=closes)
    return Answer(head, pieces, closes=closes)


def _chunked(response: HttpResponse, *, whole: bool, slow: bool = False) -> Iterator[bytes]:
    body = response.body
    uncut = coded(body, recorded_chunks(body) if body.chunks else None)
    for piece in paced(body) if slow else uncut:
        if isinstance(piece, Pause):
            yield piece
        elif piece:
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
    if whole:
        yield b"0\r\n" + _lines(response.trailers.fields) + b"\r\n"


def _head(response: HttpResponse, fields: list[tuple[str, str]]) -> bytes:
    version = response.http_version if response.http_version.startswith("1.") else "1.1"
    reason = response.reason
    if not reason and version != response.http_version:
        reason = _phrase(response.status)
    line = f"HTTP/{version} {response.status} {reason}\r\n"
    return line.encode("latin-1", "replace") + _lines(fields) + b"\r\n"


def _interim(response: HttpResponse, *, continued: bool) -> bytes:
    out = []
    for status, headers in response.interim:
        if status == HTTPStatus.CONTINUE and continued:
            continued = False
            continue
        line = f"HTTP/1.1 {status} {_phrase(status)}\r\n".encode("latin-1")
        out.append(line + _lines(headers.fields) + b"\r\n")
    return b"".join(out)


def _lines(fields: list[tuple[str, str]]) -> bytes:
    return "".join([f"{name}: {value}\r\n" for name, value in fields]).encode("latin-1", "replace")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _special(headers: Headers) -> dict[str, str]:
    return {name.lower(): value.lower() for name, value in headers.fields}


def _closes(request: HttpRequest, response: HttpResponse, connection: str) -> bool:
    if "close" in connection:
        return True
    old = request.http_version == "1.0" or response.http_version == "1.0"
    return old and "keep-alive" not in connection
