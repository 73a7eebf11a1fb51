"""An OpenAPI document's operations, each with the answer that a mock gives for it.

1. The answer is the document's first success (2xx, else default): its example, or a value made up
   after its schema. Only references within the document are followed.
2. A path's parameters match anything up to the next slash. Paths without parameters come first, as
   OpenAPI 3.1 §4.8.8.2 wants it.

Proved by tests/test_openapi.py.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from operator import methodcaller
from typing import Any, NamedTuple

from pytest_netcapture.errors import NetcaptureError, UsageError

__tracebackhide__ = methodcaller("errisinstance", NetcaptureError)

_PLACE = "netcapture.mock_openapi"
_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_DEPTH = 12
_VALUES: dict[str, Any] = {"integer": 1, "number": 1.0, "boolean": True, "null": None}
_STRINGS = {
    "date": "2020-01-01",
    "date-time": "2020-01-01T00:00:00Z",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "email": "somebody@example.com",
    "uri": "https://example.com/",
}


class Operation(NamedTuple):
    name: str
    method: str
    url: re.Pattern[str]
    status: int
    body: bytes
    headers: dict[str, str]


def operations(document: Any, server: str | None) -> list[Operation]:
    """Return what a document offers. Raises `UsageError`."""
    parsed = _load(document)
    if not isinstance(parsed, Mapping) or not str(parsed.get("openapi", "")).startswith("3."):
        cure = "give one that begins with openapi: 3.0 or 3.1"
        raise UsageError(f"{_PLACE}: {_shown(document)} is no OpenAPI document", cure=cure)
    base = _server(parsed, server)
    reader = _Reader(parsed)
    listed = parsed.get("paths") or {}
    if not isinstance(listed, Mapping):
        raise UsageError(f"{_PLACE}: paths is no mapping", cure="mend the document")
    paths = sorted(listed.items(), key=lambda item: "{" in item[0])
    found: list[Operation] = []
    for path, item in paths:
        try:
            found += _of_path(reader, base, path, item)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            what = f"{_PLACE}: {path} is not as OpenAPI has it: {error}"
            raise UsageError(what, cure="mend the document") from None
    return found


def _of_path(reader: _Reader, base: str, path: str, item: Any) -> Iterator[Operation]:
    item = reader.resolved(item)
    pieces = re.split(r"\{[^{}]*\}", path)
    url = re.compile(rf"\A{re.escape(base)}{'[^/?]+'.join(map(re.escape, pieces))}(?:\?.*)?\Z")
    for method in _METHODS:
        if method in item:
            operation = item[method]
            name = str(operation.get("operationId") or f"{method.upper()} {path}")
            status, kind, body = reader.answer(operation.get("responses") or {})
            headers = {"Content-Type": kind} if kind else {}
            yield Operation(name, method.upper(), url, status, body, headers)


def _server(document: Mapping[str, Any], given: str | None) -> str:
    listed = document.get("servers") or [{}]
    base = given if given is not None else str(listed[0].get("url", ""))
    for name, variable in (listed[0].get("variables") or {}).items():
        base = base.replace(f"{{{name}}}", str(variable.get("default", "")))
    if not re.match(r"https?://[^/]+", base):
        cure = 'write server="https://api.example.com/v1"'
        raise UsageError(f"{_PLACE}: {base!r} says of no host where the paths are", cure=cure)
    return base.rstrip("/")


class _Reader:
    """Follows references, finds and makes examples."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def resolved(self, node: Any) -> Any:
        for _ in range(_DEPTH):
            if not isinstance(node, Mapping) or "$ref" not in node:
                return node
            node = self._target(str(node["$ref"]))
        raise UsageError(f"{_PLACE}: {node['$ref']} refers to itself", cure="mend the document")

    def _target(self, reference: str) -> Any:
        node: Any = self._document
        if reference.startswith("#/"):
            for part in reference[2:].split("/"):
                key = part.replace("~1", "/").replace("~0", "~")
                node = node.get(key) if isinstance(node, Mapping) else None
            if node is not None:
                return node
        cure = "bundle the document into one file first"
        raise UsageError(f"{_PLACE}: {reference} is not in the document", cure=cure)

    def answer(self, responses: Mapping[str, Any]) -> tuple[int, str, bytes]:
        """Return status, media type and body."""
        by_text = {str(status): response for status, response in responses.items()}
        good = sorted(status for status in by_text if status.startswith("2"))
        chosen = good[0] if good else "default" if "default" in by_text else ""
        status = int(chosen) if chosen.isdecimal() else 200
        content = (self.resolved(by_text.get(chosen)) or {}).get("content") or {}
        if not content:
            return status, "", b""
        kind = next((one for one in content if "json" in one), next(iter(content)))
        value = self._example(content[kind])
        if "json" not in kind and isinstance(value, str):
            return status, kind, value.encode()
        return status, kind, json.dumps(value, default=str).encode()

    def _example(self, media: Any) -> Any:
        if "example" in media:
            return media["example"]
        for named in (media.get("examples") or {}).values():
            return self.resolved(named).get("value")
        return self._made_up(media.get("schema") or {}, 0)

    def _made_up(self, schema: Any, depth: int) -> Any:
        schema = self.resolved(schema)
        if not isinstance(schema, Mapping) or depth > _DEPTH:
            return None
        for key in ("example", "default", "const"):
            if key in schema:
                return schema[key]
        for key in ("examples", "enum"):
            if schema.get(key):
                return schema[key][0]
        for key in ("oneOf", "anyOf"):
            if schema.get(key):
                return self._made_up(schema[key][0], depth + 1)
        if schema.get("allOf"):
            parts = [self._made_up(part, depth + 1) for part in schema["allOf"]]
            return {k: v for part in parts if isinstance(part, dict) for k, v in part.items()}
        return self._of_type(schema, depth)

    def _of_type(self, schema: Mapping[str, Any], depth: int) -> Any:
        kind = schema.get("type", "object" if "properties" in schema else "string")
        kind = kind[0] if isinstance(kind, list) and kind else kind
        if kind == "object":
            properties = schema.get("properties") or {}
            return {name: self._made_up(one, depth + 1) for name, one in properties.items()}
        if kind == "array":
            return [self._made_up(schema.get("items") or {}, depth + 1)]
        if kind in ("integer", "number") and "minimum" in schema:
            return schema["minimum"]
        return _VALUES.get(kind, _STRINGS.get(schema.get("format", ""), "text"))


def _load(document: Any) -> Any:
    if isinstance(document, Mapping):
        return document
    path = os.fspath(document)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        cure = "name a readable file"
        raise UsageError(f"{_PLACE}: cannot read {path}: {error}", cure=cure) from None
    try:
        return json.loads(text)
    except ValueError:
        return _yaml(text, path)


def _yaml(text: str, path: str) -> Any:
    try:
        import yaml
    except ImportError:
        cure = "pip install pytest-netcapture[openapi]"
        raise UsageError(f"{_PLACE}: {path} is YAML, which needs PyYAML", cure=cure) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        cure = "mend the document"
        raise UsageError(f"{_PLACE}: {path} is not YAML: {error}", cure=cure) from None


def _shown(document: Any) -> str:
    return "the mapping" if isinstance(document, Mapping) else os.fspath(document)
