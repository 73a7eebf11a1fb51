"""Read the ClientHello of a QUIC connection from its first datagrams, and leave them as they are.

1. Initial packets are encrypted with keys that follow from what is in them (RFC 9001 §5.2), so
   anybody can read them who has the first.
2. A ClientHello may be cut into many CRYPTO frames, in any order, over several datagrams
   (post-quantum shares are larger than one): it is complete when its beginning has no gaps.
3. Versions 1 and 2 are read (RFC 9000, RFC 9369); another is `NotQuic`, and so is what never ends.

tests/engine/layers/test_quic_hello.py proves them.
"""

from __future__ import annotations

from aioquic._buffer import Buffer, BufferReadError
from aioquic._crypto import CryptoError
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicHeader, QuicPacketType, QuicProtocolVersion, pull_quic_header

from pytest_netcapture.engine.layers.sniff import ClientHello, NotTls, parse_client_hello

CONNECTION_ID = 8
"""Bytes of the connection IDs that we choose."""
_LONG = 0x80
_VERSIONS = (QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2)
_HELLO_LIMIT = 1 << 16
_DATAGRAMS_LIMIT = 64
_PADDING, _PING, _ACK, _ACK_ECN, _CRYPTO = 0, 1, 2, 3, 6


class NotQuic(Exception):
    """The datagrams are not how QUIC that we speak begins; the argument says why."""


def destination(data: bytes) -> bytes:
    """Return the connection ID that a datagram is for, b"" when it has none."""
    if not data:
        return b""
    if data[0] & _LONG:
        return data[6 : 6 + data[5]] if len(data) > 6 else b""
    return data[1 : 1 + CONNECTION_ID]


class HelloReader:
    """Takes the datagrams of one new connection until its ClientHello is there."""

    def __init__(self) -> None:
        self._keys = CryptoPair()
        self.connection_id = b""
        self._version = 0
        self._pieces: dict[int, bytes] = {}
        self._datagrams = 0

    def feed(self, data: bytes) -> ClientHello | None:
        """Take a datagram; return the ClientHello when it is complete. Raises `NotQuic`."""
        self._datagrams += 1
        if self._datagrams > _DATAGRAMS_LIMIT:
            raise NotQuic("its ClientHello has no end")
        try:
            self._take(data)
        except (BufferReadError, ValueError) as error:
            raise NotQuic(f"malformed: {error}") from error
        return self._hello()

    def _take(self, data: bytes) -> None:
        buffer = Buffer(data=data)
        while not buffer.eof():
            start = buffer.tell()
            if not data[start] & _LONG:
                return
            version = int.from_bytes(data[start + 1 : start + 5], "big")
            if version not in _VERSIONS:
                if start == 0 and not self._version:
                    raise NotQuic(f"QUIC version 0x{version:x} is not decoded")
                return
            header = pull_quic_header(buffer, CONNECTION_ID)
            end = start + header.packet_length
            if header.packet_type is QuicPacketType.INITIAL:
                self._initial(header, data[start:end], buffer.tell() - start)
            buffer.seek(end)

    def _initial(self, header: QuicHeader, packet: bytes, encrypted: int) -> None:
        assert header.version is not None
        if not self._version:
            self._version, self.connection_id = header.version, header.destination_cid
            self._keys.setup_initial(header.destination_cid, is_client=False, version=self._version)
        elif header.version != self._version:
            return
        try:
            _, payload, _ = self._keys.decrypt_packet(packet, encrypted, 0)
        except CryptoError as error:
            if not self._pieces:
                raise NotQuic("its first packet cannot be decrypted") from error
            return
        self._frames(Buffer(data=payload))

    def _frames(self, buffer: Buffer) -> None:
        while not buffer.eof():
            kind = buffer.pull_uint_var()
            if kind == _CRYPTO:
                offset = buffer.pull_uint_var()
                piece = buffer.pull_bytes(buffer.pull_uint_var())
                if offset + len(piece) > _HELLO_LIMIT:
                    raise NotQuic("its ClientHello is too large")
                if len(piece) > len(self._pieces.get(offset, b"")):
                    self._pieces[offset] = piece
            elif kind in (_ACK, _ACK_ECN):
                _skip_ack(buffer, ecn=kind == _ACK_ECN)
            elif kind not in (_PADDING, _PING):
                return  # the end of a connection that has not begun

    def _hello(self) -> ClientHello | None:
        whole = b""
        for offset in sorted(self._pieces):
            if offset > len(whole):
                break
            whole += self._pieces[offset][len(whole) - offset :]
        if len(whole) < 4 or len(whole) < 4 + int.from_bytes(whole[1:4], "big"):
            return None
        parsed = parse_client_hello(_as_records(whole[: 4 + int.from_bytes(whole[1:4], "big")]))
        if isinstance(parsed, ClientHello):
            return parsed
        raise NotQuic(parsed.reason if isinstance(parsed, NotTls) else "no ClientHello")


def _as_records(message: bytes) -> bytes:
    """Return a handshake message as TLS over TCP sends it (RFC 8446 §5.1)."""
    size = 1 << 14
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def _skip_ack(buffer: Buffer, *, ecn: bool) -> None:
    buffer.pull_uint_var()
    buffer.pull_uint_var()
    ranges = buffer.pull_uint_var()
    for _ in range(1 + 2 * ranges + 3 * ecn):
        buffer.pull_uint_var()
