"""What a test's requests come to, as plain data that is the same in every run.

1. Values that differ by their nature (dates, uuids, tokens) become `<uuid>`, by their shape; values
   of fields whose names say secret become `<secret>`.
2. It is lists, dicts, text and numbers only, so `==`, inline-snapshot and syrupy take it as it is.

Proved by tests/test_snapshots.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from pytest_netcapture.cassettes.names import is_secret_name
from pytest_netcapture.cassettes.volatile import volatile_kind
from pytest_netcapture.flows import HttpFlow, HttpRequest

_LONGEST = 4096


def snapshot(flows: Iterable[HttpFlow], headers: Iterable[str], mask: bool) -> list[dict[str, Any]]:
    """Return a dict for each request: method, url, query and the body, as far as there are any."""
    names = [name.lower() for name in headers]
    return [_request(flow.request, names, mask) for flow in flows]


def _request(request: HttpRequest, names: list[str], mask: bool) -> dict[str, Any]:
    url = request.url.partition("?")[0]
    found: dict[str, Any] = {"method": request.method, "url": _path(url) if mask else url}
    if request.params:
        found["query"] = _several(request.params, mask)
    told = {name: request.headers.get(name) for name in names}
    if given := {name: value for name, value in told.items() if value is not None}:
        found["headers"] = _masked(given) if mask else given
    if request.body.size:
        found |= _body(request, mask)
    return found


def _body(request: HttpRequest, mask: bool) -> dict[str, Any]:
    if request.body.size > _LONGEST * 256:
        return {"body": f"<{request.body.size} bytes>"}
    kind = (request.headers.get("content-type") or "").partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        return {"form": _several(request.form, mask)}
    try:
        document = request.json()
    except msgspec.DecodeError:
        return {"body": _text(request)}
    return {"json": _masked(document) if mask else document}


def _text(request: HttpRequest) -> str:
    try:
        return request.content[:_LONGEST].decode()
    except UnicodeDecodeError:
        return f"<{request.body.size} bytes>"


def _several(pairs: Iterable[tuple[str, str]], mask: bool) -> dict[str, Any]:
    """Return pairs as a dict; a name that is there more than once has a list."""
    grouped: dict[str, list[str]] = {}
    for name, value in pairs:
        grouped.setdefault(name, []).append(value)
    plain = {name: values[0] if len(values) == 1 else values for name, values in grouped.items()}
    found: dict[str, Any] = _masked(plain) if mask else plain
    return found


def _masked(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _masked(one, str(key)) for key, one in value.items()}
    if isinstance(value, list):
        return [_masked(one, name) for one in value]
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        if name and value != "" and is_secret_name(name):
            return "<secret>"
        kind = volatile_kind(text := str(value), text)
        return f"<{kind}>" if kind else value
    return value


def _path(url: str) -> str:
    head, slashes, rest = url.partition("://")
    host, *segments = rest.split("/")
    masked = [f"<{kind}>" if (kind := volatile_kind(s, s)) else s for s in segments]
    return f"{head}{slashes}{'/'.join([host, *masked])}"
