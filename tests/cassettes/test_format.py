"""The file format: damage of any kind is a clean error, large bodies need little memory."""

from __future__ import annotations

import hashlib
import os
import tracemalloc

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_netcapture.cassettes import format as cassette_format
from pytest_netcapture.cassettes.source import Source
from pytest_netcapture.cassettes.wire import measure
from pytest_netcapture.errors import CassetteError
from pytest_netcapture.flows import Body


@pytest.fixture
def sample(record, flow_of, tmp_path):
    record(
        flow_of("POST", "/a", body=b'{"n": 1}', answer=b"x" * 260),
        flow_of("GET", "/b", answer=bytes(range(200, 256))),
        flow_of("GET", "/c", answer=b"same"),
        flow_of("GET", "/d", answer=b"same"),
    )
    return tmp_path / "c.cassette"


def _flows(path):
    source = Source(str(path))
    try:
        return [msgspec.msgpack.encode(recording.flow()) for recording in source.recordings]
    finally:
        source.close()


@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False)
        | st.text()
        | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_measure_knows_the_length_of_any_value(value):
    data = msgspec.msgpack.encode(value)
    assert measure(data + b"\x01\x02") == len(data)
    assert all(measure(data[:cut]) == -1 for cut in range(min(len(data), 40)))


def test_measure_of_an_extension():
    data = msgspec.msgpack.encode(msgspec.msgpack.Ext(5, b"x" * 260))
    assert measure(data) == len(data)
    assert measure(b"\xc1") == -1


def test_any_msgpack_library_reads_it_in_five_lines(sample):
    """The example of docs/cassette-format.md, with a msgpack decoder of 20 lines in its place."""
    import zlib

    values = iter(_Unpacker(sample.read_bytes()))
    header = next(values)
    records = []
    for crc, payload in values:
        assert zlib.crc32(payload) == crc
        records.append(next(iter(_Unpacker(payload))))
    assert header["format"] == "netcapture-cassette"
    assert header["version"] == 1
    assert [r["kind"] for r in records].count("http") == 4
    assert records[-1] == {"kind": "end", "records": len(records) - 1}


class _Unpacker:
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        data = self.data
        while data:
            size = measure(data)
            yield msgspec.msgpack.decode(data[:size])
            data = data[size:]


def test_equal_bodies_are_stored_once(sample):
    assert sample.read_bytes().count(b"same") == 1


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_flipped_byte_is_an_error_or_harmless(sample, data):
    whole = sample.read_bytes()
    expected = _flows(sample)
    at = data.draw(st.integers(0, len(whole) - 1))
    bits = data.draw(st.integers(1, 255))
    damaged = sample.with_name("damaged")
    damaged.write_bytes(whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :])
    try:
        assert _flows(damaged) == expected
    except CassetteError as error:
        text = str(error)
    else:
        return
    assert str(damaged) in text
    assert "offset" in text
    assert "cure" in text


def test_every_truncation_is_an_error(sample):
    whole = sample.read_bytes()
    cut = sample.with_name("cut")
    for size in [*range(200), *range(200, len(whole), 7)]:
        cut.write_bytes(whole[:size])
        with pytest.raises(CassetteError, match="offset"):
            _flows(cut)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(junk=st.binary(max_size=60), keep=st.integers(0, 400))
def test_any_bytes_after_a_sound_beginning_are_an_error(sample, junk, keep):
    whole = sample.read_bytes()
    path = sample.with_name("junk")
    path.write_bytes(whole[:keep] + junk)
    try:
        _flows(path)
    except CassetteError:
        return
    assert path.read_bytes() == whole


@given(junk=st.binary(max_size=200))
def test_junk_in_a_valid_record_is_an_error(junk, tmp_path_factory):
    path = tmp_path_factory.mktemp("junk") / "c"
    path.write_bytes(cassette_format.encode_header(b"s", "") + cassette_format.encode_record(junk))
    with pytest.raises(CassetteError):
        Source(str(path))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"interactions:\n- request:\n", "not a netcapture cassette"),
        (b'{"log": {}}', "not a netcapture cassette"),
        (msgspec.msgpack.encode({"format": "other"}), "not a map"),
        (msgspec.msgpack.encode([1, 2]), "not a map"),
        (
            msgspec.msgpack.encode({"format": "netcapture-cassette", "version": 2}),
            "newer pytest-netcapture",
        ),
        (msgspec.msgpack.encode({"format": "netcapture-cassette", "version": 1}), "damaged"),
    ],
)
def test_foreign_files_are_named_as_such(tmp_path, content, says):
    path = tmp_path / "c"
    path.write_bytes(content)
    with pytest.raises(CassetteError, match=says) as caught:
        Source(str(path))
    assert str(path) in str(caught.value)


def test_a_newer_version_says_upgrade(tmp_path):
    path = tmp_path / "c"
    path.write_bytes(msgspec.msgpack.encode({"format": "netcapture-cassette", "version": 9}))
    with pytest.raises(CassetteError, match="upgrade"):
        Source(str(path))


def test_a_huge_length_is_not_allocated(tmp_path):
    path = tmp_path / "c"
    path.write_bytes(
        cassette_format.encode_header(b"s", "")
        + b"\x92\xce\0\0\0\0\xc6\xff\xff\xff\xff"
        + b"x" * 50
    )
    tracemalloc.start()
    with pytest.raises(CassetteError, match="torn"):
        Source(str(path))
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_folder_and_a_forbidden_file_are_unreadable(tmp_path):
    with pytest.raises(CassetteError, match="cannot be read"):
        Source(str(tmp_path))
    path = tmp_path / "c"
    path.write_bytes(b"")
    path.chmod(0)
    if os.getuid():
        with pytest.raises(CassetteError, match="Permission denied"):
            Source(str(path))


@pytest.mark.parametrize("kind", ["compressible", "random"])
def test_a_large_body_needs_little_memory(open_cassette, flow_of, tmp_path, kind):
    size, piece = 24 << 20, os.urandom(1 << 20) if kind == "random" else b"line of text\n" * 80_660
    spool = tmp_path / "large"
    with spool.open("wb") as file:
        while file.tell() < size:
            file.write(piece[: size - file.tell()])
    flow = flow_of("GET", "/large")
    flow.response.body = Body(size, path=str(spool))
    tracemalloc.start()
    cassette = open_cassette("once")
    cassette.record(flow)
    cassette.save()
    again = open_cassette("none")
    played = again.play_http(flow.request)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 9 << 20
    body = played.response.body
    assert body.path
    assert body.size == size
    assert _digest(body) == _digest(flow.response.body)
    if kind == "compressible":
        assert (tmp_path / "c.cassette").stat().st_size < size // 20
    assert "24" in (tmp_path / "c.cassette.txt").read_text()


def _digest(body):
    digest = hashlib.sha256()
    for piece in body.pieces():
        digest.update(piece)
    return digest.hexdigest()


def test_a_missing_body_is_an_error(tmp_path):
    record = {
        "kind": "http",
        "request": {
            "method": "GET",
            "scheme": "http",
            "host": "h",
            "port": 1,
            "target": "/",
            "body": {"id": "nope", "size": 3},
        },
    }
    content = cassette_format.encode_header(b"s", "")
    content += cassette_format.encode_record(
        msgspec.msgpack.encode(record)
    ) + cassette_format.encode_end(1)
    path = tmp_path / "c"
    path.write_bytes(content)
    source = Source(str(path))
    with pytest.raises(CassetteError, match="not in the file"):
        source.recordings[0].flow()
    source.close()
