"""Take fields out of requests, or replace them, before they are recorded and looked up.

vcrpy's `filter_headers`, `filter_query_parameters` and `filter_post_data_parameters`: what is
edited is in no cassette, and is not compared. Order and spelling of the rest stay. Form fields and
keys of a JSON object count as post data, of requests of any method.

Proven by tests/cassettes/test_editing.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote_plus, unquote_plus

import msgspec

from pytest_netcapture.cassettes.format import SEGMENT
from pytest_netcapture.flows import Body, Headers, HttpRequest
from pytest_netcapture.settings import Edit

Values = dict[str, str | None]


class Edited:
    """Edits requests of one cassette."""

    def __init__(self, edits: Iterable[Edit]) -> None:
        places: dict[str, Values] = {"header": {}, "query": {}, "post": {}}
        for edit in edits:
            name = edit.name.lower() if edit.place == "header" else edit.name
            places[edit.place][name] = edit.value
        self._headers, self._query, self._post = places.values()

    def request(self, request: HttpRequest) -> HttpRequest:
        """Return `request` itself when nothing in it is to be edited."""
        headers, target, body = request.headers, request.target, request.body
        if self._headers:
            headers = _headers(headers, self._headers)
        if self._query and "?" in target:
            path, _, query = target.partition("?")
            query = _pairs(query, self._query)
            target = f"{path}?{query}" if query else path
        if self._post and 0 < body.size <= SEGMENT:
            body = self._body(body, headers)
            if body.size != request.body.size and headers.get("content-length"):
                headers = headers.replace("content-length", str(body.size))
        if headers is request.headers and target == request.target and body is request.body:
            return request
        return msgspec.structs.replace(request, headers=headers, target=target, body=body)

    def _body(self, body: Body, headers: Headers) -> Body:
        content = body.content
        kind = (headers.get("content-type") or "").partition(";")[0].strip().lower()
        if kind == "application/json" or kind.endswith("+json"):
            edited = _object(content, self._post)
        elif kind.startswith("multipart/"):
            return body
        else:
            edited = _pairs(content.decode("latin-1"), self._post).encode("latin-1")
        return body if edited == content else Body(len(edited), edited, "", body.coding)


def _headers(headers: Headers, values: Values) -> Headers:
    fields = []
    for name, value in headers.fields:
        new = values.get(name.lower(), value)
        if new is not None:
            fields.append((name, new))
    return headers if fields == headers.fields else Headers(fields)


def _pairs(text: str, values: Values) -> str:
    kept = []
    for pair in text.split("&"):
        name, equals, _ = pair.partition("=")
        known = unquote_plus(name)
        if known not in values:
            kept.append(pair)
        elif (new := values[known]) is not None:
            kept.append(f"{name}{equals or '='}{quote_plus(new)}")
    return "&".join(kept)


def _object(content: bytes, values: Values) -> bytes:
    try:
        document = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return content
    if not isinstance(document, dict) or not values.keys() & document.keys():
        return content
    edited = {key: values.get(key, value) for key, value in document.items()}
    return msgspec.json.encode(
        {key: value for key, value in edited.items() if not (key in values and value is None)}
    )
