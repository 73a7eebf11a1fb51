"""What the filter decides, by running its program here as the kernel would, and live where it refuses."""

from __future__ import annotations

import errno
import shutil
import socket
import struct
import subprocess

import pytest
from seccomp_lab import Lab

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import seccomp_abi as abi
from pytest_netcapture.redirect import seccomp_filter

NAMES = ("x86_64", "aarch64", "riscv64")
NOTIFY, ALLOW = abi.SECCOMP_RET_USER_NOTIF, abi.SECCOMP_RET_ALLOW
POINTER = 0x7FFF_0000_1000
HIGH_POINTER = 0x7FFF_0000_0000
"""One whose lower half is zero."""


def refuse(number):
    return abi.SECCOMP_RET_ERRNO | number


def decide(machine, number, *arguments, audit=None, sockets=False):
    """Run the program over a struct seccomp_data."""
    words = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, machine.audit if audit is None else audit, 0, *words)
    steps, at, value = seccomp_filter.program(machine, sockets=sockets), 0, 0
    while True:
        code, if_true, if_false, operand = steps[at]
        at += 1
        if code == abi.LOAD:
            value = struct.unpack_from("<I", data, operand)[0]
        elif code == abi.AND:
            value &= operand
        elif code == abi.RETURN:
            return operand
        else:
            holds = {
                abi.JUMP_IF_EQUAL: value == operand,
                abi.JUMP_IF_AT_LEAST: value >= operand,
                abi.JUMP_IF_ANY_BIT: bool(value & operand),
            }[code]
            at += if_true if holds else if_false


@pytest.fixture(params=NAMES)
def machine(request):
    return abi.machine(request.param)


@pytest.mark.parametrize(
    ("call", "arguments", "verdict"),
    [
        ("connect", (3, POINTER, 16), NOTIFY),
        ("connect", (3, POINTER, 110), NOTIFY),
        ("connect", (3, POINTER, 12), ALLOW),  # netlink
        ("connect", (3, POINTER, 0xFFFF_FFFF), NOTIFY),
        ("sendto", (3, POINTER, 5, 0, 0, 0), ALLOW),
        ("sendto", (3, POINTER, 5, 0, POINTER, 16), NOTIFY),
        ("sendto", (3, POINTER, 5, 0, HIGH_POINTER, 16), NOTIFY),
        ("sendto", (3, POINTER, 5, abi.MSG_FASTOPEN, POINTER, 16), refuse(errno.EOPNOTSUPP)),
        ("sendmsg", (3, POINTER, 0), NOTIFY),
        ("sendmsg", (3, POINTER, abi.MSG_FASTOPEN), refuse(errno.EOPNOTSUPP)),
        ("sendmmsg", (3, POINTER, 2, 0), NOTIFY),
        ("sendmmsg", (3, POINTER, 2, abi.MSG_FASTOPEN), refuse(errno.EOPNOTSUPP)),
        ("recvfrom", (3, POINTER, 5, 0, 0, 0), ALLOW),
        ("recvfrom", (3, POINTER, 5, 0, POINTER, POINTER), NOTIFY),
        ("recvmsg", (3, POINTER, 0), NOTIFY),
        ("recvmsg", (3, POINTER, socket.MSG_CMSG_CLOEXEC), ALLOW),
        ("recvmsg", (3, POINTER, socket.MSG_ERRQUEUE), ALLOW),
        ("recvmmsg", (3, POINTER, 2, 0), NOTIFY),
        ("getpeername", (3, POINTER, POINTER), NOTIFY),
        ("getsockname", (3, POINTER, POINTER), NOTIFY),
        ("io_uring_setup", (1, POINTER), refuse(errno.ENOSYS)),
        ("socket", (socket.AF_INET, socket.SOCK_STREAM, 0), ALLOW),
        ("bind", (3, POINTER, 16), ALLOW),
    ],
)
def test_calls(machine, call, arguments, verdict):
    assert decide(machine, machine.calls[call], *arguments) == verdict


@pytest.mark.parametrize(
    ("call", "arguments", "verdict"),
    [
        ("socket", (socket.AF_INET, socket.SOCK_STREAM, 0), NOTIFY),
        ("socket", (socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0), NOTIFY),
        ("socket", (socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 6), NOTIFY),
        ("socket", (socket.AF_INET, socket.SOCK_RAW, 1), ALLOW),
        ("socket", (socket.AF_UNIX, socket.SOCK_STREAM, 0), ALLOW),
        ("socket", (socket.AF_NETLINK, socket.SOCK_DGRAM, 0), ALLOW),
        ("bind", (3, POINTER, 16), NOTIFY),
        ("bind", (3, POINTER, 12), ALLOW),
        ("connect", (3, POINTER, 16), NOTIFY),
    ],
)
def test_calls_where_the_engine_makes_sockets(machine, call, arguments, verdict):
    assert decide(machine, machine.calls[call], *arguments, sockets=True) == verdict


def test_no_other_call_is_touched(machine):
    named = set(machine.calls.values())
    for number in range(500):
        if number not in named:
            assert decide(machine, number, 2, 1, 16) == ALLOW, number


def test_other_programs_do_not_reach_the_network(machine):
    for number in machine.calls_32:
        assert decide(machine, number, audit=machine.audit_32) == refuse(errno.ENOSYS)
    assert decide(machine, 1, audit=machine.audit_32) == ALLOW
    assert decide(machine, 42 | abi.X32_SYSCALL_BIT) == refuse(errno.ENOSYS)
    assert decide(machine, 42, audit=0x1234) == refuse(errno.ENOSYS)


def test_jumps_fit_their_byte(machine):
    for step in seccomp_filter.program(machine, sockets=True):
        abi.INSTRUCTION.pack(*step)


def test_an_unknown_machine_is_named():
    with pytest.raises(EnvironmentProblem, match="s390x"):
        abi.machine("s390x")


@pytest.mark.live
def test_a_second_one_says_that_there_is_one():
    lab = Lab()

    def function():
        with pytest.raises(EnvironmentProblem) as caught:
            seccomp_filter.install()
        return str(caught.value)

    text = lab.run(function)
    assert "EBUSY" in text
    assert "a supervisor watches this process already" in text
    lab.close()


@pytest.mark.live
@pytest.mark.skipif(abi.platform.machine() != "x86_64", reason="not in CI: int 0x80 is of x86")
def test_a_32_bit_call_is_refused(tmp_path):
    if not shutil.which("gcc"):
        pytest.skip("not in CI: gcc is not installed")
    source, program = tmp_path / "old.c", str(tmp_path / "old")
    source.write_text(_OLD)
    subprocess.run(["gcc", "-o", program, str(source)], check=True)
    lab = Lab()
    assert lab.run(lambda: subprocess.run([program]).returncode) == errno.ENOSYS
    lab.close()


_OLD = """
int main(void) {
    int result;  /* connect(2) of 32-bit programs */
    __asm__ volatile ("int $0x80" : "=a"(result) : "a"(362), "b"(-1), "c"(0), "d"(16));
    return -result;
}
"""
