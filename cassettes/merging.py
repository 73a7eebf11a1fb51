"""Cassettes become one: all that is in any of them, or what two sides made of a common base.

Recordings are equal when their bytes are. One that is in a file twice was recorded twice, and
stays so: of each the largest number that any file has is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pytest_netcapture.cassettes.saving import order_key
from pytest_netcapture.cassettes.session import digest
from pytest_netcapture.cassettes.sidecar import title
from pytest_netcapture.cassettes.source import Recording, Source
from pytest_netcapture.cassettes.tags import without_tags


def union(sources: Sequence[Source]) -> list[Recording]:
    """Return what is in any of the sources, the first's order first."""
    have: Counter[bytes] = Counter()
    out: list[Recording] = []
    for source in sources:
        seen: Counter[bytes] = Counter()
        for recording in source.recordings:
            key = digest(recording)
            seen[key] += 1
            if seen[key] > have[key]:
                have[key] += 1
                out.append(recording)
    return out


def three_way(base: Source, ours: Source, theirs: Source) -> tuple[list[Recording], list[str]]:
    """Return what both sides made of `base`, and the titles of what they made differently.

    What one side removed is gone, what one side added is there. Where both changed what answers the
    same request, and not alike, that is a conflict; ours is in the result.
    """
    before = Counter(map(digest, base.recordings))
    left, right = (Counter(map(digest, side.recordings)) for side in (ours, theirs))
    removed = before - right
    out = []
    for recording in ours.recordings:
        key = digest(recording)
        if removed[key]:
            removed[key] -= 1
        else:
            out.append(recording)
    added = right - before - (left - before)
    new = [r for r in theirs.recordings if _take(added, digest(r))]
    own = {_identity(r) for r in ours.recordings if digest(r) not in before}
    conflicts = [title(r.record()) for r in new if _identity(r) in own]
    return out + [r for r in new if _identity(r) not in own], conflicts


def _take(counter: Counter[bytes], key: bytes) -> bool:
    if not counter[key]:
        return False
    counter[key] -= 1
    return True


def _identity(recording: Recording) -> tuple[str, ...]:
    return tuple(without_tags(str(part)) for part in order_key(recording.record()))
