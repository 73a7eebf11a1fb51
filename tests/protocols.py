"""The table in docs/protocols.md: what tests have shown of each protocol. `python tests/protocols.py`.

1. A test says what it shows: `@pytest.mark.shows("HTTP/3", "recorded", clients=["quic-go"], ...)`.
2. Run as a program, those tests are run, and what passed is written; a test that was skipped, or of
   which one case was, has shown nothing.
3. tests/test_protocols.py fails where the table is not what the marks promise.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "protocols.md"
WHAT = ("captured", "asserted", "recorded", "replayed")
BEGIN, END = "<!-- begin: python tests/protocols.py -->\n", "<!-- end -->\n"
ORDER = (
    "HTTP/1.1",
    "HTTP/2",
    "HTTP/3",
    "events and streamed bodies",
    "WebSocket",
    "WebSocket over HTTP/2",
    "WebSocket over HTTP/3",
    "gRPC",
)


class Shown(NamedTuple):
    """One mark, and the test that has it: `folder/file.py::name`."""

    test: str
    protocol: str
    what: tuple[str, ...]
    clients: tuple[str, ...]
    servers: tuple[str, ...]


def marks() -> list[Shown]:
    """Read the marks of all tests. Raises `ValueError` for one that makes no sense."""
    found = []
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.parse(path.read_bytes()).body:
            for decorator in getattr(node, "decorator_list", ()):
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == (
                    "pytest.mark.shows"
                ):
                    test = f"{path.relative_to(TESTS.parent).as_posix()}::{node.name}"
                    found.append(_read(test, decorator))
    return found


def _read(test: str, call: ast.Call) -> Shown:
    protocol, *what = map(ast.literal_eval, call.args)
    named = {keyword.arg: tuple(ast.literal_eval(keyword.value)) for keyword in call.keywords}
    if (
        protocol not in ORDER
        or not set(what) <= set(WHAT)
        or not named.keys()
        <= {
            "clients",
            "servers",
        }
    ):
        raise ValueError(f"{test}: {ast.unparse(call)}")
    return Shown(test, protocol, tuple(what), named.get("clients", ()), named.get("servers", ()))


def table(shown: Iterable[Shown]) -> str:
    """Return the table as Markdown."""
    shown = list(shown)
    lines = [
        f"| protocol | {' | '.join(WHAT)} | with clients | with servers |",
        f"| --- |{' --- |' * (len(WHAT) + 2)}",
    ]
    for protocol in ORDER:
        these = [one for one in shown if one.protocol == protocol]
        ticks = ["✓" if any(what in one.what for one in these) else "" for what in WHAT]
        names = [
            ", ".join(sorted({name for one in these for name in getattr(one, side)}, key=str.lower))
            for side in ("clients", "servers")
        ]
        lines.append(f"| {' | '.join((protocol, *ticks, *names))} |")
    return "\n".join(lines) + "\n"


def committed() -> str:
    """Return the table in the page."""
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0]


def main() -> int:
    promised = marks()
    tests = sorted({one.test for one in promised})
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rA",
        "-p",
        "no:randomly",
        *sys.argv[1:],
        *tests,
    ]
    done = subprocess.run(command, cwd=TESTS.parent, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    outcomes: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        outcome, _, rest = line.partition(" ")
        if outcome in ("PASSED", "FAILED", "ERROR", "SKIPPED"):
            outcomes.setdefault(rest.partition("[")[0].partition(" - ")[0], set()).add(outcome)
    skipped = "SKIPPED" in done.stdout
    shown = [one for one in promised if outcomes.get(one.test) == {"PASSED"}]
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(before + BEGIN + table(shown) + END + rest.partition(END)[2])
    for one in promised:
        if one not in shown:
            print(f"not shown: {one.test}")
    if skipped:
        print("tests were skipped, and their cases not counted: see above")
    return int(done.returncode != 0 or skipped or len(shown) != len(promised))


if __name__ == "__main__":
    sys.exit(main())
