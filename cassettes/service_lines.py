"""Exchanges with databases and brokers as text, for a cassette's sidecar."""

from __future__ import annotations

from pytest_netcapture.cassettes.comparison import readable
from pytest_netcapture.cassettes.records import ServiceRecord, to_flow
from pytest_netcapture.flows import Body, MongoFlow, RedisFlow, ServiceFlow, SqlFlow

EVERY = 1 << 30


def service_title(record: ServiceRecord, place: str) -> str:
    """Return who asked which server, and what came of it."""
    flow = _flow(record)
    who = f" {record.session}" if record.session else ""
    told = "" if isinstance(flow, RedisFlow) else f" -> {flow.told}"
    return f"{record.service} {place}{who} {record.step}{told}"


def service_lines(record: ServiceRecord, limit: int) -> list[str]:
    """Return what was asked and answered, a value or a row a line; `limit` lines of a text."""
    flow = _flow(record)
    if isinstance(flow, RedisFlow):
        return [f"  {flow.asked}", f"  < {flow.told}"]
    lines = [f"  {line}" for line in record.question.splitlines()[:limit]]
    values = flow.parameters if isinstance(flow, SqlFlow) else flow.values
    lines += [f"  ${number} = {_shown(value)}" for number, value in enumerate(values, 1)]
    if record.sent:
        lines += [f"  > {line}" for line in readable(record.sent).splitlines()[:limit]]
    if isinstance(flow, SqlFlow):
        lines += _table(flow, limit // 2)
    if isinstance(flow, MongoFlow):
        lines += _documents(flow, limit // 2)
    return lines


def _documents(flow: MongoFlow, limit: int) -> list[str]:
    try:
        from pytest_netcapture import mongodb_documents  # whose package is not installed everywhere
    except ImportError:
        return ["  < (documents are shown with pip install 'pytest-netcapture[mongodb]')"]
    found = flow.batch
    lines = [f"  < {mongodb_documents.readable(one)}" for one in found[:limit]]
    if len(found) > limit:
        lines.append(f"  < ... {len(found) - limit} more documents")
    return lines


def _table(flow: SqlFlow, limit: int) -> list[str]:
    rows = flow.rows
    lines = [f"  < {' | '.join(flow.columns)}"] if flow.columns else []
    lines += [f"  < {' | '.join(map(_shown, row))}" for row in rows[:limit]]
    if len(rows) > limit:
        lines.append(f"  < ... {len(rows) - limit} more rows")
    return lines


def _flow(record: ServiceRecord) -> ServiceFlow:
    flow = to_flow(record, Body(), Body())
    assert isinstance(flow, ServiceFlow)
    return flow


def _shown(value: object) -> str:
    if value is None:
        return "NULL"
    return readable(value) if isinstance(value, bytes) else str(value)
