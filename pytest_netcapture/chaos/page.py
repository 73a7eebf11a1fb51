"""The matrix as one HTML file that needs no other."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from pytest_netcapture.chaos.outcomes import LETTERS, Result

if TYPE_CHECKING:
    from pytest_netcapture.chaos.matrix import Matrix

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
table { border-collapse: collapse } th, td { border: 1px solid #ccc; padding: .3em .5em }
td.cell { text-align: center; min-width: 2em } th { background: #f4f4f4; text-align: left }
code { font-family: ui-monospace, monospace } td details { text-align: left; white-space: pre-wrap }
.o0 { background: #d9f2d9 } .o1 { background: #eef6d8 } .o2 { background: #e06060; color: #fff }
.o3 { background: #f0b050 } .o4 { background: #f0b050 } .o5 { background: #eee }
@media (prefers-color-scheme: dark) {
body { color: #ddd; background: #1b1b1b } th { background: #2b2b2b } th, td { border-color: #444 }
.o0 { background: #1f4a1f } .o1 { background: #3c471c } .o5 { background: #333 }
.o3, .o4 { color: #222 } }
"""
_ORDER = list(LETTERS)


def page(matrix: Matrix) -> str:
    """Return the whole page."""
    kinds = matrix.kinds()
    head = "".join(f"<th>{escape(kind)}</th>" for kind in kinds)
    body = []
    for test, exchanges in matrix.rows().items():
        note = " (fails without faults, too)" if test in matrix.failing else ""
        body.append(
            f'<tr><th colspan="{len(kinds) + 1}"><code>{escape(test)}</code>{note}</th></tr>'
        )
        for (number, exchange), cells in exchanges.items():
            row = "".join(_cell(cells.get(kind)) for kind in kinds)
            body.append(f"<tr><td>{number} <code>{escape(exchange)}</code></td>{row}</tr>")
    legend = " ".join(
        f'<span class="o{index}">&nbsp;{letter}&nbsp;</span> {escape(name)}'
        for index, (name, letter) in enumerate(LETTERS.items())
    )
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>netcapture chaos</title><style>{_STYLE}</style>"
        f"<h1>netcapture chaos</h1><p>{escape(matrix.totals())}</p><p>{legend}</p>"
        f"<table><tr><th>exchange</th>{head}</tr>\n{chr(10).join(body)}\n</table></html>\n"
    )


def _cell(result: Result | None) -> str:
    if result is None:
        return "<td></td>"
    letter, number = LETTERS[result.outcome], _ORDER.index(result.outcome)
    told = escape(result.text() if result.is_bad else f"{result.outcome}\n{result.said}".strip())
    if result.is_bad:
        letter = f"<details><summary>{letter}</summary>{told}</details>"
        told = escape(result.outcome)
    return f'<td class="cell o{number}" title="{told}">{letter}</td>'
