"""The ClientHello of a QUIC connection, whole and in pieces; and anything else, which is told apart."""

import contextlib

import pytest

pytest.importorskip("aioquic", reason="aioquic is not installed")

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_netcapture.engine.layers.quic_hello import HelloReader, NotQuic, destination
from pytest_netcapture.engine.layers.sniff import looks_like_quic

V1, V2 = 0x00000001, 0x6B3343CF


def first_flight(version=V1, *, alpn=("h3",), name="api.example.com"):
    configuration = QuicConfiguration(
        alpn_protocols=list(alpn), server_name=name, supported_versions=[version]
    )
    client = QuicConnection(configuration=configuration)
    client.connect(("", 0), now=0)
    return [data for data, _ in client.datagrams_to_send(now=0)]


def read(datagrams):
    reader = HelloReader()
    for data in datagrams:
        hello = reader.feed(data)
        if hello is not None:
            return reader, hello
    return reader, None


@pytest.mark.parametrize("version", [V1, V2])
def test_what_a_client_asks_for(version):
    (data,) = first_flight(version)
    assert looks_like_quic(data)
    reader, hello = read([data])
    assert (hello.sni, hello.alpn, hello.ecdsa) == ("api.example.com", ("h3",), True)
    assert reader.connection_id == destination(data)


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "the other way round"])
def test_one_that_is_larger_than_a_datagram(order):
    """As those with post-quantum key shares are."""
    many = tuple(f"protocol-{number}" for number in range(150))
    datagrams = first_flight(alpn=many)
    assert len(datagrams) > 1
    assert read(datagrams[:1])[1] is None
    assert read(datagrams[::order])[1].alpn == many


def test_another_version():
    data = bytearray(first_flight()[0])
    data[1:5] = b"\x0a\x1a\x2a\x3a"
    with pytest.raises(NotQuic, match="version 0xa1a2a3a is not decoded"):
        read([bytes(data)])


def test_one_that_never_ends():
    (data, *_) = first_flight(alpn=tuple(f"protocol-{number}" for number in range(150)))
    with pytest.raises(NotQuic, match="no end"):
        read([data] * 100)


FLIGHT = first_flight()[0]


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=1500),
        st.builds(lambda rest: FLIGHT[:20] + rest, st.binary(max_size=1400)),
        st.builds(
            lambda at, byte: FLIGHT[:at] + bytes([byte]) + FLIGHT[at + 1 :],
            st.integers(0, len(FLIGHT) - 1),
            st.integers(0, 255),
        ),
        st.builds(lambda end: FLIGHT[:end], st.integers(0, len(FLIGHT))),
    )
)
def test_whatever_comes_it_is_read_or_refused(data):
    looks_like_quic(data)
    destination(data)
    reader = HelloReader()
    with contextlib.suppress(NotQuic):
        for _ in range(2):
            reader.feed(data)
