"""Bodies: kept within memory, decoded when they can be, and coded again as they were."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_netcapture.engine import bodies
from pytest_netcapture.engine.bodies import SpoolingBody
from pytest_netcapture.engine.codings import CodingError, decoder, encode

CODINGS = ["gzip", "x-gzip", "deflate", "br", "zstd", "gzip, br", "deflate, gzip, zstd"]
TEXT = b"The quick brown fox. " * 500


def decode(data: bytes, coding: str, step: int = 1 << 16) -> bytes:
    remover = decoder(coding)
    assert remover is not None
    out = [p for i in range(0, len(data), step) for p in remover.feed(data[i : i + step])]
    remover.finish()
    return b"".join(out)


class TestCodings:
    @pytest.mark.parametrize("coding", CODINGS)
    @given(pieces=st.lists(st.binary(max_size=300), max_size=6), step=st.integers(1, 200))
    @settings(max_examples=40, deadline=None)
    def test_what_is_coded_decodes(self, coding: str, pieces: list[bytes], step: int) -> None:
        assert decode(b"".join(encode(pieces, coding)), coding, step) == b"".join(pieces)

    @pytest.mark.parametrize("coding", CODINGS)
    def test_each_piece_can_be_read_when_it_has_come(self, coding: str) -> None:
        remover = decoder(coding)
        assert remover is not None
        coded = encode([b"first", b"second"], coding)
        assert b"".join(remover.feed(next(coded))) == b"first"
        assert b"".join(remover.feed(next(coded))) == b"second"

    def test_raw_deflate(self) -> None:
        maker = zlib.compressobj(wbits=-15)
        data = maker.compress(TEXT) + maker.flush()
        assert decode(data, "deflate") == decode(data, "deflate", 1) == TEXT

    def test_several_gzip_members_and_zstd_frames(self) -> None:
        assert decode(gzip.compress(b"a") + gzip.compress(b"b"), "gzip", 3) == b"ab"
        pack = zstandard.ZstdCompressor().compress
        assert decode(pack(b"a") + pack(b"b"), "zstd", 3) == b"ab"

    @pytest.mark.parametrize("coding", CODINGS)
    @pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
    def test_damage_is_found(self, coding: str, damage: str) -> None:
        data = b"".join(encode([TEXT], coding))
        data = {"cut": data[:-9], "noise": b"\x07noise" + data, "empty": b""}[damage]
        with pytest.raises(CodingError):
            decode(data, coding)

    def test_unknown_codings(self) -> None:
        assert decoder("compress") is None
        assert decoder("gzip, nonsense") is None
        assert decoder("identity") is None
        assert list(encode([b"a"], "nonsense")) == [b"a"]

    @pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
    def test_output_comes_in_bounded_pieces(self, coding: str) -> None:
        data = {
            "gzip": gzip.compress,
            "br": lambda d: brotli.compress(d, quality=5),
            "zstd": zstandard.ZstdCompressor().compress,
        }[coding](bytes(1 << 24))
        remover = decoder(coding)
        assert remover is not None
        sizes = [len(piece) for piece in remover.feed(data)]
        assert sum(sizes) == 1 << 24
        assert coding == "zstd" or max(sizes) <= 1 << 20


class TestSink:
    def test_a_small_body_stays_in_memory(self, tmp_path: Path) -> None:
        sink = SpoolingBody(str(tmp_path))
        sink.write(b"ab")
        sink.write(b"c")
        body = sink.finish("")
        assert (body.data, body.size, body.path, body.chunks) == (b"abc", 3, "", [])
        assert not list(tmp_path.iterdir())

    def test_a_large_one_goes_to_disk(self, tmp_path: Path) -> None:
        sink = SpoolingBody(str(tmp_path), 10)
        for _ in range(5):
            sink.write(b"01234")
        body = sink.finish("")
        assert (body.data, body.size, body.content) == (b"", 25, b"01234" * 5)
        assert os.stat(body.path).st_mode & 0o777 == 0o600

    def test_one_that_nobody_finishes_leaves_no_descriptor(self, tmp_path: Path) -> None:
        before = os.listdir("/proc/self/fd")
        sink = SpoolingBody(str(tmp_path), 1)
        sink.write(b"abc")
        del sink
        assert len(os.listdir("/proc/self/fd")) == len(before)

    def test_nothing_is_a_body_too(self, tmp_path: Path) -> None:
        assert SpoolingBody(str(tmp_path)).finish("gzip").size == 0

    @pytest.mark.parametrize("window", [10, 1 << 20])
    @pytest.mark.parametrize("coding", CODINGS)
    def test_codings_are_removed(self, tmp_path: Path, coding: str, window: int) -> None:
        sink = SpoolingBody(str(tmp_path), window)
        for piece in encode([TEXT[:50], TEXT[50:]], coding):
            sink.write(piece)
            sink.mark()
        body = sink.finish(coding.upper())
        assert (body.content, body.coding) == (TEXT, coding)
        assert body.chunks == [50, len(TEXT) - 50]
        assert len(list(tmp_path.iterdir())) == (window == 10), "what held the coded form is gone"

    @pytest.mark.parametrize(
        "data",
        [b"plain text", gzip.compress(TEXT)[:-1], b"\x1f\x8b"],
        ids=["plain", "cut", "short"],
    )
    def test_what_does_not_decode_is_kept_as_sent(self, tmp_path: Path, data: bytes) -> None:
        sink = SpoolingBody(str(tmp_path), 5)
        sink.write(data)
        body = sink.finish("gzip")
        assert (body.content, body.coding) == (data, "")
        assert "gzip" in sink.note
        assert len(list(tmp_path.iterdir())) == (len(data) > 5)

    def test_bombs_are_not_unpacked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bodies, "LARGEST", 1 << 20)
        sink = SpoolingBody(str(tmp_path))
        bomb = gzip.compress(bytes(1 << 22))
        sink.write(bomb)
        body = sink.finish("gzip")
        assert (body.data, body.coding) == (bomb, "")
        assert "expands" in sink.note
        assert not list(tmp_path.iterdir())

    def test_chunks_and_waits(self, tmp_path: Path) -> None:
        clock = iter([0, 10_000_000, 350_000_000, 360_000_000])
        sink = SpoolingBody(str(tmp_path), now=lambda: next(clock))
        for piece in (b"a", b"bc", b"def"):
            sink.write(piece)
            sink.mark()
        body = sink.finish("")
        assert (body.chunks, body.gaps) == ([1, 2, 3], [0, 3, 0])

    def test_one_chunk_says_nothing(self, tmp_path: Path) -> None:
        sink = SpoolingBody(str(tmp_path))
        sink.write(b"abc")
        sink.mark()
        assert sink.finish("").chunks == []

    def test_an_unfinished_last_chunk_is_one(self, tmp_path: Path) -> None:
        sink = SpoolingBody(str(tmp_path))
        sink.write(b"abc")
        sink.mark()
        sink.write(b"de")
        assert sink.finish("").chunks == [3, 2]

    @given(
        st.lists(st.binary(min_size=1, max_size=50), max_size=8),
        st.sampled_from(["", *CODINGS]),
        st.sampled_from([1, 30, 1 << 20]),
    )
    @settings(max_examples=100, deadline=None)
    def test_chunks_add_up(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        pieces: list[bytes],
        coding: str,
        window: int,
    ) -> None:
        sink = SpoolingBody(str(tmp_path_factory.mktemp("spool")), window)
        for piece in encode(pieces, coding) if coding else pieces:
            sink.write(piece)
            sink.mark()
        body = sink.finish(coding)
        assert body.content == b"".join(pieces)
        assert body.chunks == (list(map(len, pieces)) if len(pieces) > 1 else [])
