"""Addresses and message headers, from bytes and back."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_netcapture.redirect import seccomp_messages as messages

V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.mark.parametrize(
    ("family", "address"),
    [(V4, ("198.51.100.7", 80)), (V6, ("2001:db8::7", 443)), (V6, ("198.51.100.7", 1))],
)
def test_an_address_there_and_back(family, address):
    name = messages.parse_name(messages.encode(family, address))
    assert name is not None
    assert (name.family, name.address) == (family, address)


def test_what_the_kernel_refuses_is_none():
    assert messages.parse_name(b"\2") is None
    assert messages.parse_name(messages.encode(V4, ("1.2.3.4", 5))[:15]) is None
    assert messages.parse_name(messages.encode(V6, ("::1", 5))[:23]) is None


def test_an_old_ipv6_address_has_no_scope():
    name = messages.parse_name(messages.encode(V6, ("::1", 5))[:24])
    assert name == messages.Name(V6, ("::1", 5), 0)


def test_other_families_have_no_address():
    unix = messages.parse_name(b"\1\0/run/nscd/socket\0rest")
    assert unix == messages.Name(socket.AF_UNIX, None, path=b"/run/nscd/socket")
    assert messages.parse_name(bytes(16)) == messages.Name(socket.AF_UNSPEC, None)


@given(st.binary(max_size=200))
def test_any_bytes_are_taken(data):
    messages.parse_name(data)
    list(messages.parse_control(data))
    messages.parse_pieces(data)
    if len(data) >= messages.HEADER.size:
        assert messages.parse_header(data).piece_count <= 1024


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.binary(max_size=40))))
def test_control_messages_there_and_back(control):
    assert list(messages.parse_control(messages.encode_control(control))) == control


@given(st.binary(max_size=100), st.lists(st.integers(0, 40), max_size=8))
def test_scattering_loses_nothing_that_fits(data, lengths):
    writes = messages.scatter(data, [(1000 * n, length) for n, length in enumerate(lengths)])
    assert b"".join(piece for _, piece in writes) == data[: sum(lengths)]
    assert all(len(piece) <= lengths[at // 1000] for at, piece in writes)
