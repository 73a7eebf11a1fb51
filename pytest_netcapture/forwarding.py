"""What a forward proxy speaks: HTTP (RFC 9110 §9.3.6, RFC 9112 §3.2.2), or SOCKS5 (RFC 1928).

1. It runs in a sandbox and dials as any program there does: what it dials is captured, decrypted,
   recorded or played by the engine, which this module knows nothing of.
2. A request that is not tunnelled is the only one of its connection: the next may be for another
   host.
3. An end is passed on as an end, a reset as a reset.

Proved by tests/plugin/test_proxy.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import TypeAlias
from urllib.parse import urlsplit

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_LARGEST_HEAD = 1 << 16
_PIECE = 1 << 16
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_NO_METHOD = b"\x05\xff"
_GENERAL, _UNREACHABLE, _REFUSED, _NO_COMMAND, _NO_TYPE = 1, 4, 5, 7, 8
_RESET = struct.pack("ii", 1, 0)
_HOST = re.compile(r"(?im)^host:[^\n]*\n")
_HOP_BY_HOP = frozenset(("connection", "keep-alive", "proxy-authorization", "proxy-connection"))


async def serve_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client of an HTTP proxy."""
    line, fields = await _head(reader, writer)
    if not line:
        return
    method, _, rest = line.partition(" ")
    target = rest.rpartition(" ")[0]
    place = _place(target, connect=method == "CONNECT")
    if place is None:
        told = f"{line[:200]!r} is no request for a proxy: give it as one, as in curl --proxy"
        await _answer(writer, "400 Bad Request", told)
        return
    upstream = await _dialled(writer, *place)
    if upstream is None:
        return
    if method == "CONNECT":
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    else:
        upstream[1].write(_in_origin_form(line, _path(target), fields))
    await _relay((reader, writer), upstream)


def serve_reverse(url: str) -> Serve:
    """Return what serves clients as if it were the server of `url`. Raises `ValueError`."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    if not parts.hostname or parts.scheme not in ("http", "https"):
        raise ValueError(f"{url!r} is no URL of http or https")
    host, port = parts.hostname, parts.port or (443 if secure else 80)
    authority, prefix = parts.netloc.rpartition("@")[2], parts.path.rstrip("/")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, fields = await _head(reader, writer)
        if not line:
            return
        target = line.partition(" ")[2].rpartition(" ")[0]
        upstream = await _dialled(writer, host, port, secure=secure)
        if upstream is None:
            return
        named = f"{_HOST.sub('', fields)}Host: {authority}\r\n"
        upstream[1].write(_in_origin_form(line, prefix + _path(target), named))
        await _relay((reader, writer), upstream)

    return serve


async def _head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, str]:
    """Return a request's line and its fields; "" if there is none, which the client is told."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return "", ""
    except asyncio.LimitOverrunError:
        await _answer(writer, "431 Request Header Fields Too Large", "the head is too long")
        return "", ""
    line, _, fields = head.decode("latin-1").removesuffix("\r\n").partition("\r\n")
    return line, fields


async def _dialled(
    writer: asyncio.StreamWriter, host: str, port: int, *, secure: bool = False
) -> Streams | None:
    """Connect to a server; None if that failed, which the client is told."""
    context = ssl.create_default_context() if secure else None
    try:
        return await asyncio.open_connection(host, port, limit=_PIECE, ssl=context)
    except OSError as error:
        await _answer(writer, "502 Bad Gateway", f"{host}:{port}: {_reason(error)}")
        return None


async def serve_socks5(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client of a SOCKS5 proxy: CONNECT, without authentication."""
    try:
        version, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        if version != 5 or 0 not in methods:
            writer.write(_NO_METHOD)
            return
        writer.write(b"\x05\x00")
        _, command, _, kind = await reader.readexactly(4)
        host = await _socks_host(reader, kind)
        port = int.from_bytes(await reader.readexactly(2), "big")
    except (asyncio.IncompleteReadError, UnicodeDecodeError):
        return
    if not host or command != _CONNECT:
        writer.write(_socks_reply(_NO_COMMAND if host else _NO_TYPE))
        return
    try:
        upstream = await asyncio.open_connection(host, port, limit=_PIECE)
    except OSError as error:
        refused = isinstance(error, ConnectionRefusedError)
        unreachable = _UNREACHABLE if isinstance(error, socket.gaierror) else _GENERAL
        writer.write(_socks_reply(_REFUSED if refused else unreachable))
        return
    writer.write(_socks_reply(0))
    await _relay((reader, writer), upstream)


async def listen(serve: Serve, port: int) -> asyncio.Server:
    """Serve on a port of 127.0.0.1, of this namespace; 0 takes a free one."""

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                await serve(reader, writer)
                await writer.drain()
        finally:
            writer.close()

    return await asyncio.start_server(client, "127.0.0.1", port, limit=_LARGEST_HEAD)


def _place(target: str, *, connect: bool) -> tuple[str, int] | None:
    """Return host and port of a request's target, None if it has none."""
    try:
        parts = urlsplit(f"//{target}" if connect else target)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or (connect and not port) or (not connect and parts.scheme != "http"):
        return None
    return host, port or 80


def _path(target: str) -> str:
    """Return path and query of a target in absolute or origin form."""
    if target.startswith("/") or "://" not in target:
        return target
    rest = target.partition("://")[2]
    slash = min((i for i in (rest.find("/"), rest.find("?")) if i >= 0), default=len(rest))
    path = rest[slash:]
    return path if path.startswith("/") else f"/{path}"


def _in_origin_form(line: str, path: str, fields: str) -> bytes:
    """Return a head as the server itself is to have it, and no further request to follow."""
    kept = [
        field
        for field in fields.split("\r\n")
        if field and field.partition(":")[0].strip().lower() not in _HOP_BY_HOP
    ]
    method, version = line.partition(" ")[0], line.rpartition(" ")[2]
    upgrades = any(field.lower().startswith("upgrade:") for field in kept)
    connection = f"Connection: {'Upgrade' if upgrades else 'close'}"
    lines = [f"{method} {path} {version}", *kept, connection, "", ""]
    return "\r\n".join(lines).encode("latin-1")


async def _socks_host(reader: asyncio.StreamReader, kind: int) -> str:
    if kind == _NAME:
        (length,) = await reader.readexactly(1)
        return (await reader.readexactly(length)).decode("ascii")
    if kind not in (_IPV4, _IPV6):
        return ""
    return str(ipaddress.ip_address(await reader.readexactly(4 if kind == _IPV4 else 16)))


def _socks_reply(code: int) -> bytes:
    return bytes((5, code, 0, _IPV4)) + bytes(6)


async def _answer(writer: asyncio.StreamWriter, status: str, told: str) -> None:
    body = f"netcapture: {told}\n".encode("utf-8", "replace")
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()


async def _relay(client: Streams, upstream: Streams) -> None:
    try:
        await asyncio.gather(_copy(client[0], upstream[1]), _copy(upstream[0], client[1]))
    except ConnectionError:
        for _, writer in (client, upstream):
            _reset(writer)
    finally:
        upstream[1].close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_PIECE):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():  # over TLS one cannot
        with contextlib.suppress(OSError):  # it has ended, too
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a reset: SO_LINGER of 0 s."""
    inner = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
