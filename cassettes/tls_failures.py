"""TLS handshakes that failed when recorded, by the place that they were with.

1. A bad certificate stays: every handshake with its place meets it, and the client decides.
2. Whatever else ended one (an alert, an end) did so as often as it was recorded; and for ever where
   nothing else is known of the place.
3. A failure counts as played when the client has failed again.

Proven by tests/cassettes/test_tls_failures.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from pytest_netcapture.cassettes.source import PeekTls, Recording
from pytest_netcapture.flows import TlsFailure


class TlsFailures:
    """All that a cassette has."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, int], list[Recording]] = {}

    def add(self, peek: PeekTls, names: Iterable[str], recording: Recording) -> None:
        recording.early = peek.side == "server"
        for name in names:
            self._of.setdefault((name, peek.port), []).append(recording)

    def next(self, names: Iterable[str], port: int, *, only: bool) -> TlsFailure | None:
        """Return what the next handshake with a place known by any of `names` meets.

        `only`: nothing else is known of the place.
        """
        servers = [recording for recording in self._all(names, port) if recording.early]
        if not servers:
            return None
        left = [recording for recording in servers if not recording.played]
        flow = (left or servers[-1:])[0].flow()
        assert isinstance(flow, TlsFailure)
        return flow if left or only or flow.is_of_certificate else None

    def take(self, names: Iterable[str], port: int) -> bool:
        """Note that a handshake has failed again; tell whether one was recorded."""
        recordings = self._all(names, port)
        recording = next((r for r in recordings if not r.played), None)
        if recording is not None:
            recording.played += 1
        return bool(recordings)

    def _all(self, names: Iterable[str], port: int) -> list[Recording]:
        found = {r.offset: r for name in names for r in self._of.get((name, port), ())}
        return [found[offset] for offset in sorted(found)]
