"""Looking into programs, by either way: they agree in what they see and in how they fail."""

from __future__ import annotations

import ctypes
import errno
import os
import socket

import pytest

from pytest_netcapture.redirect.seccomp_memory import FileMemory, OwnMemory, own_memory

pytestmark = pytest.mark.live


@pytest.fixture(params=[OwnMemory, FileMemory])
def memory(request):
    return request.param()


def test_reading_and_writing(memory):
    text = ctypes.create_string_buffer(b"0123456789", 10)
    at = ctypes.addressof(text)
    assert memory.read(os.getpid(), at + 2, 3) == b"234"
    assert memory.read(os.getpid(), at, 0) == b""
    memory.write(os.getpid(), at + 1, b"abc")
    assert text.raw == b"0abc456789"


@pytest.mark.parametrize("address", [1, 2**64 - 4096])
def test_what_is_not_there(memory, address):
    with pytest.raises(OSError) as caught:
        memory.read(os.getpid(), address, 10)
    assert caught.value.errno == errno.EFAULT


def test_who_is_not_there(memory):
    with pytest.raises(ProcessLookupError):
        memory.read(2**22 - 1, 4096, 1)


def test_who_may_not_be_looked_into(memory):
    if os.geteuid() == 0:
        pytest.skip("not in CI: root looks into everything")
    with pytest.raises(PermissionError):
        memory.read(1, 4096, 1)


def test_a_descriptor_is_the_same_file(memory):
    with socket.socket() as sock:
        copy = memory.duplicate(os.getpid(), sock.fileno())
        assert os.fstat(copy).st_ino == os.fstat(sock.fileno()).st_ino
        os.close(copy)


def test_the_quicker_way_is_taken_where_it_is_allowed():
    assert type(own_memory()) is OwnMemory
