"""What the first bytes tell, however few there are."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_netcapture.engine.layers.sniff import (
    ClientHello,
    Guess,
    NeedMore,
    NotTls,
    parse_client_hello,
    sniff,
)


def hello(
    name: str | None = "a.example",
    alpn: tuple[str, ...] = ("h2", "http/1.1"),
    context: ssl.SSLContext | None = None,
) -> bytes:
    context = context or ssl.create_default_context()
    context.check_hostname = name is not None
    context.set_alpn_protocols(list(alpn))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def padded(size: int) -> bytes:
    """A ClientHello with an extension of `size` bytes, as a post-quantum share is."""
    extension = (0xFE0D).to_bytes(2, "big") + size.to_bytes(2, "big") + b"k" * size
    name = b"\0\0\0\x0e\0\x0c\0\0\x09a.example"
    extensions = name + extension
    body = b"\3\3" + b"r" * 32 + b"\0" + b"\0\2\x13\x01" + b"\1\0"
    body += len(extensions).to_bytes(2, "big") + extensions
    return b"\1" + len(body).to_bytes(3, "big") + body


def records(message: bytes, size: int) -> bytes:
    cut = [message[i : i + size] for i in range(0, len(message), size)]
    return b"".join(b"\x16\3\1" + len(part).to_bytes(2, "big") + part for part in cut)


class TestClientHello:
    def test_what_openssl_sends(self) -> None:
        data = hello()
        parsed = parse_client_hello(data)
        assert isinstance(parsed, ClientHello)
        assert (parsed.sni, parsed.alpn, parsed.length) == (
            "a.example",
            ("h2", "http/1.1"),
            len(data),
        )
        assert 0x0304 in parsed.versions
        assert parse_client_hello(data + b"more") == parsed

    @pytest.mark.parametrize(
        ("ciphers", "version", "ecdsa"),
        [
            ("DEFAULT", ssl.TLSVersion.TLSv1_3, True),
            ("ECDHE-RSA-AES128-GCM-SHA256", ssl.TLSVersion.TLSv1_3, True),
            ("DEFAULT", ssl.TLSVersion.TLSv1_2, True),
            ("ECDHE-ECDSA-AES128-CCM", ssl.TLSVersion.TLSv1_2, True),
            ("ECDHE-RSA-AES128-GCM-SHA256:AES256-SHA", ssl.TLSVersion.TLSv1_2, False),
        ],
    )
    def test_whether_it_takes_an_ecdsa_certificate(
        self, ciphers: str, version: ssl.TLSVersion, ecdsa: bool
    ) -> None:
        context = ssl.create_default_context()
        context.maximum_version = version
        context.set_ciphers(ciphers)
        parsed = parse_client_hello(hello(context=context))
        assert isinstance(parsed, ClientHello)
        assert parsed.ecdsa == ecdsa

    def test_one_without_algorithms_takes_none(self) -> None:
        parsed = parse_client_hello(records(padded(10), 1 << 14))
        assert isinstance(parsed, ClientHello)
        assert not parsed.ecdsa

    def test_without_a_name(self) -> None:
        parsed = parse_client_hello(hello(None, ("x",)))
        assert isinstance(parsed, ClientHello)
        assert (parsed.sni, parsed.alpn) == ("", ("x",))

    @pytest.mark.parametrize("size", [1, 5, 100, 1 << 14])
    @pytest.mark.parametrize("padding", [10, 1800, 20000])
    def test_over_several_records(self, size: int, padding: int) -> None:
        if padding / size > 5000:
            return
        data = records(padded(padding), size)
        parsed = parse_client_hello(data)
        if len(data) > 60000:
            assert isinstance(parsed, NotTls)
            return
        assert isinstance(parsed, ClientHello)
        assert (parsed.sni, parsed.length) == ("a.example", len(data))

    def test_each_prefix_asks_for_more_than_it_has_and_not_too_much(self) -> None:
        data = records(padded(1800), 700)
        for size in range(len(data)):
            parsed = parse_client_hello(data[:size])
            assert isinstance(parsed, NeedMore)
            assert size < parsed.length <= len(data)
            assert sniff(data[:size]) is Guess.MORE
        assert sniff(data) is Guess.TLS

    @pytest.mark.parametrize(
        "data",
        [
            b"\x16\3\1\0\0",
            b"\x16\3\1\xff\xff",
            b"\x16\2\1",
            b"\x16\3\1\0\4\2\0\0\0",
            b"\x16\3\1\0\4\1\xff\xff\xff",
            b"\x16\3\1\0\5\1\0\0\1\0",
            b"\x17\3\3\0\1x",
            records(padded(10), 20)[:25] + b"\x17\3\3\0\1x",
        ],
    )
    def test_what_is_none(self, data: bytes) -> None:
        parsed = parse_client_hello(data)
        assert isinstance(parsed, NotTls)
        assert parsed.reason


class TestSniff:
    @pytest.mark.parametrize(
        ("data", "guess"),
        [
            (b"", Guess.MORE),
            (b"G", Guess.MORE),
            (b"GET", Guess.MORE),
            (b"GET /", Guess.HTTP1),
            (b"OPTIONS *", Guess.HTTP1),
            (b"PROPFIND /x", Guess.HTTP1),
            (b"M-SEARCH * HTTP/1.1\r\n", Guess.HTTP1),
            (b"GET http://a/ ", Guess.MORE),
            (b"GET http://a/ HTTP/1.1\r\n", Guess.HTTP1),
            (b"CONNECT a:443 HTTP/1.1\r\n", Guess.HTTP1),
            (b"FOO-BAR /x", Guess.MORE),
            (b"FOO-BAR /x HTTP/1.1\r\n", Guess.HTTP1),
            (b"foo x HTTP/1.0\n", Guess.HTTP1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Guess.HTTP2),
            (b"PRI * HTTP/2.0\r\n", Guess.MORE),
            (b"P", Guess.MORE),
            (b"*1\r\n$4\r\nPING\r\n", Guess.REDIS),
            (b"*1\r\n", Guess.MORE),
            (b"*", Guess.MORE),
            (b"* OK\r\n", Guess.UNKNOWN),
            (b"PING\r\n", Guess.UNKNOWN),
            (b"EHLO x", Guess.UNKNOWN),
            (b"EHLO x\r\n", Guess.UNKNOWN),
            (b"SSH-2.0-OpenSSH_9\r\n", Guess.UNKNOWN),
            (b"USER anonymous\r\n", Guess.UNKNOWN),
            (b"GET key\r\n", Guess.UNKNOWN),
            (b"get key\r\n", Guess.UNKNOWN),
            (b"hello", Guess.UNKNOWN),
            (b"hello world", Guess.UNKNOWN),
            (b"\r\n", Guess.UNKNOWN),
            (b"\0\0\0\x08\x04\xd2\x16/", Guess.POSTGRESQL),
            (b"\xff", Guess.UNKNOWN),
            (b"\x16x", Guess.UNKNOWN),
        ],
    )
    def test_table(self, data: bytes, guess: Guess) -> None:
        assert sniff(data) is guess

    @given(st.binary(max_size=200))
    @settings(max_examples=300, deadline=None)
    def test_anything_gets_an_answer(self, data: bytes) -> None:
        assert sniff(data) in Guess
        parse_client_hello(data)

    @given(st.binary(max_size=120), st.integers(0, 200), st.integers(0, 100))
    @settings(max_examples=300, deadline=None)
    def test_damaged_hellos_get_an_answer(self, noise: bytes, at: int, size: int) -> None:
        data = records(padded(100), 60)
        damaged = data[:at] + noise + data[at + size :]
        parsed = parse_client_hello(damaged)
        assert not isinstance(parsed, NeedMore) or parsed.length > len(damaged)
