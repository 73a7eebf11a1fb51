"""The kernel's half, loaded: maps, programs, and the links that attach them to a control group.

1. The object file is made when the package is built (bpf/capture.bpf.c, hatch_build.py); loading it
   takes neither compiler nor headers nor libbpf.
2. What is not loaded from here is not there: all goes with the descriptors (ebpf_calls.py, rule 1).
3. Programs act on the processes of the control group to which they are attached and of those below.
4. Messages name the privilege, the kernel's feature or the file that is missing, and the cure.

Tests: test_ebpf_programs.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Mapping

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect.ebpf_btf import Btf
from pytest_netcapture.redirect.ebpf_calls import BpfError, Map, Program, link, load
from pytest_netcapture.redirect.ebpf_object import Object, parse

OBJECT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "capture.bpf.o")
SLUG = "docs/local-mode.md"
NEEDED = "CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW and CAP_PERFMON"
SANDBOX = "programs that netcapture starts are captured without privilege: netcapture run"

_SOCK_ADDR, _SOCK_OPS, _SOCKET_FILTER = 18, 13, 1
_ATTACH = {
    "cgroup/connect4": (_SOCK_ADDR, 10),
    "cgroup/connect6": (_SOCK_ADDR, 11),
    "cgroup/sendmsg4": (_SOCK_ADDR, 14),
    "cgroup/sendmsg6": (_SOCK_ADDR, 15),
    "cgroup/recvmsg4": (_SOCK_ADDR, 19),
    "cgroup/recvmsg6": (_SOCK_ADDR, 20),
    "cgroup/getpeername4": (_SOCK_ADDR, 29),
    "cgroup/getpeername6": (_SOCK_ADDR, 30),
    "cgroup/getsockname4": (_SOCK_ADDR, 31),
    "cgroup/getsockname6": (_SOCK_ADDR, 32),
    "sockops": (_SOCK_OPS, 3),
    "socket": (_SOCKET_FILTER, 0),
}
"""By section: bpf_prog_type and bpf_attach_type (linux/bpf.h)."""

GATE = "socket"
_BTF = "/sys/kernel/btf/vmlinux"


class Programs:
    """All of it. `close` detaches; so does the end of this process."""

    def __init__(self, maps: dict[str, Map], programs: dict[str, int], links: list[int]) -> None:
        self.maps = maps
        self._programs = programs
        self._links = links

    @classmethod
    def load(cls) -> Programs:
        """Load the object file. Raises `EnvironmentProblem`."""
        found = read_object()
        _lift_limit()
        made = cls({}, {}, [])
        try:
            for name, definition in found.maps.items():
                made.maps[name] = Map(definition, name)
            made._load(found)
        except BpfError as error:
            made.close()
            raise refusal(error) from error
        return made

    @classmethod
    def received(cls, named: Mapping[str, int]) -> Programs:
        """Take over what another process has loaded and attached; see `descriptors`."""
        found = read_object()
        maps = {n: Map(d, n, named[f"map {n}"]) for n, d in found.maps.items()}
        links = [descriptor for name, descriptor in named.items() if name.startswith("link ")]
        return cls(maps, {GATE: named[GATE]}, links)

    def descriptors(self) -> dict[str, int]:
        """Return what another process needs to use all of it, by name."""
        named = {f"map {name}": found.fd for name, found in self.maps.items()}
        named |= {f"link {number}": descriptor for number, descriptor in enumerate(self._links)}
        return {**named, GATE: self._programs[GATE]}

    @property
    def attached(self) -> bool:
        return bool(self._links)

    def attach(self, cgroup: str) -> None:
        """Begin to act on the processes of a control group. Raises `EnvironmentProblem`."""
        group = open_group(cgroup)
        try:
            self.attach_to(group, cgroup)
        finally:
            os.close(group)

    def attach_to(self, group: int, name: str = "the control group") -> None:
        """Do that where the group's descriptor is known. Raises `EnvironmentProblem`."""
        try:
            for section, descriptor in self._programs.items():
                if section != GATE:
                    self._links.append(link(descriptor, group, _ATTACH[section][1]))
        except BpfError as error:
            self.detach()
            raise refusal(error, f" to {name}") from error

    @property
    def gate(self) -> int:
        """Return the descriptor of the listener's filter."""
        return self._programs[GATE]

    def detach(self) -> None:
        while self._links:
            os.close(self._links.pop())

    def close(self) -> None:
        """Detach and forget everything; idempotent."""
        self.detach()
        while self._programs:
            os.close(self._programs.popitem()[1])
        for found in self.maps.values():
            found.close()

    def _load(self, found: Object) -> None:
        descriptors = {name: one.fd for name, one in self.maps.items()}
        for name, program in found.programs.items():
            kind, attach = _ATTACH[name]
            code = program.linked(descriptors)
            label = f"nc_{name.rpartition('/')[2]}"
            self._programs[name] = load(Program(kind, attach, code, found.license, label))


def open_group(cgroup: str) -> int:
    """Return a descriptor of a control group. Raises `EnvironmentProblem`."""
    try:
        return os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise EnvironmentProblem(
            f"ebpf: there is no control group {cgroup}: {error.strerror}",
            cure="name a directory below a mounted cgroup2: findmnt -t cgroup2",
            slug=SLUG,
        ) from error


def read_object() -> Object:
    """Read the object file. Raises `EnvironmentProblem`."""
    try:
        with open(OBJECT, "rb") as file:
            return parse(file.read())
    except FileNotFoundError as error:
        raise EnvironmentProblem(
            "ebpf: the package was built without the BPF object, for lack of clang",
            cure="install clang, then: pip install --force-reinstall --no-deps pytest-netcapture",
            slug=SLUG,
        ) from error


def read_offsets() -> tuple[int, ...]:
    """Return where the kernel's structures have what `config` lists. Takes 0.2 s.

    Raises `EnvironmentProblem`.
    """
    try:
        with open(_BTF, "rb") as file:
            btf = Btf(file.read())
        task = ("group_leader", "tgid", "real_parent", "comm", "mm")
        return (
            *(btf.offset("task_struct", member) for member in task),
            btf.offset("mm_struct", "exe_file"),
            btf.offset("file", "f_path", "dentry"),
            btf.offset("dentry", "d_name", "name"),
        )
    except (OSError, KeyError, ValueError) as error:
        raise EnvironmentProblem(
            f"ebpf: the kernel does not describe its structures ({_BTF}): {error}",
            cure="run on a kernel with CONFIG_DEBUG_INFO_BTF, as distributions build it",
            slug=SLUG,
        ) from error


def refusal(error: BpfError, where: str = "") -> EnvironmentProblem:
    """Say what the kernel's refusal means."""
    if error.errno in {errno.EPERM, errno.EACCES} and not error.log:
        return EnvironmentProblem(
            f"ebpf: loading and attaching BPF programs{where} takes privilege: {error.strerror}",
            cure=f"netcapture local --sudo; or run as root, or with {NEEDED}; {SANDBOX}",
            slug=SLUG,
        )
    told = f"\n{error.log}" if error.log else ""
    return EnvironmentProblem(
        f"ebpf: the kernel refuses the BPF programs{where}: {error.strerror}{told}",
        cure=f"run on Linux 5.10 or later with CONFIG_CGROUP_BPF; {SANDBOX}",
        slug=SLUG,
    )


def _lift_limit() -> None:
    """Until Linux 5.11 maps counted as locked memory, of which 64 KiB are the default."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)
