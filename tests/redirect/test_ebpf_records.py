"""Structures that both halves share."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_netcapture.redirect import ebpf_records as records

addresses = st.tuples(st.ip_addresses().map(str), st.integers(1, 65535))


def plain(address):
    """IPv4 in IPv6 is the IPv4 address: they are one server."""
    host = ipaddress.ip_address(address[0])
    mapped = getattr(host, "ipv4_mapped", None)
    return str(mapped or host), address[1]


@given(addresses, addresses, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_an_arrival_is_read_as_it_was_written(client, server, process, sequence):
    data = (
        records.encode_address(client, socket.IPPROTO_TCP)
        + records.encode_address(server, socket.IPPROTO_TCP)
        + records.encode_word(process)
        + sequence.to_bytes(4, "big")
    )
    found = records.read_arrival(data)
    assert found == (plain(client), plain(server), process, sequence)


@given(st.binary(max_size=records.ARRIVAL_SIZE - 1))
def test_what_is_too_short_is_refused(data):
    with pytest.raises(ValueError, match="an arrival has"):
        records.read_arrival(data)


def test_names_are_cut_as_the_kernel_cuts_them():
    assert records.encode_name("curl") == b"curl".ljust(64, b"\0")
    assert records.encode_name("x" * 80) == b"x" * 63 + b"\0"


def test_the_configuration_has_the_size_of_the_kernels():
    config = records.Config(stream_ports=(1, 2), sources=("192.0.2.1", "2001:db8::1"))
    assert len(config.encode()) == 96
