"""The privileged half of local mode: `netcapture helper`, which sudo runs.

1. Its standard input is a Unix socket, on which it gets the descriptor of a control group, and
   nothing else: no path, no code, no option. It checks that this is one, and who is at the other
   end: root, or the user for whom sudo runs it.
2. It loads and attaches, hands all descriptors over, and ends.

Tests: test_ebpf_helper.py.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import ebpf_privileged
from pytest_netcapture.redirect.ebpf_programs import SLUG
from pytest_netcapture.redirect.seccomp_routes import has_ipv6

_CGROUP2 = 0x63677270
_PEER = struct.Struct("=iII")
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Serve one request."""
    conn = socket.socket(fileno=os.dup(0))
    try:
        check_peer(conn)
        group = take_group(conn)
        made = ebpf_privileged.make(ipv6=has_ipv6())
        made.programs.attach_to(group)
    except EnvironmentProblem as problem:
        ebpf_privileged.refuse(conn, problem)
        sys.exit(3)
    ebpf_privileged.send(conn, made)


def check_peer(conn: socket.socket) -> None:
    """Raise `EnvironmentProblem` unless the other end is whom we work for (SO_PEERCRED)."""
    _, user, _ = _PEER.unpack(conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    allowed = {0, int(os.environ.get("SUDO_UID", "0"))}
    if user not in allowed:
        raise EnvironmentProblem(
            f"ebpf: the helper works for {sorted(allowed)}, not for user {user}",
            cure="start it by: netcapture local --sudo",
            slug=SLUG,
        )


def take_group(conn: socket.socket) -> int:
    """Return the descriptor of a control group. Raises `EnvironmentProblem`."""
    _, descriptors, _, _ = socket.recv_fds(conn, 1, 1)
    if len(descriptors) != 1 or _file_system(descriptors[0]) != _CGROUP2:
        raise EnvironmentProblem(
            "ebpf: the helper was not given a control group",
            cure="start it by: netcapture local --sudo",
            slug=SLUG,
        )
    return descriptors[0]


def _file_system(descriptor: int) -> int:
    """Return the type of the file system (fstatfs(2))."""
    found = ctypes.create_string_buffer(256)
    if _libc.fstatfs(descriptor, found):
        return 0
    return int(struct.unpack_from("=q", found)[0])
