"""Deal with the journals of recordings that were killed.

Modes that add to a cassette get the intact flows of such a journal; the others start as if it had
not been. Either way it is gone afterwards, and a warning says what happened.
"""

from __future__ import annotations

from pytest_netcapture.cassettes.journal import recover, stale_journals
from pytest_netcapture.cassettes.saving import save
from pytest_netcapture.errors import CassetteError


def recover_journals(target: str, *, keep: bool) -> list[str]:
    """Add stale journals of `target` to it, or only remove them; return warnings for people."""
    with stale_journals(target) as journals:
        return [_recover_one(target, journal, keep=keep) for journal in journals]


def count_of(flows: int) -> str:
    return "1 flow" if flows == 1 else f"{flows} flows"


def _recover_one(target: str, journal: str, *, keep: bool) -> str:
    try:
        source = recover(journal)
    except CassetteError:
        return f"{target}: removed the journal of a recording that was killed (unreadable)"
    try:
        flows = count_of(len(source.recordings))
        if not keep or not source.recordings:
            return f"{target}: removed the journal of a recording that was killed ({flows})"
        save(target, source, lambda base: base.recordings, source.header.salt)
        return f"{target}: recovered {flows} from a recording that was killed"
    finally:
        source.close()
