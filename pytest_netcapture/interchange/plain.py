"""A flow as JSON: what `--json` prints, a line for each.

1. Every value is plain: a body is given as `json` (as it was spelled), `text` or `base64`.
2. Header fields are pairs, in wire order and case.
"""

from __future__ import annotations

import base64
import contextlib
from typing import Any

import msgspec

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.flows import (
    AnyFlow,
    Body,
    DnsFlow,
    GrpcFlow,
    Headers,
    HttpFlow,
    Message,
    MongoFlow,
    RawFlow,
    RedisFlow,
    ServiceFlow,
    SqlFlow,
    TlsFailure,
    WebSocketFlow,
)
from pytest_netcapture.report.exchange import outcome, subject

_LARGEST = 1 << 20


def plain(flow: AnyFlow, largest: int = _LARGEST) -> dict[str, Any]:
    """Return what JSON can hold of a flow: its kind, what was said, and what came of it.

    Of a body over `largest` bytes it is only how large it is.
    """
    out: dict[str, Any] = {"kind": flow.protocol, "subject": subject(flow)}
    out |= {"outcome": outcome(flow), "host": flow.host, "port": flow.port}
    if flow.process.name:
        out["process"] = flow.process.name
    if flow.error:
        out["error"] = msgspec.to_builtins(flow.error)
    if isinstance(flow, HttpFlow):
        out |= _exchange(flow, largest)
    elif isinstance(flow, DnsFlow):
        out |= _dns(flow)
    elif isinstance(flow, RawFlow):
        out |= _conversation(flow, largest)
    elif isinstance(flow, TlsFailure):
        out |= {"side": flow.side, "sni": flow.sni, "detail": flow.detail}
    elif isinstance(flow, ServiceFlow):
        out |= _service(flow)
    return out


def encoded(value: Any) -> str:
    """Return one line of JSON; what JSON does not know is spelled as text."""
    return msgspec.json.encode(value, enc_hook=str).decode()


def content(data: bytes) -> dict[str, Any]:
    """Return data as `json`, `text` or `base64`, whichever it is."""
    if data[:64].lstrip()[:1] in (b"{", b"["):
        try:
            msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError):
            pass
        else:
            return {"json": msgspec.Raw(data)}
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _exchange(flow: HttpFlow, largest: int) -> dict[str, Any]:
    request, response = flow.request, flow.response
    asked = {"method": request.method, "url": request.url, **_message(request, largest)}
    out: dict[str, Any] = {"request": asked, "response": None}
    if response:
        told = {"status": response.status, "reason": response.reason}
        out["response"] = told | _message(response, largest)
    if isinstance(flow, WebSocketFlow):
        out["messages"] = [
            {
                "sent": m.sent,
                "kind": m.kind,
                **({"code": m.code} if m.code else {}),
                **content(m.data),
            }
            for m in flow.messages
        ]
    if isinstance(flow, GrpcFlow):
        out["grpc"] = {
            "service": flow.service,
            "method": flow.method,
            "status": flow.status,
            "messages": [
                {"sent": m.sent, "base64": base64.b64encode(m.data).decode()} for m in flow.messages
            ],
        }
    return out


def _message(message: Message, largest: int) -> dict[str, Any]:
    out = {"http_version": message.http_version, "headers": _fields(message.headers)}
    if message.trailers:
        out["trailers"] = _fields(message.trailers)
    return out | {"body": _body(message.body, largest)}


def _fields(headers: Headers) -> list[list[str]]:
    return [[name, value] for name, value in headers]


def _body(body: Body, largest: int) -> dict[str, Any]:
    out: dict[str, Any] = {"size": body.size}
    if body.coding:
        out["coding"] = body.coding
    if 0 < body.size <= largest:
        out |= content(body.content)
    return out


def _dns(flow: DnsFlow) -> dict[str, Any]:
    answers = [msgspec.structs.asdict(answer) for answer in flow.answers]
    return {"name": flow.name, "type": flow.type, "rcode": flow.rcode, "answers": answers}


def _conversation(flow: RawFlow, largest: int) -> dict[str, Any]:
    small = max(flow.outgoing.size, flow.incoming.size) <= largest
    said = flow.messages if small else []
    out: dict[str, Any] = {"sent": flow.sent, "received": flow.received}
    if flow.reason:
        out["reason"] = flow.reason
    return out | {"messages": [{"sent": m.sent, **content(m.data)} for m in said]}


def _service(flow: ServiceFlow) -> dict[str, Any]:
    out: dict[str, Any] = {
        "service": flow.service,
        "session": flow.session,
        "step": flow.step,
        "asked": flow.asked,
        "told": flow.told,
    }
    if isinstance(flow, SqlFlow):
        out |= {"parameters": flow.parameters, "columns": flow.columns, "rows": flow.rows}
    elif isinstance(flow, RedisFlow):
        out |= {"command": flow.command, "arguments": flow.arguments}
    elif isinstance(flow, MongoFlow):
        out["command"] = flow.command
        with contextlib.suppress(EnvironmentProblem):  # where bson is not installed
            out["collection"] = flow.collection
    return out
