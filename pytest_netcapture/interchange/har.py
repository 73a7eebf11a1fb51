"""HAR 1.2 (the HTTP Archive of browsers' network panels), out and in.

1. Content is decoded, text as it is and anything else in base64. `bodySize` is -1: how many bytes
   went over the wire is not known.
2. A WebSocket's messages stand where Chrome and Playwright put them: `_webSocketMessages`.
3. A cassette holds no clock: its exchanges are as of the day of the recording.
4. What is no HTTP exchange has no place in a HAR, and is left out.

Proven by tests/interchange/test_har.py.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterable, Iterator
from http.cookies import CookieError, SimpleCookie
from importlib.metadata import version
from typing import Any, TypeAlias

import msgspec

from pytest_netcapture.flows import (
    AnyFlow,
    Headers,
    HttpFlow,
    HttpRequest,
    HttpResponse,
    WebSocketFlow,
    WebSocketMessage,
)
from pytest_netcapture.interchange.building import (
    Kept,
    Place,
    exchange_of,
    request_of,
    response_of,
    websocket_of,
)

_SPELLED = {"1.0": "HTTP/1.0", "1.1": "HTTP/1.1", "2": "HTTP/2.0", "3": "HTTP/3.0"}
_VERSIONS = {"http/1.0": "1.0", "http/2": "2", "http/2.0": "2", "h2": "2"} | {
    "http/3": "3",
    "http/3.0": "3",
    "h3": "3",
}
_OPCODES = {"text": 1, "binary": 2, "close": 8, "ping": 9, "pong": 10}
_KINDS = {code: kind for kind, code in _OPCODES.items()}
_SECOND = 1_000_000_000

Json: TypeAlias = dict[str, Any]


def write(flows: Iterable[AnyFlow], began: dt.datetime, clock: int = 0) -> tuple[bytes, int]:
    """Return a HAR file, and how many flows it has no place for.

    `began` is when the flows' own clock was at `clock` nanoseconds.
    """
    entries, left = [], 0
    for flow in flows:
        if isinstance(flow, HttpFlow):
            offset = max(0, flow.started - clock) if flow.started else 0
            entries.append(_entry(flow, began + dt.timedelta(microseconds=offset / 1000)))
        else:
            left += 1
    creator = {"name": "pytest-netcapture", "version": version("pytest-netcapture")}
    log = {"version": "1.2", "creator": creator, "pages": [], "entries": entries}
    return msgspec.json.format(msgspec.json.encode({"log": log}), indent=1), left


def _entry(flow: HttpFlow, started: dt.datetime) -> Json:
    took = max(0, flow.ended - flow.started) / 1e6 if flow.started and flow.ended else 0
    response = flow.response or HttpResponse(status=0)
    entry: Json = {
        "startedDateTime": started.isoformat(timespec="milliseconds"),
        "time": took,
        "request": _request(flow.request),
        "response": _response(response, flow.error.kind if flow.error else ""),
        "cache": {},
        "timings": {"send": 0, "wait": took, "receive": 0},
    }
    if flow.address:
        entry["serverIPAddress"] = flow.address[0]
    if flow.process.name:
        entry["comment"] = f"by {flow.process.name}"
    if isinstance(flow, WebSocketFlow):
        entry["_resourceType"] = "websocket"
        entry["_webSocketMessages"] = [_message(m, started) for m in flow.messages]
    return entry


def _request(request: HttpRequest) -> Json:
    out: Json = {
        "method": request.method,
        "url": request.url,
        "httpVersion": _SPELLED.get(request.http_version, "HTTP/1.1"),
        "cookies": _cookies(request.headers.get_all("cookie")),
        "headers": _pairs(request.headers),
        "queryString": [{"name": name, "value": value} for name, value in request.params],
        "headersSize": -1,
        "bodySize": -1,
    }
    if request.body:
        media_type = request.headers.get("content-type") or ""
        text = {f"_{k}" if k == "encoding" else k: v for k, v in _text(request.content).items()}
        out["postData"] = {"mimeType": media_type, **text}
        if "urlencoded" in media_type:
            out["postData"]["params"] = [{"name": n, "value": v} for n, v in request.form]
    return out


def _response(response: HttpResponse, error: str) -> Json:
    content = {"size": response.body.size, "mimeType": response.headers.get("content-type") or ""}
    if response.body:
        content |= _text(response.content)
    out: Json = {
        "status": response.status,
        "statusText": response.reason,
        "httpVersion": _SPELLED.get(response.http_version, "HTTP/1.1"),
        "cookies": _cookies(response.headers.get_all("set-cookie")),
        "headers": _pairs(response.headers),
        "content": content,
        "redirectURL": response.headers.get("location") or "",
        "headersSize": -1,
        "bodySize": -1,
    }
    return out | ({"_error": error} if error else {})


def _message(message: WebSocketMessage, started: dt.datetime) -> Json:
    text = message.text if message.kind == "text" else base64.b64encode(message.data).decode()
    return {
        "type": "send" if message.sent else "receive",
        "time": started.timestamp() + message.time / _SECOND,
        "opcode": _OPCODES[message.kind],
        "data": text,
    }


def _text(data: bytes) -> Json:
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"text": base64.b64encode(data).decode(), "encoding": "base64"}


def _pairs(headers: Headers) -> list[Json]:
    return [{"name": name, "value": value} for name, value in headers]


def _cookies(values: list[str]) -> list[Json]:
    cookies: list[Json] = []
    for value in values:
        jar: SimpleCookie = SimpleCookie()
        try:
            jar.load(value)
        except CookieError:
            continue
        cookies += [{"name": name, "value": morsel.value} for name, morsel in jar.items()]
    return cookies


# Reading


def read(text: bytes, path: str) -> Iterator[HttpFlow]:
    """Yield the exchanges of a file. Raises `CassetteError`."""
    place = Place(path)
    try:
        data = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise place.error(f"not to be read as JSON: {error}") from None
    entries = _get(_get(data, "log", dict, place), "entries", list, place)
    for number, entry in enumerate(entries, 1):
        yield _exchange(entry, place.at(f"entry {number}"))


def _exchange(entry: Any, place: Place) -> HttpFlow:
    asked = _get(entry, "request", dict, place)
    told = _get(entry, "response", dict, place)
    posted = _posted(asked.get("postData"), place)
    kept = Kept(_fields(asked, place), posted, _version(asked))
    request = request_of(place, asked.get("method"), asked.get("url"), kept)
    if not told.get("status"):
        return exchange_of(request, None)
    content = told.get("content")
    body = _content(content if isinstance(content, dict) else {}, place)
    kept = Kept(_fields(told, place), body, _version(told))
    response = response_of(place, told["status"], told.get("statusText"), kept)
    found = entry.get("_webSocketMessages")
    if isinstance(found, list):
        return _websocket(request, response, found, place)
    return exchange_of(request, response)


def _websocket(
    request: HttpRequest, response: HttpResponse, found: list[Any], place: Place
) -> WebSocketFlow:
    messages = []
    first = None
    for one in found:
        kind = _KINDS.get(one.get("opcode", 0)) if isinstance(one, dict) else None
        if kind is None or not isinstance(one.get("data"), str):
            raise place.error(f"the WebSocket message {str(one)[:60]} is none")
        data = one["data"].encode() if kind == "text" else _base64(one["data"], place)
        time = one.get("time")
        at = float(time) if isinstance(time, (int, float)) else 0.0
        first = at if first is None else first
        since = int(max(0.0, at - first) * _SECOND)
        sent = one.get("type") == "send"
        messages.append(WebSocketMessage(sent=sent, kind=kind, data=data, time=since))
    return websocket_of(request, response, messages)


def _get(data: Any, name: str, kind: type, place: Place) -> Any:
    found = data.get(name) if isinstance(data, dict) else None
    if not isinstance(found, kind):
        raise place.error(f"it has no {name!r}", "give a file in the format HAR 1.2")
    return found


def _fields(message: Json, place: Place) -> Iterator[tuple[str, str]]:
    for field in _get(message, "headers", list, place):
        pair = [field.get(key) for key in ("name", "value")] if isinstance(field, dict) else [None]
        if not all(isinstance(part, str) for part in pair):
            raise place.error(f"the header field {str(field)[:60]} is none")
        for value in str(pair[1]).split("\n"):  # Chrome joins fields of one name so
            yield str(pair[0]), value


def _version(message: Json) -> str:
    return _VERSIONS.get(str(message.get("httpVersion") or "").lower(), "1.1")


def _posted(posted: Any, place: Place) -> bytes:
    if not isinstance(posted, dict):
        return b""
    if isinstance(posted.get("text"), str) and posted["text"]:
        return _content(posted, place)
    from urllib.parse import urlencode

    params = posted.get("params")
    found = [p for p in params if isinstance(p, dict)] if isinstance(params, list) else []
    return urlencode([(str(p.get("name")), str(p.get("value", ""))) for p in found]).encode()


def _content(content: Json, place: Place) -> bytes:
    text = content.get("text")
    if not isinstance(text, str):
        return b""
    if "base64" in (content.get("encoding"), content.get("_encoding")):
        return _base64(text, place)
    return text.encode("utf-8", "surrogatepass")


def _base64(text: str, place: Place) -> bytes:
    try:
        return base64.b64decode(text)
    except ValueError:
        raise place.error("its content is not in base64") from None
