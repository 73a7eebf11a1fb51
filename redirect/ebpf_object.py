"""Reads the object file that clang has made of bpf/capture.bpf.c: programs and the maps they use.

1. Bytes in, values out; what is not such a file raises `ValueError`.
2. A map is a symbol of the section `maps`; its definition is four numbers (type, key, value,
   entries). An instruction that loads a map's address (R_BPF_64_64) has a relocation to it.
3. Every other section that is named after an attach type is a program.

ELF: elf(5); relocations: Documentation/bpf/llvm_reloc.rst. Tests: test_ebpf_object.py.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_EM_BPF = 247
_SYMBOLS, _RELOCATIONS = 2, 9
_R_BPF_64_64 = 1
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQ")
_DEFINITION = struct.Struct("<IIII")
_PSEUDO_MAP_FD = 1 << 4


class Definition(NamedTuple):
    """A map: its type, sizes of key and value, and how many entries it has."""

    kind: int
    key_size: int
    value_size: int
    entries: int


class Program(NamedTuple):
    """Instructions, and which map's descriptor belongs at which offset."""

    code: bytes
    maps: dict[int, str]

    def linked(self, descriptors: Mapping[str, int]) -> bytes:
        """Return the instructions with the maps' descriptors in them."""
        code = bytearray(self.code)
        for offset, name in self.maps.items():
            code[offset + 1] = (code[offset + 1] & 0x0F) | _PSEUDO_MAP_FD
            struct.pack_into("<i", code, offset + 4, descriptors[name])
        return bytes(code)


class Object(NamedTuple):
    """A whole file; programs by the names of their sections."""

    license: str
    maps: dict[str, Definition]
    programs: dict[str, Program]


class _Section(NamedTuple):
    name: str
    kind: int
    data: bytes
    link: int
    info: int


class _Symbol(NamedTuple):
    name: str
    section: int
    value: int


def parse(data: bytes) -> Object:
    """Read an object file. Raises `ValueError`."""
    try:
        return _parse(data)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"not a whole BPF object: {error}") from error


def _parse(data: bytes) -> Object:
    if data[:6] != _MAGIC or struct.unpack_from("<H", data, 18)[0] != _EM_BPF:
        raise ValueError("not a BPF object of 64 bits, little-endian")
    sections = _sections(data)
    by_name = {section.name: number for number, section in enumerate(sections)}
    if "maps" not in by_name or "license" not in by_name:
        raise ValueError("a BPF object without maps or license")
    symbols = _symbols(sections)
    at = by_name["maps"]
    maps = {
        symbol.name: Definition(*_DEFINITION.unpack_from(sections[at].data, symbol.value))
        for symbol in symbols
        if symbol.section == at and symbol.name
    }
    relocations = {s.info: s.data for s in sections if s.kind == _RELOCATIONS}
    programs = {
        section.name: _program(section, relocations.get(number, b""), symbols, maps)
        for number, section in enumerate(sections)
        if section.name.startswith("cgroup/") or section.name in {"sockops", "socket"}
    }
    license_name = sections[by_name["license"]].data.rstrip(b"\0").decode()
    return Object(license_name, maps, programs)


def _sections(data: bytes) -> list[_Section]:
    (table,) = struct.unpack_from("<Q", data, 40)
    count, names_at = struct.unpack_from("<HH", data, 60)
    headers = [_SECTION.unpack_from(data, table + _SECTION.size * i) for i in range(count)]
    names = headers[names_at]
    return [
        _Section(_text(data, names[4] + h[0]), h[1], data[h[4] : h[4] + h[5]], h[6], h[7])
        for h in headers
    ]


def _symbols(sections: list[_Section]) -> list[_Symbol]:
    table = next((section for section in sections if section.kind == _SYMBOLS), None)
    if table is None:
        raise ValueError("a BPF object without symbols")
    names = sections[table.link].data
    return [
        _Symbol(_text(names, name), section, value)
        for name, _, _, section, value, _ in _SYMBOL.iter_unpack(table.data)
    ]


def _program(
    section: _Section, relocations: bytes, symbols: list[_Symbol], maps: Mapping[str, Definition]
) -> Program:
    found: dict[int, str] = {}
    for offset, info in _RELOCATION.iter_unpack(relocations):
        name = symbols[info >> 32].name
        if info & 0xFFFF_FFFF != _R_BPF_64_64 or name not in maps:
            raise ValueError(f"{section.name}: a relocation to {name!r}, which is no map")
        if offset + 16 > len(section.data):
            raise ValueError(f"{section.name}: a relocation past its end")
        found[offset] = name
    return Program(section.data, found)


def _text(data: bytes, at: int) -> str:
    end = data.find(b"\0", at)
    if end < 0:
        raise ValueError("a name without an end")
    return data[at:end].decode()
