"""`netcapture stats`: what is in cassettes, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import click
import msgspec

from pytest_netcapture.cassettes.records import AnyRecord, HttpRecord, ServiceRecord, bodies_of
from pytest_netcapture.cassettes.saving import order_key
from pytest_netcapture.cassettes.sidecar import title
from pytest_netcapture.cli.files import cassette_arguments, expand, json_option, opened
from pytest_netcapture.report.text import count, cut, printable, size

_HOSTS, _LARGEST = 10, 5


class Numbers(msgspec.Struct, omit_defaults=True):
    """Of one cassette, or of several together. Sizes in bytes."""

    cassettes: int = 0
    file_size: int = 0
    flows: int = 0
    kinds: Counter[str] = msgspec.field(default_factory=Counter)
    hosts: Counter[str] = msgspec.field(default_factory=Counter)
    methods: Counter[str] = msgspec.field(default_factory=Counter)
    statuses: Counter[str] = msgspec.field(default_factory=Counter)
    bodies: int = 0
    body_size: int = 0
    sent_size: int = 0
    """What the bodies amount to as they went over the wire, each time."""
    recorded: list[str] = []
    """The days of the oldest and the newest."""
    largest: list[tuple[int, str]] = []


@click.command()
@cassette_arguments
@json_option
def stats(*, paths: Sequence[str], as_json: bool) -> int:
    """Print how much cassettes hold, of what, from whom.

    Example: netcapture stats tests/cassettes
    """
    total = Numbers()
    for path in expand(paths):
        _add(total, path)
    if as_json:
        click.echo(msgspec.json.encode(total).decode())
    else:
        click.echo("\n".join(_lines(total)))
    return 0


def _add(total: Numbers, path: str) -> None:
    with opened(path) as source:
        total.cassettes += 1
        total.file_size += source.stat.st_size
        if day := source.header.recorded:
            total.recorded = [min([day, *total.recorded]), max([day, *total.recorded])]
        stored: dict[str, int] = {}
        for recording in source.recordings:
            record = recording.record()
            _count(total, record)
            for ref in bodies_of(record):
                total.sent_size += ref.size
                if ref.id:
                    stored[ref.id] = ref.size
                    total.largest.append((ref.size, title(record)))
            total.largest = sorted(set(total.largest), reverse=True)[:_LARGEST]
        total.bodies += len(stored)
        total.body_size += sum(stored.values())


def _count(total: Numbers, record: AnyRecord) -> None:
    total.flows += 1
    service = record.service if isinstance(record, ServiceRecord) else ""
    total.kinds[service or str(record.__struct_config__.tag)] += 1
    total.hosts[order_key(record)[0]] += 1
    if isinstance(record, HttpRecord):
        total.methods[record.request.method] += 1
        total.statuses[str(record.response.status) if record.response else "no answer"] += 1


def _lines(total: Numbers) -> list[str]:
    days = " to ".join(dict.fromkeys(total.recorded))
    lines = [
        f"{count(total.cassettes, 'cassette')}, {size(total.file_size)}"
        + (f", recorded {days}" if days else ""),
        f"{count(total.flows, 'flow')}: {_counted(total.kinds)}",
    ]
    if total.methods:
        lines.append(f"methods: {_counted(total.methods)}")
        lines.append(f"statuses: {_counted(total.statuses)}")
    again = total.sent_size - total.body_size
    shared = f", {size(again)} more if each flow had its own" if again else ""
    bodies = "1 body" if total.bodies == 1 else f"{total.bodies} bodies"
    lines.append(f"{bodies}, {size(total.body_size)}{shared}")
    lines.append("hosts:")
    lines += [f"  {n:>6}  {printable(host)}" for host, n in total.hosts.most_common(_HOSTS)]
    if len(total.hosts) > _HOSTS:
        lines.append(f"          {len(total.hosts) - _HOSTS} more")
    if total.largest:
        lines.append("largest bodies:")
        lines += [f"  {size(n):>9}  {cut(printable(name), 100)}" for n, name in total.largest]
    return lines


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counter.most_common())
