"""Exchanges out of what other tools keep of them: URL, pairs of header fields, bytes.

1. Content is decoded if it is in the coding that Content-Encoding says. Browsers keep the field
   beside content that they have decoded: then, too, replay codes it again.
2. What cannot be understood is a `CassetteError` that names file, entry and cure.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pytest_netcapture.engine.codings import CodingError, decoder
from pytest_netcapture.errors import CassetteError
from pytest_netcapture.flows import (
    Body,
    GrpcFlow,
    Headers,
    HttpFlow,
    HttpRequest,
    HttpResponse,
    Message,
    WebSocketFlow,
    WebSocketMessage,
    is_grpc,
)

_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_HTTP = {"ws": "http", "wss": "https"}


class Kept(NamedTuple):
    """What another tool keeps of a message: fields, content, HTTP version."""

    headers: Iterable[tuple[str, str]]
    body: bytes = b""
    version: str = "1.1"


class Place:
    """Where in a foreign file something is, for what is said about it."""

    def __init__(self, path: str, entry: str = "") -> None:
        self.path = path
        self.entry = entry

    def at(self, entry: str) -> Place:
        return Place(self.path, entry)

    def error(self, problem: str, cure: str = "correct the file, or leave it out") -> CassetteError:
        where = f"{self.path}, {self.entry}" if self.entry else self.path
        return CassetteError(f"{where}: {problem}", cure=cure)


def request_of(place: Place, method: Any, url: Any, kept: Kept) -> HttpRequest:
    """Return a request. Raises `CassetteError` for a URL that is none."""
    if not isinstance(method, str) or not method:
        raise place.error(f"the method {method!r} is none")
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in _PORTS:
        raise place.error(f"{url!r} is no URL of http or https")
    fields = Headers([pair for pair in kept.headers if not pair[0].startswith(":")])
    if "host" not in fields:
        fields = Headers([("Host", parts.netloc.rpartition("@")[2]), *fields])
    fields, content = _decoded(fields, kept.body)
    return HttpRequest(
        method=method,
        scheme=_HTTP.get(parts.scheme, parts.scheme),
        host=host,
        port=port or _PORTS[parts.scheme],
        target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        http_version=kept.version,
        headers=fields,
        body=content,
    )


def response_of(place: Place, status: Any, reason: Any, kept: Kept) -> HttpResponse:
    """Return a response. Raises `CassetteError` for a status that is none."""
    if isinstance(status, bool) or not isinstance(status, int) or not 100 <= status <= 999:
        raise place.error(f"the status {status!r} is none")
    fields = Headers([pair for pair in kept.headers if not pair[0].startswith(":")])
    fields, content = _decoded(fields, kept.body)
    return HttpResponse(
        status=status,
        reason=reason if isinstance(reason, str) else _phrase(status),
        http_version=kept.version,
        headers=fields,
        body=content,
    )


def exchange_of(request: HttpRequest, response: HttpResponse | None) -> HttpFlow:
    kind = GrpcFlow if is_grpc(request.headers) else HttpFlow
    return kind(host=request.host, port=request.port, request=request, response=response)


def websocket_of(
    request: HttpRequest, response: HttpResponse, messages: list[WebSocketMessage]
) -> WebSocketFlow:
    return WebSocketFlow(
        host=request.host,
        port=request.port,
        request=request,
        response=response,
        messages=messages,
    )


def decoded_fields(message: Message) -> Headers:
    """Return the header fields of a message whose content is neither coded nor in chunks."""
    fields = message.headers.replace("transfer-encoding", None)
    if message.body.coding:
        fields = fields.replace("content-encoding", None)
        if "content-length" in fields:
            fields = fields.replace("content-length", str(message.body.size))
    return fields


def _decoded(headers: Headers, body: bytes) -> tuple[Headers, Body]:
    coding = headers.get("content-encoding") or ""
    remover = decoder(coding) if body else None
    if remover is None:
        return headers, Body(len(body), body)
    try:
        data = b"".join(remover.feed(body))
        remover.finish()
    except CodingError:
        return headers, Body(len(body), body, coding=coding)
    return headers, Body(len(data), data, coding=coding)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
