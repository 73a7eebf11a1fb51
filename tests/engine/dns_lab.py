"""Real name servers of Debian's packages on loopback: knot for a zone, unbound for DoT and DoH."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import pytest

ZONE = """
    $ORIGIN zone.example.
    $TTL 300
    @     3600 IN SOA   ns admin 7 3600 600 86400 60
    @          IN NS    ns
    ns         IN A     192.0.2.1
    www   120  IN A     203.0.113.10
    www   120  IN A     203.0.113.11
    www        IN AAAA  2001:db8::10
    alias      IN CNAME www
    @          IN MX    10 mail
    @          IN MX    20 mail.other.example.
    _sip._tcp  IN SRV   5 60 5060 www
    @          IN TXT   "v=spf1 -all" "second \\"string\\""
    @          IN CAA   0 issue "ca.example"
    @          IN HTTPS 1 . alpn="h2,h3" ipv4hint=203.0.113.10
    _dns       IN SVCB  1 www port=853 alpn=dot
    10         IN PTR   www
    odd        IN TYPE65280 \\# 4 0a000001
"""
QUESTIONS = [
    ("www.zone.example", "A"),
    ("www.zone.example", "AAAA"),
    ("alias.zone.example", "A"),
    ("alias.zone.example", "CNAME"),
    ("zone.example", "MX"),
    ("_sip._tcp.zone.example", "SRV"),
    ("zone.example", "TXT"),
    ("10.zone.example", "PTR"),
    ("zone.example", "CAA"),
    ("zone.example", "HTTPS"),
    ("_dns.zone.example", "SVCB"),
    ("zone.example", "NS"),
    ("zone.example", "SOA"),
    ("odd.zone.example", "TYPE65280"),
]
BIG = "".join(f'    big IN TXT "{number:03}{"x" * 200}"\n' for number in range(20))


def program(name: str, package: str) -> str:
    """Return the path of a server or client, or skip the test."""
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        pytest.skip(f"{name} is not installed: .ci/packages {package}")
    return found


@contextlib.contextmanager
def knot(directory: Path) -> Iterator[int]:
    """Run knotd for `ZONE`, and for a zone whose file is missing; give its port."""
    daemon = program("knotd", "knot")
    zone = textwrap.dedent(ZONE) + textwrap.dedent(BIG)
    (directory / "zone").write_text(zone)
    (directory / "run").mkdir()
    port = _free_port()
    config = directory / "knot.conf"
    config.write_text(
        textwrap.dedent(f"""
        server:
            rundir: "{directory}/run"
            listen: 127.0.0.1@{port}
        database:
            storage: "{directory}/run"
        zone:
          - domain: zone.example
            file: "{directory}/zone"
          - domain: broken.example
            file: "{directory}/missing"
        """)
    )
    with _running([daemon, "-c", str(config)], directory / "knot.log"):
        _await_answer(port, "www.zone.example")
        yield port


@contextlib.contextmanager
def unbound(directory: Path, certificate: Path) -> Iterator[tuple[int, int]]:
    """Run unbound with local data; give its ports of DNS over TLS and over HTTPS."""
    daemon = program("unbound", "unbound")
    plain, dot, doh = _free_port(), _free_port(), _free_port()
    config = directory / "unbound.conf"
    config.write_text(
        textwrap.dedent(f"""
        server:
            directory: "{directory}"
            chroot: ""
            username: ""
            pidfile: ""
            use-syslog: no
            do-daemonize: no
            interface: 127.0.0.1@{plain}
            interface: 127.0.0.1@{dot}
            interface: 127.0.0.1@{doh}
            tls-port: {dot}
            https-port: {doh}
            tls-service-pem: "{certificate}"
            tls-service-key: "{certificate}"
            local-zone: "local.example." static
            local-data: "www.local.example. 90 IN A 203.0.113.20"
            local-data: "www.local.example. 90 IN AAAA 2001:db8::20"
        remote-control:
            control-enable: no
        """)
    )
    with _running([daemon, "-d", "-c", str(config)], directory / "unbound.log"):
        _await_answer(plain, "www.local.example")
        yield dot, doh


@contextlib.contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


def _await_answer(port: int, name: str) -> None:
    """Return when the server answers; each question waits for it a moment."""
    query = dns.message.make_query(name, "A")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, dns.exception.Timeout, EOFError):
            reply = dns.query.tcp(query, "127.0.0.1", timeout=1, port=port)
            if reply.answer:
                return
    raise AssertionError(f"no name server on port {port}")


def _free_port() -> int:
    """Return a port that is free for UDP and TCP."""
    while True:
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            stream.bind(("127.0.0.1", 0))
            with contextlib.suppress(OSError):
                datagrams.bind(stream.getsockname())
                return int(stream.getsockname()[1])
