"""One flow on one line, or in a few: for views, failure sections and the command's live line."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_netcapture.flows import (
    GRPC_STATUS,
    AnyFlow,
    DnsFlow,
    Flow,
    GrpcFlow,
    HttpFlow,
    Message,
    Origin,
    Process,
    RawFlow,
    RawMessage,
    ServiceFlow,
    SqlFlow,
    TcpFlow,
    TlsFailure,
    UdpFlow,
    WebSocketFlow,
)
from pytest_netcapture.report.text import count, cut, duration, printable, size

_LONGEST_URL = 140
_LONGEST_HEADER = 100
_LONGEST_BODY = 300


def flow_line(flow: Flow, *, who: bool = True) -> str:
    """Return `GET https://host/x → 200 1.2 kB 12 ms  curl(1234)`, or the like for other kinds."""
    text = f"{subject(flow)} → {outcome(flow)}"
    if flow.origin in (Origin.PLAYED, Origin.MOCKED):
        text += f"  [{flow.origin.value}]"
    if flow.fault:
        text += f"  [fault: {flow.fault}]"
    if flow.late:
        text += "  [late]"
    process = process_name(flow.process) if who else ""
    return f"{text}  {process}" if process else text


def flow_lines(
    flows: Sequence[Flow], *, indent: str = "  ", limit: int = 20, last: bool = False
) -> list[str]:
    """Return a line for each of at most `limit` flows, the `last` or the first."""
    left = len(flows) - limit
    if left <= 0:
        return [indent + flow_line(flow) for flow in flows]
    lines = [indent + flow_line(flow) for flow in (flows[-limit:] if last else flows[:limit])]
    more = f"{indent}… {left} more"
    return [more, *lines] if last else [*lines, more]


def flow_block(flow: AnyFlow) -> list[str]:
    """Return a flow's line and, of an exchange, its headers and how its bodies begin."""
    lines = [flow_line(flow)]
    if isinstance(flow, HttpFlow):
        lines += _message_lines(flow.request, ">")
        if flow.response:
            lines += _message_lines(flow.response, "<")
        if isinstance(flow, WebSocketFlow):
            lines += [f"  {cut(printable(str(m)), _LONGEST_BODY)}" for m in flow.messages[:20]]
    elif isinstance(flow, DnsFlow):
        lines += [
            f"  < {a.name} {a.ttl} {a.type} {cut(printable(a.data), 80)}" for a in flow.answers
        ]
    elif isinstance(flow, SqlFlow):
        lines += [
            f"  > {n} = {cut(printable(repr(v)), 80)}" for n, v in enumerate(flow.parameters, 1)
        ]
    elif isinstance(flow, RawFlow):
        lines += [_raw_line(message) for message in flow.messages[:20]]
    if flow.error and flow.error.detail:
        lines.append(f"  ! {printable(flow.error.detail)}")
    return lines


def _raw_line(message: RawMessage) -> str:
    data = message.data[:_LONGEST_BODY]
    text = printable(data.decode()) if _is_text(data) else data[:32].hex(" ")
    return f"  {'>' if message.sent else '<'} ({size(len(message.data))}) {text}"


def _is_text(data: bytes) -> bool:
    return all(0x20 <= byte < 0x7F or byte in b"\r\n\t" for byte in data)


def subject(flow: Flow) -> str:
    """Return what was asked: `GET https://host/x`, `DNS name A`, `TCP host:port`."""
    if isinstance(flow, HttpFlow):
        return printable(f"{flow.request.method} {cut(flow.url, _LONGEST_URL)}")
    if isinstance(flow, DnsFlow):
        return printable(f"DNS {flow.name} {flow.type}")
    if isinstance(flow, ServiceFlow):
        return f"{flow.service} {cut(printable(flow.asked), _LONGEST_URL)}"
    host = flow.sni if isinstance(flow, (TcpFlow, TlsFailure)) and flow.sni else flow.host
    if not host and flow.address:
        host = flow.address[0]
    host = f"[{host}]" if ":" in host else host
    return printable(f"{flow.protocol.upper()} {host}:{flow.port}")


def outcome(flow: Flow) -> str:
    """Return what came of it: status, size and time, or how it failed."""
    if flow.origin in (Origin.BLOCKED, Origin.UNMATCHED):
        return str(flow.origin.value)
    if isinstance(flow, TlsFailure):
        how = "refused by the client" if flow.side == "client" else "failed at the server"
        return printable(f"{how}: {flow.detail}")
    if flow.error:
        after = f" after {size(flow.error.after)}" if flow.error.after else ""
        return f"{flow.error.kind}{after}"
    parts = [_result(flow)]
    if flow.started and flow.ended > flow.started:
        parts.append(duration(flow.ended - flow.started))
    return " ".join(parts)


def process_name(process: Process) -> str:
    """Return `curl(1234)`, or "" when it is not known."""
    return printable(f"{process.name or '?'}({process.pid})") if process.pid else ""


def _result(flow: Flow) -> str:
    if isinstance(flow, HttpFlow):
        if flow.response is None:
            return "(unanswered)"
        if isinstance(flow, WebSocketFlow) and flow.opened:
            sent = count(len(flow.sent), "message")
            return f"{flow.response.status} {sent} sent, {len(flow.received)} received"
        if isinstance(flow, GrpcFlow):
            status = "(no status)" if flow.status is None else GRPC_STATUS.get(flow.status)
            sent = count(len(flow.requests), "message")
            return f"{status or flow.status} {sent} sent, {len(flow.responses)} received"
        return f"{flow.response.status} {size(flow.response.body.size)}"
    if isinstance(flow, DnsFlow):
        answers = ", ".join(answer.data for answer in flow.answers)
        return cut(printable(answers or flow.rcode or "(unanswered)"), 80)
    if isinstance(flow, ServiceFlow):
        return cut(printable(flow.told), 80) if flow.ended else "(unanswered)"
    if isinstance(flow, UdpFlow):
        return (
            f"{count(flow.datagrams_sent, 'datagram')} sent, {flow.datagrams_received} received"
            f" ({size(flow.sent)}, {size(flow.received)})"
        )
    if isinstance(flow, TcpFlow):
        why = f" ({printable(flow.reason)})" if flow.reason else ""
        return f"{size(flow.sent)} sent, {size(flow.received)} received{why}"
    return "…"


def _message_lines(message: Message, mark: str) -> list[str]:
    lines = [
        f"  {mark} {printable(name)}: {cut(printable(value), _LONGEST_HEADER)}"
        for name, value in message.headers
    ]
    if message.body:
        lines.append(f"  {mark}")
        lines.append(f"  {mark} {_body_start(message)}")
    return lines


def _body_start(message: Message) -> str:
    start = next(message.body.pieces(4 * _LONGEST_BODY), b"")
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        text = start[: error.start].decode("utf-8") if error.start > len(start) - 4 else ""
    if not text:
        return f"({size(message.body.size)} of binary data)"
    short = printable(text)[:_LONGEST_BODY]
    return short if len(short) >= message.body.size else f"{short}… ({size(message.body.size)})"
