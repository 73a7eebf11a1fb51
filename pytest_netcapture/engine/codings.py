"""Content codings, incrementally: gzip, deflate, br, zstd, and lists of them (RFC 9110 §8.4).

1. A decoder yields its output in pieces of bounded size, whatever the input expands to.
2. `deflate` is read in both senses that servers give it, zlib and raw; it is written as zlib.
3. `encode` flushes after every piece: what a client could read at a chunk it can read again.
4. Output of `encode` is a function of its input: no time stamps.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

PIECE = 1 << 18
_ZSTD_SLICE = 1 << 10
_ZSTD_WINDOW = 1 << 27


class CodingError(Exception):
    """The data is not in the coding that it is said to be in, or stops short of its end."""


class Decoder(Protocol):
    """Removes one coding."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` adds to the output. Raises `CodingError`."""

    def finish(self) -> None:
        """Raise `CodingError` unless the input ended where its coding says."""


class Encoder(Protocol):
    """Applies one coding."""

    def feed(self, data: bytes) -> bytes:
        """Return the coded form of `data`, flushed."""

    def finish(self) -> bytes: ...


class _Zlib:
    """gzip (several members, RFC 1952 §2.2) and deflate."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._object: Any = None
        self._start = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            while data:
                if self._object is None or self._object.eof:
                    data = self._begin(data)
                    if not data:
                        return
                out = self._object.decompress(data, PIECE)
                while out:
                    yield out
                    out = self._object.decompress(self._object.unconsumed_tail, PIECE)
                data = self._object.unused_data if self._object.eof else b""
        except zlib.error as error:
            raise CodingError(str(error)) from error

    def _begin(self, data: bytes) -> bytes:
        """Choose between zlib and raw by the two bytes of a zlib header (RFC 1950 §2.2)."""
        if self._object is not None and self._bits != 31:
            raise CodingError("data after the end")
        if self._bits == 31:
            self._object = zlib.decompressobj(31)
            return data
        data = self._start + data
        if len(data) < 2:
            self._start = data
            return b""
        self._start = b""
        is_zlib = data[0] & 15 == 8 and (data[0] << 8 | data[1]) % 31 == 0
        self._object = zlib.decompressobj(15 if is_zlib else -15)
        return data

    def finish(self) -> None:
        if self._object is None or not self._object.eof:
            raise CodingError("truncated")


class _Brotli:
    def __init__(self) -> None:
        import brotli

        self._error = brotli.error
        self._object = brotli.Decompressor()
        self._bounded = hasattr(self._object, "can_accept_more_data")

    def feed(self, data: bytes) -> Iterator[bytes]:
        if not data:
            return
        try:
            if not self._bounded:
                yield self._object.process(data)
                return
            out = self._object.process(data, output_buffer_limit=PIECE)
            while out or not self._object.can_accept_more_data():
                yield out
                if self._object.is_finished():
                    return
                out = self._object.process(b"", output_buffer_limit=PIECE)
        except self._error as error:
            raise CodingError(str(error)) from error

    def finish(self) -> None:
        if not self._object.is_finished():
            raise CodingError("truncated")


class _Zstd:
    """Frames of zstd; input goes in by small slices, for one block of 4 bytes may hold 128 KiB."""

    def __init__(self) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._new = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj
        self._object = self._new()
        self._fed = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_SLICE):
            yield from self._slice(data[start : start + _ZSTD_SLICE])

    def _slice(self, data: bytes) -> Iterator[bytes]:
        try:
            while data:
                if self._object.eof:
                    self._object = self._new()
                self._fed = True
                out = self._object.decompress(data)
                if out:
                    yield out
                data = self._object.unused_data if self._object.eof else b""
        except self._error as error:
            raise CodingError(str(error)) from error

    def finish(self) -> None:
        if not self._fed or not self._object.eof:
            raise CodingError("truncated")


class _Chain:
    """Removes several codings, the last applied first."""

    def __init__(self, decoders: list[Decoder]) -> None:
        self._decoders = decoders

    def feed(self, data: bytes) -> Iterator[bytes]:
        return self._through(data, 0)

    def _through(self, data: bytes, index: int) -> Iterator[bytes]:
        if index == len(self._decoders):
            yield data
            return
        for piece in self._decoders[index].feed(data):
            yield from self._through(piece, index + 1)

    def finish(self) -> None:
        for each in self._decoders:
            each.finish()


class _ZlibEncoder:
    def __init__(self, bits: int) -> None:
        self._object = zlib.compressobj(6, zlib.DEFLATED, bits)

    def feed(self, data: bytes) -> bytes:
        return self._object.compress(data) + self._object.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._object.flush()


class _BrotliEncoder:
    def __init__(self) -> None:
        import brotli

        self._object = brotli.Compressor(quality=4)

    def feed(self, data: bytes) -> bytes:
        return bytes(self._object.process(data) + self._object.flush())

    def finish(self) -> bytes:
        return bytes(self._object.finish())


class _ZstdEncoder:
    def __init__(self) -> None:
        import zstandard

        self._block = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        self._object = zstandard.ZstdCompressor().compressobj()

    def feed(self, data: bytes) -> bytes:
        return bytes(self._object.compress(data) + self._object.flush(self._block))

    def finish(self) -> bytes:
        return bytes(self._object.flush())


_DECODERS: dict[str, Any] = {
    "gzip": lambda: _Zlib(31),
    "x-gzip": lambda: _Zlib(31),
    "deflate": lambda: _Zlib(15),
    "br": _Brotli,
    "zstd": _Zstd,
}
_ENCODERS: dict[str, Any] = {
    "gzip": lambda: _ZlibEncoder(31),
    "x-gzip": lambda: _ZlibEncoder(31),
    "deflate": lambda: _ZlibEncoder(15),
    "br": _BrotliEncoder,
    "zstd": _ZstdEncoder,
}


def names(coding: str) -> tuple[str, ...]:
    """Split a Content-Encoding value into lower-case names, "identity" left out."""
    parts = (part.strip(" \t").lower() for part in coding.split(","))
    return tuple(part for part in parts if part not in ("", "identity"))


def decoder(coding: str) -> Decoder | None:
    """Return what removes `coding`; None when a part of it is not known."""
    makers = [_DECODERS.get(name) for name in names(coding)]
    if not makers or None in makers or len(makers) > 4:
        return None
    decoders: list[Decoder] = [make() for make in reversed(makers) if make is not None]
    return decoders[0] if len(decoders) == 1 else _Chain(decoders)


def encode(pieces: Iterable[bytes], coding: str) -> Iterator[bytes]:
    """Yield the coded form of each piece, flushed, and then the end; as it is if not known."""
    makers = [_ENCODERS.get(name) for name in names(coding)]
    if None in makers:
        yield from pieces
        return
    encoders: list[Encoder] = [make() for make in makers if make is not None]
    for piece in pieces:
        if piece:
            yield _applied(encoders, piece)
    yield from _ends(encoders)


def _applied(encoders: list[Encoder], data: bytes) -> bytes:
    for each in encoders:
        data = each.feed(data) if data else data
    return data


def _ends(encoders: list[Encoder]) -> Iterator[bytes]:
    for index, each in enumerate(encoders):
        last = _applied(encoders[index + 1 :], each.finish())
        if last:
            yield last
