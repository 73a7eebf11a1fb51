"""vcrpy's cassettes, YAML and JSON, of all versions; and cassetter's, which look alike.

1. YAML is read by a loader that knows data only: a tag that stands for a Python object is refused,
   but for the few harmless ones that vcrpy has written (text, tuples, BytesIO).
2. Header values and bodies must be plain: nothing nested is spelled out, so a file full of aliases
   costs no more than its size.
3. Written are files of version 1, as vcrpy 2 and later read them; content is decoded, as with
   its decode_compressed_response. What is no finished HTTP exchange is left out.

Proven by tests/interchange/test_vcr.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Any

import msgspec

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.flows import (
    AnyFlow,
    Headers,
    HttpFlow,
    WebSocketFlow,
    WebSocketMessage,
)
from pytest_netcapture.interchange.building import (
    Kept,
    Place,
    decoded_fields,
    exchange_of,
    request_of,
    response_of,
    websocket_of,
)

_MILLISECOND = 1_000_000
_TAG = "tag:yaml.org,2002:python/"
_KINDS = {"text": "text", "binary": "binary", "ping": "ping", "pong": "pong", "close": "close"}


def read(text: bytes, path: str) -> Iterator[HttpFlow]:
    """Yield the exchanges of a file. Raises `CassetteError`, `EnvironmentProblem`."""
    place = Place(path)
    data = _parsed(text, place)
    found = data.get("interactions") if isinstance(data, dict) else data
    sockets = data.get("ws_interactions") if isinstance(data, dict) else None
    if not isinstance(found, list) and not isinstance(sockets, list):
        raise place.error("it has no interactions", "give a cassette of vcrpy's or cassetter's")
    for number, one in enumerate(found or [], 1):
        yield _exchange(one, place.at(f"interaction {number}"))
    for number, one in enumerate(sockets or [], 1):
        yield _websocket(one, place.at(f"WebSocket {number}"))


def write(flows: Iterable[AnyFlow]) -> tuple[str, int]:
    """Return a YAML file of version 1, and how many flows it has no place for."""
    interactions, left = [], 0
    for flow in flows:
        if not isinstance(flow, HttpFlow) or isinstance(flow, WebSocketFlow) or not flow.response:
            left += 1
            continue
        request, response = flow.request, flow.response
        body = _spelled(request.content) if request.body else None
        interactions.append(
            {
                "request": {
                    "body": body,
                    "headers": _lists(decoded_fields(request)),
                    "method": request.method,
                    "uri": request.url,
                },
                "response": {
                    "body": {"string": _spelled(response.content)},
                    "headers": _lists(decoded_fields(response)),
                    "status": {"code": response.status, "message": response.reason},
                },
            }
        )
    yaml = _yaml()
    data = {"interactions": interactions, "version": 1}
    return str(yaml.dump(data, Dumper=_dumper(yaml), sort_keys=False, allow_unicode=True)), left


# Reading


def _parsed(text: bytes, place: Place) -> Any:
    if text.lstrip()[:1] in (b"{", b"["):
        try:
            return json.loads(text)
        except ValueError:
            pass  # YAML may begin so, too
    yaml = _yaml()
    try:
        return yaml.load(text, Loader=_loader(yaml))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise place.error(f"not to be read as YAML: {problem}") from None


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        raise EnvironmentProblem(
            "vcrpy's files are read and written with PyYAML, which is not installed",
            cure="pip install 'pytest-netcapture[vcr]'",
        ) from None
    return yaml


def _loader(yaml: Any) -> Any:
    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """Data, and the objects that vcrpy has written."""

    def text(loader: Any, node: Any) -> Any:
        return loader.construct_scalar(node)

    def row(loader: Any, node: Any) -> Any:
        return loader.construct_sequence(node, deep=True)

    def first_of(key: str) -> Any:
        def construct(loader: Any, node: Any) -> Any:
            found = loader.construct_mapping(node, deep=True).get(key)
            return found[0] if isinstance(found, list) and found else b""

        return construct

    def pairs(loader: Any, node: Any) -> Any:
        if isinstance(node, yaml.SequenceNode):  # frozenset of pairs
            return dict((loader.construct_sequence(node, deep=True) or [[]])[0])
        return loader.construct_mapping(node, deep=True)

    for tag in ("str", "unicode"):
        Loader.add_constructor(_TAG + tag, text)
    Loader.add_constructor(_TAG + "tuple", row)
    Loader.add_constructor(_TAG + "object/new:_io.BytesIO", first_of("state"))
    Loader.add_constructor(_TAG + "object/apply:builtins.iter", first_of("args"))
    Loader.add_constructor(_TAG + "object/apply:__builtin__.frozenset", pairs)
    Loader.add_constructor(_TAG + "object:vcr.request.Request", pairs)
    return Loader


def _exchange(one: Any, place: Place) -> HttpFlow:
    asked, told = _part(one, "request", place), _part(one, "response", place)
    url = asked.get("uri") or asked.get("url") or _old_url(asked)
    kept = Kept(_fields(asked.get("headers"), place), _content(asked.get("body"), place))
    request = request_of(place, asked.get("method"), url, kept)
    status: Any = told.get("status", told.get("status_code"))
    reason: Any = None
    if isinstance(status, dict):
        status, reason = status.get("code"), status.get("message")
    body = told.get("body", told.get("content"))
    kept = Kept(_fields(told.get("headers"), place), _content(body, place))
    return exchange_of(request, response_of(place, status, reason, kept))


def _part(one: Any, name: str, place: Place) -> dict[str, Any]:
    part: Any = one.get(name) if isinstance(one, dict) else None
    if not isinstance(part, dict):
        raise place.error(f"it has no {name}")
    return part


def _old_url(asked: Mapping[str, Any]) -> str:
    """Return the URL of a request from before version 1: protocol, host, port, path."""
    scheme, host, port = (asked.get(name) for name in ("protocol", "host", "port"))
    if not isinstance(scheme, str) or not isinstance(host, str):
        return ""
    return f"{scheme}://{host}{f':{port}' if port else ''}{asked.get('path') or '/'}"


def _fields(headers: Any, place: Place) -> Iterator[tuple[str, str]]:
    """Yield header fields of a mapping (to a value or a list of them) or a list of lines."""
    if isinstance(headers, list):
        for line in headers:
            name, colon, value = _text(line, place).partition(":")
            if not colon:
                raise place.error(f"the header line {line!r} has no colon")
            yield name.strip(), value.strip()
        return
    if not isinstance(headers, dict | None):
        raise place.error("its headers are neither a mapping nor a list")
    for name, values in (headers or {}).items():
        for value in values if isinstance(values, (list, tuple)) else [values]:
            yield _text(name, place), _text(value, place)


def _text(value: Any, place: Place) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if value is None or isinstance(value, (str, bool, int, float, date)):
        return "" if value is None else str(value)
    raise place.error(f"a {type(value).__name__} stands where text is due")


def _content(body: Any, place: Place) -> bytes:
    """Return a body: text, bytes, or a mapping that says how it is kept."""
    if isinstance(body, dict):
        if isinstance(kind := body.get("type"), str):
            return _typed(kind, body.get("content"), place)
        if "base64_string" in body:
            return _base64(_text(body["base64_string"], place), place)
        body = body.get("string")
    if isinstance(body, bytes):
        return body
    return _text(body, place).encode("utf-8", "surrogateescape")


def _typed(kind: str, content: Any, place: Place) -> bytes:
    """Return a body as cassetter keeps it."""
    if kind == "none" or content is None:
        return b""
    if kind == "json":
        try:
            return msgspec.json.encode(content)
        except (TypeError, ValueError, RecursionError) as error:
            raise place.error(f"its JSON body is none: {error}") from None
    if kind == "binary":
        try:
            return bytes.fromhex(_text(content, place))
        except ValueError:
            raise place.error("its binary body is not in hex") from None
    return _text(content, place).encode()


def _base64(text: str, place: Place) -> bytes:
    import base64

    try:
        return base64.b64decode(text)
    except ValueError:
        raise place.error("its body is not in base64") from None


def _websocket(one: Any, place: Place) -> WebSocketFlow:
    if not isinstance(one, dict) or not isinstance(one.get("frames"), list):
        raise place.error("it has no frames")
    request = request_of(place, "GET", one.get("uri"), Kept(_fields(one.get("headers"), place)))
    for name, value in (("Connection", "Upgrade"), ("Upgrade", "websocket")):
        request.headers = request.headers.replace(name, value)
    upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
    response = response_of(place, 101, None, Kept(upgrade))
    messages = []
    for frame in one["frames"]:
        kind = _KINDS.get(frame.get("frame_type", "")) if isinstance(frame, dict) else None
        if kind is None:
            raise place.error(f"the frame {str(frame)[:60]} is of no known type")
        at = frame.get("offset_ms")
        messages.append(
            WebSocketMessage(
                sent=frame.get("direction") == "send",
                kind=kind,
                data=_content(frame.get("body"), place),
                time=int(at * _MILLISECOND) if isinstance(at, (int, float)) else 0,
            )
        )
    return websocket_of(request, response, messages)


# Writing


def _dumper(yaml: Any) -> Any:
    return getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def _spelled(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _lists(headers: Headers) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for name, value in headers:
        out.setdefault(name, []).append(value)
    return out
