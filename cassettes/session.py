"""What this session, and this process in it, has done to a cassette file before.

1. A file that was changed since the session started is the session's own: `once` may go on
   recording into it, and `rewrite` merges instead of wiping.
2. `all` replaces recordings that are older than the session. Which those are is known as long as
   nobody but this process wrote the file; else nothing is taken out, for losing a recording of
   another worker is worse than keeping an old one beside the new.
"""

from __future__ import annotations

import hashlib
from collections import Counter

from pytest_netcapture.cassettes.source import Recording, Source, identity

_CLOCK_STEP_NS = 20_000_000
"""File times come from a clock that ticks; `time.time_ns` is finer."""

_known: dict[tuple[str, int], Older] = {}


class Older:
    """The recordings of one file that are older than the session, by digest."""

    def __init__(self, version: tuple[int, ...], recordings: Counter[bytes]) -> None:
        self.version = version
        self.recordings = recordings


def is_of_session(source: Source, session_started_ns: int) -> bool:
    return source.stat.st_mtime_ns >= session_started_ns - _CLOCK_STEP_NS


def remember(source: Source, session_started_ns: int) -> None:
    """Note which recordings are older than the session, at the first sight of an old file."""
    key = source.path, session_started_ns
    if key not in _known and not is_of_session(source, session_started_ns):
        _known[key] = Older(identity(source.stat), Counter(map(digest, source.recordings)))


def older_than_session(source: Source, session_started_ns: int) -> Counter[bytes]:
    """Return the digests of recordings of the file, as it is now, that the session did not make."""
    if not is_of_session(source, session_started_ns):
        return Counter(map(digest, source.recordings))
    known = _known.get((source.path, session_started_ns))
    if known is None or known.version != identity(source.stat):
        return Counter()
    return Counter(known.recordings)


def saved(
    path: str, session_started_ns: int, version: tuple[int, ...], removed: Counter[bytes]
) -> None:
    """Note that this process has just written the file as `version`, without `removed`."""
    known = _known.get((path, session_started_ns))
    if known and version:
        known.version = version
        known.recordings -= removed


def digest(recording: Recording) -> bytes:
    return hashlib.blake2b(recording.payload(), digest_size=12).digest()
