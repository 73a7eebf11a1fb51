"""Why a claim about traffic does not hold: what was asked, what came nearest, what else there was.

1. The order is the reader's: the claim and the count, the flows that matched, the nearest that did
   not (field by field, `- wanted` over `+ was`), the rest in a line each.
2. Every list is bounded, and says what it leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_netcapture.flows import AnyFlow
from pytest_netcapture.matching import Criteria, Near, nearest
from pytest_netcapture.report.differences import difference_lines
from pytest_netcapture.report.exchange import flow_line, flow_lines

_MOST_MATCHED = 5
_MOST_NEAR = 3
_MOST_OTHERS = 10


def mismatch_text(
    claim: str,
    criteria: Criteria | None,
    flows: Sequence[AnyFlow],
    *,
    everything: Sequence[AnyFlow] | None = None,
) -> str:
    """Explain a failed `claim` about `flows`; `everything` is all traffic of the test."""
    everything = flows if everything is None else everything
    if not everything:
        return f"{claim}\n\nthere was no traffic at all"
    matched = [flow for flow in flows if criteria is not None and criteria.matches(flow)]
    near = nearest(flows, criteria, _MOST_NEAR) if criteria and not matched else []
    listed = {id(flow) for flow in (*matched, *(one.flow for one in near))}
    others = [flow for flow in everything if id(flow) not in listed]
    parts = [claim]
    if matched:
        parts.append(_section("matching:", flow_lines(matched, limit=_MOST_MATCHED)))
    if near:
        parts.append(_section("nearest (- wanted, + was):", _near_lines(near)))
    if others:
        title = "other traffic:" if matched or near else "there was:"
        parts.append(_section(title, flow_lines(others, limit=_MOST_OTHERS, last=True)))
    return "\n\n".join(parts)


def _near_lines(near: Sequence[Near]) -> list[str]:
    lines = []
    for one in near:
        lines.append(f"  {flow_line(one.flow)}")
        lines += difference_lines(one.differences, indent="    ")
    return lines


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([title, *lines])
