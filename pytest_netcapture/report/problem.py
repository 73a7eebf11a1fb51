"""The text of one `Problem` in a failed test's report.

1. It answers in this order: what was attempted, why it failed, who attempted it, where in the
   user's code, which recording came nearest, what to do.
2. The first line stands alone: it is what a one-line summary shows.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_netcapture.flows import AnyFlow, Problem, Process
from pytest_netcapture.report.differences import difference_lines
from pytest_netcapture.report.exchange import flow_line, subject
from pytest_netcapture.report.text import cut, printable
from pytest_netcapture.stacks import Frame

_MOST_FRAMES = 5
_LONGEST_COMMAND = 120


def problem_title(problem: Problem) -> str:
    """Return `unmatched: GET https://host/x`, the first line of `problem_text`."""
    kind = printable(problem.kind)
    return f"{kind}: {subject(problem.flow)}" if problem.flow else f"{kind}: {_reason(problem)}"


def problem_text(problem: Problem, frames: Sequence[Frame] = (), rootdir: str = "") -> str:
    """Return the whole section; `frames` are the user's own, outermost first (see stacks.py)."""
    lines = [problem_title(problem)]
    if problem.flow:
        lines += _labelled("why", printable_lines(problem.reason) or [_reason(problem)])
        lines += _labelled("made by", _process_lines(problem.flow.process))
    lines += _labelled("from", _frame_lines(frames, rootdir))
    lines += _labelled("nearest", _nearest_lines(problem.nearest, problem))
    lines += _labelled("do", printable_lines(problem.advice))
    return "\n".join(lines)


def printable_lines(text: str) -> list[str]:
    return [printable(line) for line in text.splitlines()]


def _reason(problem: Problem) -> str:
    return printable(problem.reason) or "no reason was given"


def _labelled(label: str, lines: Sequence[str]) -> list[str]:
    return [f"  {label if i == 0 else '':<8} {line}".rstrip() for i, line in enumerate(lines)]


def _process_lines(process: Process) -> list[str]:
    lines = [printable(str(process))]
    if process.command:
        lines.append(cut(printable(" ".join(process.command)), _LONGEST_COMMAND))
    return lines


def _frame_lines(frames: Sequence[Frame], rootdir: str) -> list[str]:
    lines = [f"… {len(frames) - _MOST_FRAMES} outer frames"] if len(frames) > _MOST_FRAMES else []
    for frame in frames[-_MOST_FRAMES:]:
        lines.append(f"{frame.place(rootdir)} in {frame.function}")
        if frame.source:
            lines.append(f"    {printable(frame.source)}")
    return lines


def _nearest_lines(nearest: AnyFlow | None, problem: Problem) -> list[str]:
    if nearest is None:
        return []
    lines = [flow_line(nearest, who=False).replace("  [played]", "")]
    if problem.differences:
        lines.append("(- recorded, + actual)")
    return lines + difference_lines(problem.differences)
