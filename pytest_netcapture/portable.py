"""Criteria as bytes: what a test wrote, for the engine to build the same `Criteria` from.

1. What has no meaning in another process (a callable, an object) is left out, and said to be: then
   the engine has to ask the test process, but still knows the host without asking.
2. msgpack has no tuples, sets, ranges, patterns or types; each is an extension with its content.

Proved by tests/test_portable.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pytest_netcapture.flows import Flow
from pytest_netcapture.matching import Criteria

_TUPLE, _SET, _RANGE, _PATTERN, _TYPE = range(1, 6)
_TYPES = {one.__name__: one for one in (str, int, float, bool, list, dict)}
_LARGEST = 1 << 63
_WITH_EXACT = ("json", "form", "query")


class Foreign(ValueError):
    """A value that means nothing outside of its process."""


def pack(given: Mapping[str, Any]) -> tuple[bytes, bool]:
    """Return the criteria that can be sent, and whether these are all."""
    sent: dict[str, Any] = {}
    for name, value in given.items():
        try:
            sent[name] = _portable(value)
        except Foreign:
            continue
    whole = len(sent) == len(given)
    if not whole and not any(name in sent for name in _WITH_EXACT):
        sent.pop("exact", None)
    return msgspec.msgpack.encode(sent), whole


def unpack(data: bytes, kind: type[Flow]) -> Criteria:
    """Return what `pack` was given, compiled for flows of `kind`."""
    given = msgspec.msgpack.decode(data, ext_hook=_extension)
    return Criteria.build(None, None, given, kind=kind)


def _portable(value: Any) -> Any:
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or isinstance(value, (bool, float, bytes)):
        return value
    if isinstance(value, int):
        if not -_LARGEST <= value < _LARGEST:
            raise Foreign
        return int(value)
    if isinstance(value, Mapping):
        return {_portable(name): _portable(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_portable(one) for one in value]
    return _extended(value)


def _extended(value: Any) -> msgspec.msgpack.Ext:
    if isinstance(value, tuple):
        return _ext(_TUPLE, [_portable(one) for one in value])
    if isinstance(value, (set, frozenset)):
        return _ext(_SET, [_portable(one) for one in value])
    if isinstance(value, range):
        return _ext(_RANGE, [value.start, value.stop, value.step])
    if isinstance(value, re.Pattern):
        return _ext(_PATTERN, [value.pattern, value.flags])
    for name, one in _TYPES.items():
        if value is one:
            return _ext(_TYPE, name)
    if isinstance(value, (bytearray, memoryview)):
        return _ext(0, bytes(value))
    raise Foreign


def _ext(code: int, content: Any) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, msgspec.msgpack.encode(content))


_MAKERS: dict[int, Callable[[Any], Any]] = {
    0: bytes,
    _TUPLE: tuple,
    _SET: frozenset,
    _RANGE: lambda bounds: range(*bounds),
    _PATTERN: lambda parts: re.compile(*parts),
    _TYPE: _TYPES.__getitem__,
}


def _extension(code: int, data: memoryview) -> Any:
    return _MAKERS[code](msgspec.msgpack.decode(data, ext_hook=_extension))
