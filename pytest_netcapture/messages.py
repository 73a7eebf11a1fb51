"""What the test process and its engine say to each other, and how it is framed.

1. A frame is a length and a number (4 bytes each, little-endian) and a msgpack value; descriptors
   ride on the first byte of their frame (SCM_RIGHTS) and are counted in the message's `fds`.
2. The test process asks; the engine replies to each request that wants a reply, with its number;
   nothing is unsolicited but the engine's first message, `Ready` (or `Failed`).
3. The engine reads in the page whether it has been asked something, so that knowing costs no call.
4. A change is visible in the shared page (`Page`) before the byte that lets the client see it, so
   the test process reads two numbers instead of asking.
"""

from __future__ import annotations

import mmap
import struct
from typing import TypeAlias

import msgspec

from pytest_netcapture.fault_messages import CutAll, GetSchedule, Schedule, SetFault
from pytest_netcapture.flows import AnyFlow, Problem
from pytest_netcapture.mock_messages import (
    GetCalls,
    GetUnused,
    OpenQuestions,
    Questions,
    SetMock,
    SetName,
    Unused,
)
from pytest_netcapture.settings import Settings

SESSION_SCOPE = 0
FRAME = struct.Struct("<II")


class SeccompOptions(msgspec.Struct, frozen=True):
    """What the engine needs to supervise a seccomp filter."""

    handover_fd: int
    """On which the filter's listener comes."""
    handover_theirs: int
    """The test process's end of it: a descriptor to try pidfd_getfd(2) with."""
    witness_at: int
    witness: bytes
    """What the test process has in its memory, and where: to try process_vm_readv(2) with."""
    ancestor: str = ""
    """Who looks for the engine, if it must not (redirect/seccomp_ancestor.py)."""


class EbpfOptions(msgspec.Struct, frozen=True):
    """Whom the redirector `ebpf` captures."""

    targets: tuple[str, ...]
    """Rules (redirect/ebpf_targets.py); none: everything."""
    cgroup: str
    """The control group to whose processes that is limited."""
    keeps: bool = False
    """Targets are not ours to end."""
    helper_fd: int = -1
    """On which a helper hands over what takes privilege, if one does."""
    authority: bytes = b""
    """The CA that the machine trusts already, if there is one (kept_ca.py)."""


class EngineOptions(msgspec.Struct, frozen=True):
    """What the engine is told on its command line."""

    control_fd: int
    page_fd: int
    parent_pid: int
    runtime_dir: str
    settings: Settings
    secrets: dict[str, str]
    started_ns: int
    roots: list[str]
    nameservers: list[str] = []
    upstream: str = "any"
    """`loopback` forbids the engine to dial any other address."""
    seccomp: SeccompOptions | None = None
    """The redirector is seccomp, else what `settings` say."""
    ebpf: EbpfOptions | None = None


class Ready(msgspec.Struct, tag=True):
    """The engine is up. The descriptor is the session namespace."""

    ca_pem: bytes
    subject_hash: str
    redirector: str
    gates: bool
    namespace: int
    pid: int
    makes_sockets: bool = False
    """The filter is to stop socket(2), too (redirect/seccomp_sockets.py)."""
    fds: int = 1
    note: str = ""
    """Why the redirector is not the first choice."""


class Failed(msgspec.Struct, tag=True):
    """A request could not be done; `blame` is the name of the error class to raise."""

    blame: str
    message: str
    cure: str = ""
    slug: str = ""


class Lease(msgspec.Struct, tag=True):
    """Reserve a scope and a namespace for the next test, whose beginning then need not wait.

    `known` are the namespaces whose descriptors the test process holds.
    """

    known: list[int]


class Begin(msgspec.Struct, tag=True):
    """A test begins, in leased `scope`; or a program of scope `parent` in a sandbox of its own.

    No `reply` is sent when none is wanted: without a cassette nothing can fail.
    """

    nodeid: str
    settings: Settings
    known: list[int]
    parent: int = -1
    scope: int = 0
    reply: bool = True


class Begun(msgspec.Struct, tag=True):
    """A scope and its namespace; a descriptor comes along when the namespace is new."""

    scope: int
    namespace: int
    fds: int = 0
    warnings: tuple[str, ...] = ()


class Moved(msgspec.Struct, tag=True):
    """The test process is in `namespace` now, where that is no namespace of the kernel's. No reply.

    `tick` of the machine's uptime, `last_number` that a process had by then: what starts later is
    in it as well (see redirect/seccomp_places.py).
    """

    namespace: int
    tick: int
    last_number: int


class SetVariable(msgspec.Struct, tag=True):
    """An environment variable was set; if its name says secret, its value is scrubbed now."""

    name: str
    value: str


class Update(msgspec.Struct, tag=True):
    """New settings for the rest of a scope."""

    scope: int
    settings: Settings


class Done(msgspec.Struct, tag=True):
    warnings: tuple[str, ...] = ()


class GetFlows(msgspec.Struct, tag=True):
    scope: int


class FlowList(msgspec.Struct, tag=True):
    flows: list[AnyFlow]


class GetProblems(msgspec.Struct, tag=True):
    """Problems from index `since` on."""

    scope: int
    since: int = 0


class ProblemList(msgspec.Struct, tag=True):
    problems: list[Problem]


class GetCassette(msgspec.Struct, tag=True):
    scope: int


class GetRecordings(msgspec.Struct, tag=True):
    """What a scope's cassette is about to record, which waits for the project's own code."""

    scope: int


class SetRecordings(msgspec.Struct, tag=True):
    """What that code has made of it."""

    scope: int
    flows: list[AnyFlow]


class CassetteState(msgspec.Struct, tag=True):
    """How far a scope's cassette is used; `path` is empty when it has none."""

    path: str = ""
    mode: str = ""
    played: int = 0
    recorded: int = 0
    unused: list[AnyFlow] = []


class WaitChange(msgspec.Struct, tag=True):
    """Reply when the page's change counter differs from `seen`, or after `timeout` seconds."""

    seen: int
    timeout: float


class Publish(msgspec.Struct, tag=True):
    """Let the host reach `port` of a scope at its own `host_port`, 0 for a free one."""

    scope: int
    port: int
    host_port: int = 0


class Published(msgspec.Struct, tag=True):
    host_port: int


class SavePackets(msgspec.Struct, tag=True):
    """Write the packets of a scope to a file, as pcapng."""

    scope: int
    path: str


class Abandon(msgspec.Struct, tag=True):
    """Who held this lease is gone: end what it has begun, or take the lease back."""

    scope: int


class End(msgspec.Struct, tag=True):
    """A test is over. `clean`: no thread or process was made in it.

    `quiet`: it had no traffic and no cassette, so there is nothing to tell, and no reply is sent.
    """

    scope: int
    clean: bool
    problems_seen: int = 0
    quiet: bool = False


class Counts(msgspec.Struct):
    """What the receipt adds up."""

    flows: int = 0
    played: int = 0
    recorded: int = 0
    unmatched: int = 0
    unused: int = 0
    blocked: int = 0
    left_machine: int = 0


class Ended(msgspec.Struct, tag=True):
    counts: Counts
    problems: list[Problem] = []
    unused: list[AnyFlow] = []
    warnings: tuple[str, ...] = ()


class Close(msgspec.Struct, tag=True):
    """The session is over: everything is given back."""


class Closed(msgspec.Struct, tag=True):
    """`undecrypted` has the places whose TLS was relayed though nobody asked for it, and why."""

    counts: Counts
    problems: list[Problem] = []
    warnings: tuple[str, ...] = ()
    undecrypted: dict[str, str] = {}


Request: TypeAlias = (
    Begin
    | Lease
    | SetVariable
    | Moved
    | Update
    | GetFlows
    | GetProblems
    | GetCassette
    | WaitChange
    | GetRecordings
    | SetRecordings
    | Publish
    | SavePackets
    | SetMock
    | SetFault
    | SetName
    | CutAll
    | GetSchedule
    | GetCalls
    | GetUnused
    | OpenQuestions
    | Abandon
    | End
    | Close
)
Reply: TypeAlias = (
    Ready
    | Failed
    | Begun
    | Done
    | Published
    | FlowList
    | ProblemList
    | Questions
    | Schedule
    | Unused
    | CassetteState
    | Ended
    | Closed
)

_encoder = msgspec.msgpack.Encoder()


def encode(message: Request | Reply, number: int = 0) -> bytes:
    payload = _encoder.encode(message)
    return FRAME.pack(len(payload), number) + payload


class Page:
    """Three counters in memory that both processes map.

    The engine writes changes of flows, and problems; the test process how many requests it has
    made, before it makes each.
    """

    _CHANGES, _PROBLEMS, _ASKED = 0, 1, 8

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, mmap.PAGESIZE)
        self._numbers = memoryview(self._map).cast("Q")

    @property
    def changes(self) -> int:
        return self._numbers[self._CHANGES]

    @property
    def problems(self) -> int:
        return self._numbers[self._PROBLEMS]

    @property
    def asked(self) -> int:
        return self._numbers[self._ASKED]

    def ask(self) -> None:
        """Count one more request."""
        self._numbers[self._ASKED] += 1

    def write(self, changes: int, problems: int) -> None:
        self._numbers[self._CHANGES] = changes
        self._numbers[self._PROBLEMS] = problems
