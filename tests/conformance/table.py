"""Prints what each redirector does: `python tests/conformance/table.py` tries it all, here and now.

With `--declared` it prints what is declared, which is the table of docs/redirectors.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from behaviours import BEHAVIOURS, EXCEPTIONS
from harness import REDIRECTORS, attempt, probe

START, END = "<!-- conformance: from here -->", "<!-- conformance: to here -->"


def declared(redirector, behaviour):
    return EXCEPTIONS.get((redirector, behaviour.name), "")


def rows(cell):
    yield f"| | {' | '.join(REDIRECTORS)} |"
    yield "| --- " * (1 + len(REDIRECTORS)) + "|"
    for behaviour in BEHAVIOURS:
        cells = " | ".join(cell(redirector, behaviour) for redirector in REDIRECTORS)
        yield f"| {behaviour.title} | {cells} |"


def from_declarations():
    """Return the table of the documentation."""
    return "\n".join(rows(lambda *both: declared(*both) or "yes"))


def main():
    if "--declared" in sys.argv:
        print(from_declarations())
        return 0
    missing = {name: s.reason for name in REDIRECTORS if not (s := probe(name)).available}
    wrong = []

    def tried(redirector, behaviour):
        if redirector in missing:
            return "not here"
        works, expected = not attempt(redirector, behaviour), not declared(redirector, behaviour)
        if works != expected:
            wrong.append((redirector, behaviour.name))
        return "yes" if works else declared(redirector, behaviour) or "NO"

    for row in rows(tried):
        print(row, flush=True)
    for name, reason in missing.items():
        print(f"{name} does not work here: {reason}")
    for redirector, name in wrong:
        print(f"not as declared: {redirector}, {name}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
