"""Take secrets out of a flow before it is written, and out of a request before it is looked up.

1. A live flow is never changed: what differs is copied.
2. What one part of an exchange names as a secret is replaced in all its parts: an exchange that
   taught something new is gone through again.
3. The results for header fields are cached until a new secret is learned.
4. Bodies over `WHOLE` bytes are left for `stream`: known values and token shapes only.

Proven by tests/cassettes/test_scrub.py.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pytest_netcapture.cassettes import fields, service_scrub
from pytest_netcapture.cassettes.content import ContentScrubber
from pytest_netcapture.cassettes.editing import Edited
from pytest_netcapture.cassettes.edits import to_borders, to_chunks
from pytest_netcapture.cassettes.format import SEGMENT
from pytest_netcapture.cassettes.header_fields import SECRET_FIELDS, scrub_field
from pytest_netcapture.cassettes.masks import joined
from pytest_netcapture.cassettes.secrets import Secrets
from pytest_netcapture.cassettes.tokens import maybe_tokens
from pytest_netcapture.flows import (
    AnyFlow,
    Body,
    DnsAnswer,
    DnsFlow,
    Headers,
    HttpFlow,
    HttpRequest,
    HttpResponse,
    RawFlow,
    ServiceFlow,
    TcpFlow,
    TlsFailure,
    WebSocketFlow,
    WebSocketMessage,
)
from pytest_netcapture.settings import Edit, Filters

WHOLE = SEGMENT
_CACHE_LIMIT = 4096


class Scrubber(ContentScrubber):
    """Scrubs for one cassette."""

    def __init__(
        self, secrets: Secrets, filters: Filters, salt: bytes, edits: tuple[Edit, ...] = ()
    ) -> None:
        super().__init__(secrets, filters, salt)
        self._edited = Edited(edits) if edits else None
        self._headers: dict[tuple[str, str], str] = {}
        self._plain: dict[str, bool] = {}
        self._version = -1

    # Whole flows

    def flow(self, flow: AnyFlow) -> AnyFlow:
        """Return `flow` without secrets; bodies over `WHOLE` stay as they are, for `stream`."""
        if isinstance(flow, HttpFlow):
            return self._exchange(flow)
        if isinstance(flow, DnsFlow):
            return self._dns(flow)
        if isinstance(flow, ServiceFlow):
            return self.service(flow)
        changed: dict[str, Any] = {"host": self.name(flow.host)}
        if isinstance(flow, RawFlow):
            changed |= self._raw(flow)
        if isinstance(flow, (TcpFlow, TlsFailure)):
            changed["sni"] = self.name(flow.sni)
        return msgspec.structs.replace(flow, **changed)

    def _raw(self, flow: RawFlow) -> dict[str, Any]:
        """Return what becomes of a conversation; secrets of the client's are masked, too."""
        spans: list[tuple[int, int]] = []
        return {
            "outgoing": self.bytes_of(flow.outgoing, spans),
            "incoming": self.bytes_of(flow.incoming, []),
            "masks": joined([*flow.masks, *spans]),
        }

    def bytes_of(self, body: Body, spans: list[tuple[int, int]]) -> Body:
        """Return one direction without secrets; a large one stays, and is looked through only."""
        pieces = self.wire(body.pieces(), spans)
        if body.size > WHOLE:
            for _ in pieces:
                pass
            return body
        return Body(body.size, b"".join(pieces))

    def _exchange(self, flow: HttpFlow) -> HttpFlow:
        request, response = self._both(flow.request, flow.response)
        if isinstance(flow, WebSocketFlow):
            flow = msgspec.structs.replace(flow, messages=self._messages(flow.messages))
        if request is flow.request and response is flow.response:
            return flow
        return msgspec.structs.replace(flow, request=request, response=response, host=request.host)

    def _messages(self, messages: list[WebSocketMessage]) -> list[WebSocketMessage]:
        """Scrub twice: a later message may name a secret that an earlier one holds."""
        for _ in range(2):
            version = self.secrets.version
            messages = [self.message(message) for message in messages]
            if self.secrets.version == version:
                break
        return messages

    def message(self, message: WebSocketMessage) -> WebSocketMessage:
        """Return `message` without secrets, to look it up or to store it."""
        data = self.content(message.data, "", [])
        return message if data == message.data else msgspec.structs.replace(message, data=data)

    def service(self, flow: ServiceFlow) -> ServiceFlow:
        """Return an exchange with a database or broker without secrets."""
        for _ in range(2):  # a later part may name a secret that an earlier one holds
            version = self.secrets.version
            scrubbed = self._service(flow)
            if self.secrets.version == version:
                break
        return scrubbed

    def _service(self, flow: ServiceFlow) -> ServiceFlow:
        values = [None if v is None else self._value(v) for v in flow.values]
        answer = service_scrub.in_answer(flow, self._value)
        return msgspec.structs.replace(
            flow,
            host=self.name(flow.host),
            session=self._str(flow.session),
            question=self._statement(flow.question),
            values=values,
            sent=self._value(flow.sent),
            answer=answer,
        )

    def _value(self, data: bytes) -> bytes:
        return self.content(data, "", []) if data else data

    def _statement(self, text: str) -> str:
        for start, end in reversed(list(service_scrub.in_statement(text))):
            text = text[:start] + self.secret_text(text[start:end]) + text[end:]
        data = _utf8(text)
        cleaned = self.content(data, "", [])
        return text if cleaned == data else cleaned.decode("utf-8", "surrogateescape")

    def request(self, request: HttpRequest) -> HttpRequest:
        """Return `request` without secrets, to look it up or to store it."""
        return self._both(request, None)[0]

    def _both(
        self, request: HttpRequest, response: HttpResponse | None
    ) -> tuple[HttpRequest, HttpResponse | None]:
        if self._edited is not None:
            request = self._edited.request(request)
        version = self.secrets.version
        pair = self._pass(request, response)
        if (
            self.secrets.version != version
        ):  # learned something that may stand in a part seen before
            self._headers.clear()
            pair = self._pass(*pair)
        return pair

    def _pass(
        self, request: HttpRequest, response: HttpResponse | None
    ) -> tuple[HttpRequest, HttpResponse | None]:
        self._quiet = self._is_quiet(request, response)
        try:
            return self._request(request), self._response(response)
        finally:
            self._quiet = False

    def _is_quiet(self, request: HttpRequest, response: HttpResponse | None) -> bool:
        """Tell whether no part holds a known value or token: one search is cheaper than many."""
        if request.trailers.fields or (response and (response.trailers.fields or response.interim)):
            return False
        self._forget_if_stale()
        values = [request.host, request.target]
        values += self._unsearched(request.headers)
        bodies = [request.body]
        if response:
            values += self._unsearched(response.headers)
            bodies.append(response.body)
        text = "\n".join(values)
        parts = [text.encode() if text.isascii() else text.encode("utf-8", "surrogateescape")]
        if not text.isascii():
            parts.append(text.encode("latin-1", "replace"))
        parts += [body.content for body in bodies if 0 < body.size <= WHOLE]
        data = b"\n".join(parts)
        return not self.secrets.present(data) and not maybe_tokens(data)

    def _unsearched(self, headers: Headers) -> list[str]:
        """Return the values that are not cached, nor replaced as a whole for their name."""
        cache, plain = self._headers, self._plain
        return [
            value
            for name, value in headers.fields
            if (name, value) not in cache
            and (plain.get(name, True) or name.lower().endswith("cookie"))
        ]

    def _request(self, request: HttpRequest) -> HttpRequest:
        headers = self.headers(request.headers)
        trailers = self.headers(request.trailers) if request.trailers.fields else request.trailers
        body = self.body(request.body, headers)
        target, host = self.target(request.target), self.name(request.host)
        if (
            headers is request.headers
            and body is request.body
            and target == request.target
            and host == request.host
            and trailers is request.trailers
        ):
            return request
        return msgspec.structs.replace(
            request, headers=headers, trailers=trailers, body=body, target=target, host=host
        )

    def _response(self, response: HttpResponse | None) -> HttpResponse | None:
        if response is None:
            return None
        headers = self.headers(response.headers)
        trailers = (
            self.headers(response.trailers) if response.trailers.fields else response.trailers
        )
        body = self.body(response.body, headers)
        interim = [(status, self.headers(early)) for status, early in response.interim]
        if (
            headers is response.headers
            and body is response.body
            and trailers is response.trailers
            and not interim
        ):
            return response
        if body is not response.body:
            headers = with_length(headers, response.body, body.size)
        return msgspec.structs.replace(
            response, headers=headers, trailers=trailers, body=body, interim=interim
        )

    def _dns(self, flow: DnsFlow) -> DnsFlow:
        name = self.name(flow.name)
        sections = {
            section: [
                DnsAnswer(self.name(a.name), a.type, a.ttl, self._str(a.data))
                for a in getattr(flow, section)
            ]
            for section in ("answers", "authority", "additional")
        }
        if name == flow.name and all(getattr(flow, key) == sections[key] for key in sections):
            return flow
        return msgspec.structs.replace(flow, name=name, host=self.name(flow.host), **sections)

    # Parts

    def headers(self, headers: Headers) -> Headers:
        """Return `headers` itself when nothing in it is secret."""
        self._forget_if_stale()
        cache = self._headers
        out, changed = [], False
        for pair in headers.fields:
            value = cache.get(pair)
            if value is None:
                value = self._header(*pair)
                cache[pair] = value
            if value != pair[1]:
                changed = True
                out.append((pair[0], value))
            else:
                out.append(pair)
        return Headers(out) if changed else headers

    def _is_plain(self, name: str) -> bool:
        lower = name.lower()
        if lower in self._keep:
            return True
        return lower not in SECRET_FIELDS and not self.secret_header(name)

    def _forget_if_stale(self) -> None:
        if self._version != self.secrets.version or len(self._headers) > _CACHE_LIMIT:
            self._headers.clear()
            self._version = self.secrets.version

    def _header(self, name: str, value: str) -> str:
        plain = self._plain.get(name)
        if plain is None:
            plain = self._plain[name] = self._is_plain(name)
        if plain and self._quiet and "=" not in value:
            return value
        scrubbed = value if plain else scrub_field(name, value, self)
        data = scrubbed.encode("latin-1", "replace")
        result = self.text(self._urls(data))
        return value if result == data and scrubbed == value else result.decode("latin-1")

    def target(self, target: str) -> str:
        """Return a request target without secrets in path and query."""
        path, mark, query = target.partition("?")
        if mark and ("%" in query or any(map(query.lower().__contains__, self._text_stems))):
            data = _utf8(query)
            scrubbed = self._replace(data, fields.in_query(data, self.secret_query), [])
            if scrubbed is not data:
                target = f"{path}?{scrubbed.decode('utf-8', 'surrogateescape')}"
        if self._quiet:
            return target
        data = _utf8(target)
        result = self.text(data)
        return target if result is data else result.decode("utf-8", "surrogateescape")

    def name(self, host: str) -> str:
        """Return a host or DNS name without secrets."""
        return self._str(host)

    def _str(self, text: str) -> str:
        if self._quiet:
            return text
        data = _utf8(text)
        return (
            self.text(data).decode("utf-8", "surrogateescape")
            if self.secrets.present(data)
            else text
        )

    def body(self, body: Body, headers: Headers) -> Body:
        """Return `body` itself when nothing in it is secret, or it is too large to see whole."""
        if not body.size or body.size > WHOLE:
            return body
        data = body.content
        borders = to_borders(body.chunks)
        result = self.content(data, _media_type(headers), borders)
        if result == data:
            return body if not body.path else msgspec.structs.replace(body, data=data, path="")
        return Body(len(result), result, "", body.coding, to_chunks(borders), list(body.gaps))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _media_type(headers: Headers) -> str:
    for name, value in headers.fields:
        if len(name) == 12 and name.lower() == "content-type":
            return value.partition(";")[0].strip().lower()
    return ""


def with_length(headers: Headers, old: Body, size: int) -> Headers:
    """Correct Content-Length when it counted bytes of `old` that were scrubbed."""
    if old.coding or old.size == size or headers.get("content-length") != str(old.size):
        return headers
    return headers.replace("content-length", str(size))
