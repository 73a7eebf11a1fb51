"""bpf(2) through ctypes: maps, programs and links, each a descriptor.

1. Everything made here lives as long as its descriptors: nothing is pinned, and programs are
   attached by links only. So when the process ends, however it does, nothing stays attached.
2. `BpfError` has the errno, and of a program that is refused the end of what the verifier said.

Kernel: include/uapi/linux/bpf.h; Documentation/userspace-api/ebpf/syscall.rst.
Tests: test_ebpf_programs.py.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from typing import NamedTuple

from pytest_netcapture.redirect.ebpf_object import Definition

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}
_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE, _NEXT, _PROG_LOAD, _LINK_CREATE = 0, 1, 2, 3, 4, 5, 28
_PROG_QUERY = 16
_LOG_SIZE = 1 << 20
_LOG_TAIL = 600
_ATTEMPTS = 5
"""The verifier gives up when a signal comes (EAGAIN)."""

_NAME = 15

_libc = ctypes.CDLL(None, use_errno=True)


class BpfError(OSError):
    """The kernel refuses; `log` is what its verifier said."""

    log = ""


def _bpf(command: int, attributes: bytes) -> int:
    return _bpf_into(command, ctypes.create_string_buffer(attributes, len(attributes)))


def _bpf_into(command: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    """Make the call; what the kernel answers is in `buffer`."""
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise BpfError(errno.ENOSYS, f"bpf(2) is not known on {platform.machine()}")
    result = int(_libc.syscall(number, command, buffer, len(buffer)))
    if result < 0:
        code = ctypes.get_errno()
        raise BpfError(code, os.strerror(code))
    return result


class Map:
    """A map of the kernel's, with keys and values as bytes."""

    def __init__(self, definition: Definition, name: str, descriptor: int = -1) -> None:
        """`descriptor`: of one that there is already."""
        self._key_size = definition.key_size
        self._value_size = definition.value_size
        self.entries = definition.entries
        attributes = (*definition, 0, 0, 0, name.encode()[:_NAME])
        made = struct.pack("=7I16s", *attributes)
        self.fd = descriptor if descriptor >= 0 else _bpf(_MAP_CREATE, made)

    def get(self, key: bytes) -> bytes | None:
        value = ctypes.create_string_buffer(self._value_size)
        try:
            self._call(_LOOKUP, key, value)
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return value.raw

    def set(self, key: bytes, value: bytes) -> None:
        self._call(_UPDATE, key, ctypes.create_string_buffer(value, self._value_size))

    def push(self, value: bytes) -> None:
        """Add to a queue. Raises `BpfError` (E2BIG) when it is full."""
        self.set(b"", value)

    def discard(self, key: bytes) -> None:
        try:
            self._call(_DELETE, key, None)
        except BpfError as error:
            if error.errno != errno.ENOENT:
                raise

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Go through what there is; what changes meanwhile may be left out."""
        key: bytes | None = None
        following = ctypes.create_string_buffer(self._key_size)
        for _ in range(self.entries):
            try:
                self._call(_NEXT, key, following)
            except BpfError as error:
                if error.errno == errno.ENOENT:
                    return
                raise
            key = following.raw
            value = self.get(key)
            if value is not None:
                yield key, value

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _call(
        self, command: int, key: bytes | None, value: ctypes.Array[ctypes.c_char] | None
    ) -> None:
        held = ctypes.create_string_buffer(key, max(len(key), 1)) if key else None
        attributes = (self.fd, _address(held), _address(value), 0)
        _bpf(command, struct.pack("=I4xQQQ", *attributes))


class Program(NamedTuple):
    """What is to be loaded: bpf_prog_type, bpf_attach_type, instructions, licence and name."""

    kind: int
    attach: int
    code: bytes
    license: str
    name: str


def load(program: Program) -> int:
    """Load a program and return its descriptor."""
    try:
        return _load(program, None)
    except BpfError as refused:
        log = ctypes.create_string_buffer(_LOG_SIZE)
        try:
            return _load(program, log)
        except BpfError as again:
            again.log = log.value.decode(errors="replace")[-_LOG_TAIL:].strip()
            raise again from refused


def _load(program: Program, log: ctypes.Array[ctypes.c_char] | None) -> int:
    code = ctypes.create_string_buffer(program.code, len(program.code))
    licence = ctypes.create_string_buffer(program.license.encode())
    attributes = (
        *(program.kind, len(code) // 8, _address(code), _address(licence)),
        *(1 if log else 0, len(log) if log else 0, _address(log)),
        *(0, 0, program.name.encode()[:_NAME], 0, program.attach),
    )
    packed = struct.pack("=IIQQIIQII16sII", *attributes)
    for _ in range(_ATTEMPTS):
        try:
            return _bpf(_PROG_LOAD, packed)
        except BpfError as error:
            if error.errno != errno.EAGAIN:
                raise
    return _bpf(_PROG_LOAD, packed)


def link(program: int, target: int, attach: int) -> int:
    """Attach a program to a control group; it stays while the descriptor is open (5.7)."""
    return _bpf(_LINK_CREATE, struct.pack("=IIII", program, target, attach, 0))


def attached(target: int, attach: int) -> int:
    """Return how many programs of a kind are attached to a control group."""
    number = ctypes.create_string_buffer(struct.pack("=IIIIQI4xQ", target, attach, 0, 0, 0, 0, 0))
    _bpf_into(_PROG_QUERY, number)
    return int(struct.unpack_from("=I", number, 24)[0])


def _address(buffer: ctypes.Array[ctypes.c_char] | None) -> int:
    return ctypes.addressof(buffer) if buffer is not None else 0
