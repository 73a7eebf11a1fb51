"""What a cassette keeps of each flow: everything a replay needs, nothing that changes by itself.

No clocks, ids, client ports or process numbers, so the same traffic gives the same bytes.
Addresses are kept only where they are the identity: of connections that carried no request.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, TypeAlias

import msgspec

from pytest_netcapture.flows import (
    AnyFlow,
    Body,
    DnsAnswer,
    DnsFlow,
    FlowError,
    GrpcFlow,
    Headers,
    HttpFlow,
    HttpRequest,
    HttpResponse,
    Origin,
    Process,
    RawFlow,
    ServiceFlow,
    TcpFlow,
    TlsFailure,
    Turn,
    UdpFlow,
    WebSocketFlow,
    WebSocketMessage,
    is_grpc,
    service_flow,
)

Fields: TypeAlias = list[tuple[str, str]]

_STEP = 100_000_000
"""Nanoseconds: waits are not kept finer."""


class BodyRef(msgspec.Struct, omit_defaults=True):
    """Where a body is (`id`, "" when it is empty) and how it was sent."""

    id: str = ""
    size: int = 0
    coding: str = ""
    chunks: list[int] = []
    gaps: list[int] = []


class RequestRecord(msgspec.Struct, omit_defaults=True):
    method: str
    scheme: str
    host: str
    port: int
    target: str
    version: str = "1.1"
    headers: Fields = []
    trailers: Fields = []
    body: BodyRef = msgspec.field(default_factory=BodyRef)


class ResponseRecord(msgspec.Struct, omit_defaults=True):
    status: int
    reason: str = ""
    version: str = "1.1"
    interim: list[tuple[int, Fields]] = []
    headers: Fields = []
    trailers: Fields = []
    closes: bool = False
    after: list[int] = []
    body: BodyRef = msgspec.field(default_factory=BodyRef)


class HttpRecord(msgspec.Struct, omit_defaults=True, tag_field="kind", tag="http"):
    request: RequestRecord
    response: ResponseRecord | None = None
    error: FlowError | None = None
    process: str = ""


class MessageRecord(msgspec.Struct, omit_defaults=True):
    sent: bool
    kind: str
    data: bytes = b""
    code: int = 0
    wait: int = 0
    """Since the message before, in steps of 100 ms."""


class WebSocketRecord(HttpRecord, omit_defaults=True, tag_field="kind", tag="websocket"):
    messages: list[MessageRecord] = []


class DnsRecord(msgspec.Struct, omit_defaults=True, tag_field="kind", tag="dns"):
    name: str
    type: str
    rcode: str = ""
    answers: list[DnsAnswer] = []
    error: FlowError | None = None
    process: str = ""
    authority: list[DnsAnswer] = []
    additional: list[DnsAnswer] = []
    server: str = ""
    transport: str = "udp"
    truncated: bool = False


class RawRecord(msgspec.Struct, omit_defaults=True):
    """A conversation as bytes; without `turns` it is a summary, or a connection that failed."""

    host: str
    port: int
    address: str = ""
    error: FlowError | None = None
    reason: str = ""
    sent: int = 0
    received: int = 0
    process: str = ""
    outgoing: BodyRef | None = None
    incoming: BodyRef | None = None
    turns: list[Turn] = []
    masks: list[tuple[int, int]] = []
    echoes: list[tuple[int, int, int]] = []


class TcpRecord(RawRecord, omit_defaults=True, tag_field="kind", tag="tcp"):
    sni: str = ""
    tls: bool = False
    later: bool = False


class UdpRecord(RawRecord, omit_defaults=True, tag_field="kind", tag="udp"):
    datagrams_sent: int = 0
    datagrams_received: int = 0


class TlsRecord(msgspec.Struct, omit_defaults=True, tag_field="kind", tag="tls_failure"):
    host: str
    port: int
    side: str
    sni: str = ""
    detail: str = ""
    address: str = ""
    error: FlowError | None = None
    process: str = ""
    certificate: bytes = b""


class ServiceRecord(msgspec.Struct, omit_defaults=True, tag_field="kind", tag="service"):
    service: str
    host: str
    port: int
    address: str = ""
    session: str = ""
    step: str = ""
    question: str = ""
    form: str = ""
    values: list[bytes | None] = []
    sent: bytes = b""
    answer: bytes = b""
    notes: dict[str, bytes] = {}
    error: FlowError | None = None
    process: str = ""


AnyRecord: TypeAlias = (
    HttpRecord | WebSocketRecord | DnsRecord | TcpRecord | UdpRecord | TlsRecord | ServiceRecord
)

_DATAGRAMS = ("datagrams_sent", "datagrams_received")

_decoder: msgspec.msgpack.Decoder[AnyRecord] = msgspec.msgpack.Decoder(AnyRecord)
_encoder = msgspec.msgpack.Encoder()


def decode(payload: bytes) -> AnyRecord:
    """Decode a flow record. Raises `msgspec.DecodeError`."""
    return _decoder.decode(payload)


def bodies_of(record: AnyRecord) -> tuple[BodyRef, BodyRef]:
    """Return where the bodies of a record are: the client's and the server's, perhaps empty."""
    if isinstance(record, HttpRecord):
        return record.request.body, record.response.body if record.response else BodyRef()
    if isinstance(record, RawRecord):
        return record.outgoing or BodyRef(), record.incoming or BodyRef()
    return BodyRef(), BodyRef()


def encode(record: AnyRecord) -> bytes:
    try:
        return _encoder.encode(record)
    except UnicodeEncodeError:
        return _encoder.encode(_without_surrogates(msgspec.to_builtins(record)))


def to_record(flow: AnyFlow, request_body: BodyRef, response_body: BodyRef) -> AnyRecord:
    """Return what is kept of `flow`, whose bodies have been stored."""
    process, address = flow.process.name, flow.address[0] if flow.address else ""
    if isinstance(flow, HttpFlow):
        exchange = (
            _request_record(flow.request, request_body),
            _response_record(flow.response, response_body) if flow.response else None,
            flow.error,
            process,
        )
        if not isinstance(flow, WebSocketFlow):
            return HttpRecord(*exchange)
        return WebSocketRecord(*exchange, _message_records(flow.messages))
    if isinstance(flow, DnsFlow):
        name = flow.name.lower().rstrip(".") or "."
        how = (flow.authority, flow.additional, flow.server, flow.transport, flow.truncated)
        return DnsRecord(name, flow.type, flow.rcode, flow.answers, flow.error, process, *how)
    if isinstance(flow, RawFlow):
        return _raw_record(flow, request_body, response_body)
    if isinstance(flow, ServiceFlow):
        return _service_record(flow, process)
    return TlsRecord(
        flow.host,
        flow.port,
        flow.side,
        flow.sni,
        flow.detail,
        address,
        flow.error,
        process,
        flow.certificate,
    )


def _raw_record(flow: TcpFlow | UdpFlow, outgoing: BodyRef, incoming: BodyRef) -> AnyRecord:
    counts = not flow.error or bool(flow.turns)
    common: dict[str, Any] = {
        "host": flow.host,
        "port": flow.port,
        "address": flow.address[0] if flow.address else "",
        "error": flow.error,
        "reason": flow.reason,
        "sent": flow.sent if counts else 0,
        "received": flow.received if counts else 0,
        "process": flow.process.name,
        "outgoing": outgoing if outgoing.id else None,
        "incoming": incoming if incoming.id else None,
        "turns": flow.turns,
        "masks": flow.masks,
        "echoes": flow.echoes,
    }
    if isinstance(flow, TcpFlow):
        return TcpRecord(**common, sni=flow.sni, tls=flow.tls, later=flow.later)
    return UdpRecord(**common, **{name: getattr(flow, name) for name in _DATAGRAMS})


def to_flow(record: AnyRecord, request_body: Body, response_body: Body) -> AnyFlow:
    """Return the flow that `record` describes, as played from a cassette."""
    process = Process(name=record.process)
    if isinstance(record, HttpRecord):
        request = _request(record.request, request_body)
        response = _response(record.response, response_body) if record.response else None
        kind = GrpcFlow if is_grpc(request.headers) else HttpFlow
        flow = kind(
            host=request.host,
            port=request.port,
            process=process,
            origin=Origin.PLAYED,
            error=record.error,
            request=request,
            response=response,
        )
        return _with_messages(flow, record) if isinstance(record, WebSocketRecord) else flow
    if isinstance(record, DnsRecord):
        return DnsFlow(
            host=record.name,
            port=53,
            process=process,
            origin=Origin.PLAYED,
            error=record.error,
            name=record.name,
            type=record.type,
            rcode=record.rcode,
            answers=record.answers,
            authority=record.authority,
            additional=record.additional,
            server=record.server,
            transport=record.transport,
            truncated=record.truncated,
        )
    if isinstance(record, ServiceRecord):
        return _service(record, process)
    return _connection(record, process, request_body, response_body)


def _service_record(flow: ServiceFlow, process: str) -> ServiceRecord:
    return ServiceRecord(
        service=flow.service,
        host=flow.host,
        port=flow.port,
        session=flow.session,
        step=flow.step,
        question=flow.question,
        form=flow.form,
        values=flow.values,
        sent=flow.sent,
        answer=flow.answer,
        notes=flow.notes,
        error=flow.error,
        process=process,
    )


def _service(record: ServiceRecord, process: Process) -> ServiceFlow:
    return service_flow(
        record.service,
        host=record.host,
        port=record.port,
        process=process,
        origin=Origin.PLAYED,
        error=record.error,
        session=record.session,
        step=record.step,
        question=record.question,
        form=record.form,
        values=record.values,
        sent=record.sent,
        answer=record.answer,
        notes=record.notes,
    )


def _message_records(messages: list[WebSocketMessage]) -> list[MessageRecord]:
    out = []
    last = messages[0].time if messages else 0
    for m in messages:
        out.append(MessageRecord(m.sent, m.kind, m.data, m.code, max(0, m.time - last) // _STEP))
        last = m.time
    return out


def _with_messages(flow: HttpFlow, record: WebSocketRecord) -> WebSocketFlow:
    waits = accumulate(m.wait * _STEP for m in record.messages)
    messages = [
        WebSocketMessage(sent=m.sent, kind=m.kind, data=m.data, code=m.code, time=time)
        for m, time in zip(record.messages, waits, strict=True)
    ]
    return WebSocketFlow(
        host=flow.host,
        port=flow.port,
        process=flow.process,
        origin=flow.origin,
        error=flow.error,
        request=flow.request,
        response=flow.response,
        messages=messages,
    )


def _connection(
    record: TcpRecord | UdpRecord | TlsRecord, process: Process, outgoing: Body, incoming: Body
) -> AnyFlow:
    address = (record.address, record.port) if record.address else None
    if isinstance(record, RawRecord):
        kept = ("host", "port", "error", "reason", "sent", "received", "turns", "masks", "echoes")
        own = ("sni", "tls", "later") if isinstance(record, TcpRecord) else _DATAGRAMS
        kind = TcpFlow if isinstance(record, TcpRecord) else UdpFlow
        return kind(
            **{name: getattr(record, name) for name in (*kept, *own)},
            address=address,
            process=process,
            origin=Origin.PLAYED,
            outgoing=outgoing,
            incoming=incoming,
        )
    return TlsFailure(
        host=record.host,
        port=record.port,
        address=address,
        process=process,
        origin=Origin.PLAYED,
        error=record.error,
        side=record.side,
        sni=record.sni,
        detail=record.detail,
        certificate=record.certificate,
    )


def _request_record(request: HttpRequest, body: BodyRef) -> RequestRecord:
    return RequestRecord(
        request.method,
        request.scheme,
        request.host,
        request.port,
        request.target,
        request.http_version,
        request.headers.fields,
        request.trailers.fields,
        body,
    )


def _response_record(response: HttpResponse, body: BodyRef) -> ResponseRecord:
    return ResponseRecord(
        response.status,
        response.reason,
        response.http_version,
        [(status, headers.fields) for status, headers in response.interim],
        response.headers.fields,
        response.trailers.fields,
        response.closes,
        response.after,
        body,
    )


def _request(record: RequestRecord, body: Body) -> HttpRequest:
    return HttpRequest(
        method=record.method,
        scheme=record.scheme,
        host=record.host,
        port=record.port,
        target=record.target,
        http_version=record.version,
        headers=Headers(record.headers),
        trailers=Headers(record.trailers),
        body=body,
    )


def _response(record: ResponseRecord, body: Body) -> HttpResponse:
    return HttpResponse(
        status=record.status,
        reason=record.reason,
        http_version=record.version,
        interim=[(status, Headers(fields)) for status, fields in record.interim],
        headers=Headers(record.headers),
        trailers=Headers(record.trailers),
        closes=record.closes,
        after=record.after,
        body=body,
    )


def _without_surrogates(value: object) -> object:
    """Spell code points that UTF-8 has no bytes for as escapes: a name from a broken client."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _without_surrogates(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_surrogates(item) for item in value]
    return value
