"""Packets are kept and written, and tshark decrypts them; under each redirector that has namespaces."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import struct
import subprocess

import pytest
from engine_lab import Authority, answer, in_sandbox, serving, settings
from hypothesis import given
from hypothesis import strategies as st

from pytest_netcapture.engine import pcapng
from pytest_netcapture.engine.packets import comments, secrets_of
from pytest_netcapture.engine.pcapng import Packet
from pytest_netcapture.errors import UsageError
from pytest_netcapture.redirect.packets import addresses_of

NAME = "api.example.com"


def blocks(data):
    """Yield (type, body) of each block, whose two lengths must agree."""
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert struct.unpack_from("<I", data, at + length - 4)[0] == length
        assert length % 4 == 0
        yield kind, data[at + 8 : at + length - 4]
        at += length


@given(
    st.lists(st.tuples(st.integers(0, 2**63), st.binary(max_size=99)), max_size=9),
    st.text(max_size=9),
)
def test_a_file_is_read_as_it_was_written(given_packets, comment):
    packets = [Packet(*one) for one in given_packets]
    data = b"".join(
        pcapng.encode(packets, secrets=b"CLIENT_RANDOM", comments={0: [comment]}, dropped=3)
    )
    found = list(blocks(data))
    assert [kind for kind, _ in found[:3]] == [0x0A0D0D0A, 10, 1]
    read = []
    for kind, body in found:
        if kind == 6:
            _, high, low, size, whole = struct.unpack_from("<IIIII", body)
            assert size == whole
            read.append(Packet(high << 32 | low, body[20 : 20 + size]))
    assert read == packets
    if packets:
        assert comment.encode("utf-8", "replace") in data


@given(st.binary(max_size=80))
def test_addresses_are_read_of_any_bytes(data):
    ends = addresses_of(data)
    assert ends is None or all(0 <= port < 65536 for _, port in ends)


def test_secrets_of_other_handshakes_are_left_out():
    here, other = bytes(range(32)), bytes(range(32, 64))
    hello = Packet(1, b"\x45" + bytes(39) + b"\x16\x03\x01" + bytes(8) + here)
    lines = [b"CLIENT_RANDOM %s 00\n" % one.hex().encode() for one in (here, other)]
    assert secrets_of([*lines, b"torn", b"a zz b\n"], [hello]) == lines[0]


def test_no_flow_no_comment():
    assert comments([Packet(1, b"junk")], []) == {}


def test_what_was_not_kept_cannot_be_saved(tmp_path):
    def client(sandbox):
        try:
            sandbox.scope.save_packets(str(tmp_path / "a.pcapng"))
        except UsageError as error:
            return error.cure
        return ""

    assert "--netcapture-packets" in in_sandbox(client)


@pytest.mark.live
def test_tshark_shows_the_decrypted_http(tmp_path):
    tshark = shutil.which("tshark")
    if tshark is None:
        pytest.skip("needs tshark")
    authority = Authority(tmp_path)
    path = tmp_path / "a.pcapng"

    def client(sandbox):
        for family in (socket.AF_INET, socket.AF_INET6):
            address = socket.getaddrinfo(NAME, 443, family)[0][4]
            raw = socket.create_connection(address[:2])
            with ssl.create_default_context().wrap_socket(raw, server_hostname=NAME) as conn:
                conn.sendall(b"GET /secret HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
                conn.recv(1000)
        sandbox.wait(lambda: len(sandbox.flows("http")) == 2)
        sandbox.scope.save_packets(str(path))
        return len(sandbox.flows("http"))

    with serving(answer(b"found me"), authority.context(NAME)) as server:
        wanted = settings(mappings=[f"{NAME}={server.at}"], ca=[authority.file], packets=True)
        assert in_sandbox(client, wanted) == 2

    def ask(*arguments):
        command = [tshark, "-r", str(path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout

    fields = ("-T", "fields", "-e", "http.request.uri", "-e", "http.file_data")
    seen = ask("-Y", "http", *fields)
    assert seen.count("/secret") >= 2
    assert seen.count(b"found me".hex()) == 2 or seen.count("found me") == 2
    said = ask("-Y", "frame.comment", "-T", "json", "-e", "frame.comment")
    assert f"GET https://{NAME}/secret 200" in json.dumps(json.loads(said))
    assert not ask("-Y", "tcp.analysis.retransmission or tcp.analysis.duplicate_ack")
