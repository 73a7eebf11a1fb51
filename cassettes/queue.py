"""Recordings of one key, in the order in which they are given out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_netcapture.settings import Repeat

if TYPE_CHECKING:
    from pytest_netcapture.cassettes.source import Recording


class Queue:
    """Recordings of one key, and how far they were played."""

    __slots__ = ("position", "recordings")

    def __init__(self) -> None:
        self.recordings: list[Recording] = []
        self.position = 0

    def next(self, repeat: Repeat) -> Recording | None:
        """Return the recording whose turn it is, None when all are used up."""
        count = len(self.recordings)
        if self.position < count:
            index = self.position
        elif repeat is Repeat.ONCE:
            return None
        elif repeat is Repeat.CYCLE:
            index = self.position % count
        else:
            index = count - 1 if repeat is Repeat.LAST else 0
        self.position += 1
        recording = self.recordings[index]
        recording.played += 1
        return recording

    def again(self) -> Recording:
        """Return what was returned last."""
        return self.recordings[min(self.position, len(self.recordings)) - 1]
