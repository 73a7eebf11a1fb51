"""Whose traffic is captured: rules as people write them, and what the kernel's half makes of them.

1. A rule names a process by its number or by a name: that of the program's file, or the process's
   own, of which the kernel keeps 15 bytes. `!` before it leaves the process alone. Several are
   separated by commas. No rule means everything; when the first one leaves alone, what no rule
   names is captured (as mitmproxy's local mode reads them).
2. A process that no rule names is as its parent is, or as it was when its parent ended; of the
   rules that name it the last one counts.
3. Nothing here does I/O.

Tests: test_ebpf_targets.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pytest_netcapture.errors import UsageError
from pytest_netcapture.redirect.ebpf_records import CAPTURE_REST, NAMES, encode_name

_OWN = 1 << 16
"""Above each rank that was inherited."""

_LARGEST = 1 << 22
"""More processes than the kernel numbers (PID_MAX_LIMIT)."""


class Rule(NamedTuple):
    """One rule; `process` is 0 when it goes by `name`."""

    name: str
    process: int
    excludes: bool


class Rules(NamedTuple):
    """All rules, in order."""

    rules: tuple[Rule, ...]

    @property
    def flags(self) -> int:
        """Return the flags of `Config` that they need."""
        rest = not self.rules or self.rules[0].excludes
        named = any(rule.name for rule in self.rules)
        return (CAPTURE_REST if rest else 0) | (NAMES if named else 0)

    def names(self) -> dict[bytes, int]:
        """Return the kernel's map of names."""
        return {encode_name(r.name): _value(i, r) for i, r in enumerate(self.rules) if r.name}

    def processes(self) -> dict[int, int]:
        """Return the kernel's map of processes, as far as rules name them."""
        return {r.process: _value(i, r) for i, r in enumerate(self.rules) if r.process}

    def naming(self, process: int, names: Iterable[str]) -> int:
        """Return the value of the last rule that names a process, 0 when none does."""
        known = set(names)
        found = (
            _value(index, rule)
            for index, rule in enumerate(self.rules)
            if (rule.process == process if rule.process else rule.name in known)
        )
        return max(found, default=0)


def parse(specs: Sequence[str]) -> Rules:
    """Read rules. Raises `UsageError`."""
    words = [word.strip() for spec in specs for word in spec.split(",")]
    return Rules(tuple(_rule(word) for word in words if word))


def inherited(value: int) -> int:
    """Return a rule's value as the children of whom it names have it."""
    return value & (_OWN * 2 - 1)


def _value(index: int, rule: Rule) -> int:
    return (_OWN + index + 1) << 1 | rule.excludes


def _rule(word: str) -> Rule:
    name = word.removeprefix("!").strip()
    if not name or name.startswith("!"):
        raise UsageError(
            f"{word!r} names no process", cure="write a name, a number, or either after one !"
        )
    if "/" in name:
        raise UsageError(
            f"{word!r} is a path", cure=f"write the file's name alone: {name.rpartition('/')[2]}"
        )
    if "\0" in name or len(name.encode()) > 63:
        raise UsageError(
            f"{word!r} is no file's name", cure="file names have 63 bytes at most here"
        )
    if name.isascii() and name.isdigit():
        if not 0 < int(name) < _LARGEST:
            raise UsageError(f"{word!r}: no process has that number", cure="see: netcapture ps")
        return Rule("", int(name), word.startswith("!"))
    return Rule(name, 0, word.startswith("!"))
