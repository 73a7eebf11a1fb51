"""A few nftables messages, by hand: kernel facts must not lean on the code that they are for."""

import errno
import socket
import struct

_ATTR = struct.Struct("=HH")
TABLE, CHAIN, RULE = 0, 3, 6


def attr(kind, data):
    return _ATTR.pack(4 + len(data), kind) + data + bytes(-len(data) % 4)


def be32(number):
    return struct.pack("!I", number & 0xFFFFFFFF)


def expr(name, *attrs):
    """Return a list element (type 1): name (1), data (2); `attrs` are (type, bytes)."""
    data = b"".join(attr(kind | (0x8000 if nested else 0), value) for kind, value, nested in
                    ((a if len(a) == 3 else (*a, False)) for a in attrs))  # fmt: skip
    return attr(0x8001, attr(1, name.encode() + b"\0") + attr(0x8002, data))


def value(data):
    return attr(1, data)


def immediate(register, data):
    return expr("immediate", (1, be32(register)), (2, value(data), True))


def verdict(code):
    return expr("immediate", (1, be32(0)), (2, attr(0x8002, attr(1, be32(code))), True))


ACCEPT, DROP = verdict(1), verdict(0)


def compare(data):
    return expr("cmp", (1, be32(1)), (2, be32(0)), (3, value(data), True))


def meta(key, data):
    return expr("meta", (1, be32(1)), (2, be32(key))) + compare(data)


def mark(number):
    return meta(3, struct.pack("=I", number))


def family(version):
    return meta(15, bytes([{4: 2, 6: 10}[version]]))


def l4proto(number):
    return meta(16, bytes([number]))


def dport(number):
    return expr("payload", (1, be32(1)), (2, be32(2)), (3, be32(2)), (4, be32(2))) + compare(
        struct.pack("!H", number)
    )


def socket_wildcard(expected=None):
    found = expr("socket", (1, be32(2)), (2, be32(1)))
    return found if expected is None else found + compare(bytes([expected]))


def tproxy(version, address, port):
    packed = socket.inet_pton(socket.AF_INET if version == 4 else socket.AF_INET6, address)
    return (
        family(version)
        + immediate(1, packed)
        + immediate(2, struct.pack("!H", port))
        + expr("tproxy", (1, be32({4: 2, 6: 10}[version])), (2, be32(1)), (3, be32(2)))
        + ACCEPT
    )


def reject(kind, code=0):
    """Reject with a TCP reset (kind 1) or an icmpx error (kind 2)."""
    return expr("reject", (1, be32(kind)), (2, bytes([code])))


def queue(number):
    flags = struct.pack("!H", 1)
    return expr("queue", (1, struct.pack("!H", number)), (2, struct.pack("!H", 1)), (3, flags))


def queue_target(number):
    info = struct.pack("=HHHxx", number, 1, 1)
    return expr("target", (1, b"NFQUEUE\0"), (2, be32(3)), (3, info))


def install(chains):
    """Make a table of prerouting chains, {priority: [rule, ...]}; raises OSError."""
    body = [_message(0x10, 0, struct.pack("!BBH", 0, 0, 10))]
    body.append(_nft(TABLE, attr(1, b"facts\0")))
    for priority, rules in chains.items():
        name = f"at{priority}".encode() + b"\0"
        hook = attr(1, be32(0)) + attr(2, be32(priority))
        body.append(
            _nft(
                CHAIN,
                attr(1, b"facts\0") + attr(3, name) + attr(0x8004, hook) + attr(7, b"filter\0"),
            )
        )
        body += [
            _nft(RULE, attr(1, b"facts\0") + attr(2, name) + attr(0x8004, rule)) for rule in rules
        ]
    body.append(_message(0x11, 0, struct.pack("!BBH", 0, 0, 10)))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as conn:
        conn.send(b"".join(body))
        check(conn)


def check(conn):
    """Raise the first error that the kernel has put into the receive queue."""
    while True:
        try:
            data = conn.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        kind, number = struct.unpack_from("=4xH10xi", data)
        if kind == 2 and number:
            raise OSError(-number, errno.errorcode.get(-number, "?"))


def _nft(kind, attrs):
    return _message(10 << 8 | kind, 0xC00, struct.pack("!BBH", 1, 0, 0) + attrs)


def _message(kind, flags, body):
    return struct.pack("=IHHII", 16 + len(body), kind, flags | 1, 1, 0) + body


def make_every_address_local(table=255):
    """`lo` up, 192.0.2.1 and 2001:db8::1 on it, `local default dev lo` for both families.

    The default table is `local`; another one gets a rule that leads to it.
    """
    own = {
        4: socket.inet_pton(socket.AF_INET, "192.0.2.1"),
        6: socket.inet_pton(socket.AF_INET6, "2001:db8::1"),
    }
    body = [_message(16, 0, struct.pack("=BxHiII", 0, 0, 1, 1, 1))]
    for version, number, length in ((4, socket.AF_INET, 32), (6, socket.AF_INET6, 128)):
        flags = 2 if version == 6 else 0
        address = struct.pack("=BBBBI", number, length, flags, 0, 1)
        body.append(_message(20, 0x400, address + attr(2, own[version]) + attr(1, own[version])))
        scope = 254 if version == 4 else 0
        route = struct.pack("=BBBBBBBBI", number, 0, 0, 0, table, 4, scope, 2, 0)
        body.append(
            _message(24, 0x400, route + attr(4, struct.pack("=I", 1)) + attr(7, own[version]))
        )
        if table != 255:
            rule = struct.pack("=BBBBBxxBI", number, 0, 0, 0, table, 1, 0)
            body.append(_message(32, 0x400, rule + attr(6, struct.pack("=I", 100))))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as conn:
        conn.send(b"".join(body))
        check(conn)
