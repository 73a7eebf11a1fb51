"""A cassette's conversations of bytes: played as scripts, learned from when recorded again.

Proven by tests/cassettes/test_talks.py.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from pytest_netcapture.cassettes import session
from pytest_netcapture.cassettes.explain import explain_raw, explain_used_up
from pytest_netcapture.cassettes.masks import distance, found_by, learn
from pytest_netcapture.cassettes.miss import Miss
from pytest_netcapture.cassettes.part import Part
from pytest_netcapture.cassettes.script import Cast, DatagramScript, Script
from pytest_netcapture.cassettes.shelf import Shelf
from pytest_netcapture.cassettes.source import Recording, Source
from pytest_netcapture.flows import AnyRaw, TcpFlow, UdpFlow
from pytest_netcapture.settings import CassetteUse, Repeat


class Talks:
    """Makes scripts for the connections of one test."""

    def __init__(self, use: CassetteUse, shelf: Shelf, scrub: Callable[[bytes], bytes]) -> None:
        self._use = use
        self._shelf = shelf
        self._scrub = scrub
        self._cast = Cast()
        self._loaded: dict[int, tuple[AnyRaw, list[tuple[int, int]]]] = {}

    def script(
        self, kind: str, names: list[str], port: int, began: Callable[[], None], *, later: bool
    ) -> Script | Miss:
        """Return what a conversation with a place may play; `began` is told when it does.

        What stood at the same part of a connection (`later` or not) comes first.
        """
        recordings = self._shelf.talks(kind, names, port)
        recordings.sort(key=lambda recording: recording.later is not later)
        if not recordings:
            return explain_raw(self._shelf, kind, names, port)
        left = [each for each in recordings if not each.played]
        parts = [self._part(recording) for recording in left]
        if self._use.repeat is not Repeat.ONCE:
            again = recordings[-1:] if self._use.repeat is Repeat.LAST else recordings
            parts += [self._part(each, shared=True) for each in again if each.played]
        if not parts:
            return explain_used_up(recordings)
        make = DatagramScript if kind == "udp" else Script
        return make(self._cast, parts, self._scrub, began=began, taken=self._taken)

    def speaks_first(self, kind: str, names: list[str], port: int) -> bool:
        """Tell whether the server of the next connection to a place is to speak first."""
        recordings = [each for each in self._shelf.talks(kind, names, port) if not each.later]
        left = [each for each in recordings if not each.played] or recordings[-1:]
        return bool(left) and left[0].early

    def is_played(self, recording: Recording) -> bool:
        """Tell whether a recording was played, or is being played."""
        return bool(recording.played) or self._cast.holds(recording)

    def _part(self, recording: Recording, *, shared: bool = False) -> Part:
        loaded = self._loaded.get(id(recording))
        if loaded is None:
            flow = recording.flow()
            assert isinstance(flow, (TcpFlow, UdpFlow))
            masks = self._use.filters.masks
            given = found_by(masks, flow.sent_bytes) if masks else []
            loaded = self._loaded[id(recording)] = flow, given
        return Part(recording, *loaded, shared=shared)

    def _taken(self, part: Part) -> None:
        assert isinstance(part.key, Recording)
        part.key.played += 1
        self._cast.forget(part.key)
        if self._use.repeat is Repeat.ONCE:
            self._loaded.pop(id(part.key), None)


class Teacher:
    """Lends new recordings the masks that comparing them with older ones teaches."""

    def __init__(self, source: Source, session_started_ns: int) -> None:
        older = session.older_than_session(source, session_started_ns)
        self._left: dict[tuple[object, ...], list[AnyRaw]] = {}
        for recording in source.recordings if older else ():
            flow = recording.flow() if older[session.digest(recording)] > 0 else None
            if isinstance(flow, (TcpFlow, UdpFlow)) and flow.turns:
                self._left.setdefault(_key(flow), []).append(flow)

    def taught(self, flow: AnyRaw) -> AnyRaw:
        """Return `flow` with what the most similar older recording, used once, teaches."""
        others = self._left.get(_key(flow), [])
        found = [(gap, other) for other in others if (gap := distance(other, flow)) >= 0]
        if not found:
            return flow
        _, other = min(found, key=lambda pair: pair[0])
        others[:] = [each for each in others if each is not other]
        masks, echoes = learn(other, flow)
        return msgspec.structs.replace(flow, masks=masks, echoes=echoes)


def _key(flow: AnyRaw) -> tuple[object, ...]:
    return flow.protocol, flow.host, flow.port
