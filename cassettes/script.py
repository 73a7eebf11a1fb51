"""A recorded conversation of bytes while it is played: what is said when, and what is expected.

1. Recordings that the client is unlike are out; as long as several are left they are followed
   together, while their servers say the same. Each is followed by a `Part`.
2. A recording belongs to one connection. One that is held by another is given up by it if that one
   can be any other as well: so which connection came first does not matter, only what it says.
3. Where several would do the first in recorded order is played: servers that speak first are told
   apart by order.

Proven by tests/cassettes/test_script.py.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_netcapture.cassettes.miss import Miss, MissKind
from pytest_netcapture.cassettes.part import Part, Speech
from pytest_netcapture.flows import Difference

_WINDOW = 24
"""Bytes of either side that a miss shows."""
_BEFORE = 8
_NOTHING = "(nothing)"
CURE = (
    "record it again with --netcapture-record-mode=rewrite; if these bytes vary by themselves, "
    "with --netcapture-record-mode=all, which learns what differs (docs/raw-protocols.md#masks)"
)


class Cast:
    """Which conversation holds which recording."""

    def __init__(self) -> None:
        self._holders: dict[object, Script] = {}

    def held(self, script: Script) -> Part | None:
        """Return the part that `script` plays: the one that it holds, or may share."""
        own = (part for part in script.parts if self._holders.get(part.key) is script)
        return next(own, None) or next((part for part in script.parts if part.shared), None)

    def give_up(self, script: Script) -> None:
        for key in [key for key, holder in self._holders.items() if holder is script]:
            del self._holders[key]

    def holds(self, key: object) -> bool:
        return key in self._holders

    def forget(self, key: object) -> None:
        self._holders.pop(key, None)

    def claim(self, script: Script) -> bool:
        """Find a recording for `script`, moving others if that is needed; False if there is none.

        It is Kuhn's matching, one path at a time.
        """
        self.give_up(script)
        return self._claim(script, set()) or any(part.shared for part in script.parts)

    def _claim(self, script: Script, tried: set[object]) -> bool:
        own = [part for part in script.parts if not part.shared]
        for part in own:
            if part.key not in self._holders:
                self._holders[part.key] = script
                return True
        for part in own:
            if part.key not in tried:
                tried.add(part.key)
                if self._claim(self._holders[part.key], tried):
                    self._holders[part.key] = script
                    return True
        return False


class Script:
    """What one connection, or flow of datagrams, plays.

    `parts` are the recordings that it may be, in recorded order; `scrub` takes secrets out of bytes
    without changing their length. `began` is told when the first of it is played, `taken` which
    recording it was in the end.
    """

    def __init__(
        self,
        cast: Cast,
        parts: list[Part],
        scrub: Callable[[bytes], bytes],
        *,
        began: Callable[[], None],
        taken: Callable[[Part], None],
    ) -> None:
        self.parts = parts
        self.settled = False
        self.begun = False
        self.spoke = False
        """Whether the server has said anything."""
        self._cast = cast
        self._scrub = scrub
        self._began = began
        self._taken = taken

    @property
    def speaks_first(self) -> bool:
        """Tell whether the server is to speak before the client does."""
        return bool(self.parts) and self.parts[0].speaks_first

    @property
    def over(self) -> bool:
        """Tell whether nothing more was recorded."""
        return self.part.over

    @property
    def part(self) -> Part:
        """The recording that is played, as far as it is known."""
        return self._cast.held(self) or self.parts[0]

    @property
    def stalled(self) -> bool:
        """Tell whether it waits for the rest of something that the server answers."""
        return all(part.stalled for part in self.parts)

    def begin(self) -> Speech | Miss:
        """Return what the server says before it was told anything."""
        return self._go_on()

    def heard(self, data: bytes) -> Speech | Miss:
        """Take bytes of the client's."""
        places = [(part, part.heard, part.hear(data)) for part in self.parts]
        alive = [part for part, _, at in places if at < 0]
        if not alive:
            part, before, at = max(places, key=lambda place: place[2])
            start = max(at - _BEFORE, before)
            return _unlike(part, at, start, self._scrub(data)[start - before :])
        self.parts = alive
        return self._go_on()

    def client_ended(self) -> Speech | Miss:
        """Take the end of the client's side, in whatever way it ended."""
        whole = [part for part in self.parts if part.heard >= part.total]
        if not whole:
            return _cut_off(self.part, "the client ended")
        self.parts = whole
        for part in whole:
            part.ended = True
        return self._go_on()

    def stopped(self) -> Miss:
        """Return how the conversation stands: the client has begun something, and waits."""
        part = self.part
        if part.turn is not None and part.turn.end:
            reason = "the client waits, and has not ended its side as it did when recorded"
            return Miss(MissKind.NEVER, reason, part.flow, advice=CURE)
        return _cut_off(part, "the client waits")

    def finish(self) -> None:
        """Say which recording was played, if any was begun."""
        if not self.begun or self.settled:
            self._cast.give_up(self)
            return
        part, self.settled = self.part, True
        self._taken(part)

    def _go_on(self) -> Speech | Miss:
        """Let the server speak, and keep the recordings in which it says the same."""
        if not self._cast.claim(self):
            return _used_up(self.parts)
        if not self.begun:
            self.begun = True
            self._began()
        leader = self.part
        speeches = [(part, self._due(part)) for part in self.parts]
        speech = next(speech for part, speech in speeches if part is leader)
        if speech:
            self.spoke = True
            self.parts = [
                part for part, other in speeches if part is leader or _same(speech, other)
            ]
        return speech

    def _due(self, part: Part) -> Speech:
        return part.due()


class DatagramScript(Script):
    """A flow of datagrams: each is compared whole; one that comes again is answered again."""

    _answered: dict[bytes, Speech] | None = None
    _count = 0

    def heard(self, data: bytes) -> Speech | Miss:
        if self._answered is None:
            self._answered = {}
        self._count += 1
        places = [(part, part.heard, part.hear_datagram(data)) for part in self.parts]
        alive = [part for part, _, at in places if at < 0]
        if alive:
            self.parts = alive
            speech = self._go_on()
            if isinstance(speech, Speech):
                self._answered[data] = speech
            return speech
        if data in self._answered:
            return self._answered[data]
        part, before, at = max(places, key=lambda place: place[2])
        return self._unlike(part, before, at - before, data)

    def _unlike(self, part: Part, before: int, at: int, data: bytes) -> Miss:
        if part.turn is None:
            reason = f"datagram {self._count} of the client is new: when recorded, it sent no more"
            recorded = b""
        else:
            reason = f"datagram {self._count} of the client is another from byte {at} on"
            recorded = part.expected(before, part.turn.size)
        start = max(at - _BEFORE, 0)
        found = _shown(start, recorded[start:], self._scrub(data)[start:])
        if len(recorded) != len(data):
            found.append(Difference("size", f"{len(recorded)} bytes", f"{len(data)} bytes"))
        return Miss(MissKind.NEVER, reason, part.flow, found, CURE)

    def _due(self, part: Part) -> Speech:
        return part.due_datagrams()


def _unlike(part: Part, at: int, start: int, actual: bytes) -> Miss:
    """Return how what the client says from `start` on differs, first `at`."""
    if at >= part.total:
        reason = f"the client says more than the {part.total} bytes that it said when recorded"
    else:
        reason = f"byte {at} of what the client says is not the recorded one"
    differences = _shown(start, part.expected(start, _WINDOW), actual)
    return Miss(MissKind.NEVER, reason, part.flow, differences, CURE)


def _cut_off(part: Part, how: str) -> Miss:
    """Return what is missing of what the client said."""
    at = part.heard
    start = max(at - _BEFORE, 0)
    differences = _shown(start, part.expected(start, _WINDOW), part.expected(start, at - start))
    reason = f"{how} after {at} of the {part.total} bytes that it said when recorded"
    return Miss(MissKind.NEVER, reason, part.flow, differences, CURE)


def _shown(start: int, recorded: bytes, actual: bytes) -> list[Difference]:
    one, other = recorded[:_WINDOW], actual[:_WINDOW]
    return [
        Difference(f"hex from byte {start}", one.hex(" ") or _NOTHING, other.hex(" ") or _NOTHING),
        Difference("the same as text", _text(one), _text(other)),
    ]


def _used_up(parts: list[Part]) -> Miss:
    reason = "used up: every recording that begins like this is played by another connection"
    advice = 'allow repeats with repeat="any" (or "last", "cycle"), or ' + CURE
    return Miss(MissKind.USED_UP, reason, parts[0].flow if parts else None, [], advice)


def _same(one: Speech, other: Speech) -> bool:
    if one.end != other.end:
        return False
    left, right = one.content(), other.content()
    held = b"", b""
    while True:
        a = held[0] or next(left, b"")
        b = held[1] or next(right, b"")
        size = min(len(a), len(b))
        if not size or a[:size] != b[:size]:
            return a == b
        held = a[size:], b[size:]


def _text(data: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data) or _NOTHING
