"""Every lookup becomes a DNS packet to our nameserver."""

from __future__ import annotations

import fcntl
import os
import platform
import socket
import struct
import threading

import pytest

from pytest_netcapture.sandbox import mounts, namespaces, resolver

DEBIAN = """\
# GNU Name Service Switch
passwd:         files systemd
hosts:          files dns
networks:       files
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("files dns", "files dns"),
        ("files mdns4_minimal [NOTFOUND=return] dns", "files dns"),
        ("mymachines resolve [!UNAVAIL=return] files myhostname dns", "files myhostname dns"),
        (
            "files myhostname resolve [!UNAVAIL=return SUCCESS=merge] dns # comment",
            "files myhostname dns",
        ),
        ("dns files", "dns files"),
        ("resolve", "files dns"),
        ("", "files dns"),
        ("files", "files dns"),
    ],
)
def test_hosts_are_looked_up_in_files_and_dns(before, after):
    assert resolver.nsswitch_conf(f"hosts: {before}\n") == f"hosts: {after}\n"


def test_other_databases_stay():
    assert resolver.nsswitch_conf(DEBIAN) == DEBIAN.replace("hosts:          files", "hosts: files")
    assert resolver.nsswitch_conf("passwd: files\n") == "passwd: files\nhosts: files dns\n"


def test_only_nameservers_are_replaced():
    before = "# by NetworkManager\nsearch corp.example\nnameserver 10.0.0.1\noptions ndots:5\n nameserver ::1\n"
    after = "# by NetworkManager\nsearch corp.example\noptions ndots:5\nnameserver 192.0.2.53\n"
    assert resolver.resolv_conf(before, "192.0.2.53") == after
    assert resolver.resolv_conf("", "192.0.2.53") == "nameserver 192.0.2.53\n"


def test_nameservers(tmp_path):
    (tmp_path / "resolv.conf").write_text(
        "search x\nnameserver 10.0.0.1\n#nameserver 1.1.1.1\nnameserver\tfe80::1%eth0 \nnameserver\n"
    )
    assert resolver.nameservers(str(tmp_path / "resolv.conf")) == ["10.0.0.1", "fe80::1%eth0"]
    assert resolver.nameservers(str(tmp_path / "none")) == []


@pytest.fixture
def etc(scratch, monkeypatch):
    """Files of an /etc and a /run of our own; `{scratch}/private` is the session's directory."""
    for name in ("etc", "run", "private"):
        os.mkdir(f"{scratch}/{name}")
        os.chmod(f"{scratch}/{name}", 0o777)
    monkeypatch.setattr(resolver, "RESOLV_CONF", f"{scratch}/etc/resolv.conf")
    monkeypatch.setattr(resolver, "NSSWITCH_CONF", f"{scratch}/etc/nsswitch.conf")
    monkeypatch.setattr(resolver, "SOCKETS", (f"{scratch}/run/socket", f"{scratch}/run/none"))
    return scratch


def _read(path):
    with open(path) as file:
        return file.read()


@pytest.mark.live
@pytest.mark.parametrize("rootless", [True, False])
def test_everything_is_laid_over(in_sandbox, etc, rootless):
    with open(f"{etc}/run/stub.conf", "w") as file:
        file.write("search corp.example\nnameserver 127.0.0.53\n")
    os.symlink("../run/stub.conf", f"{etc}/etc/resolv.conf")
    with open(f"{etc}/etc/nsswitch.conf", "w") as file:
        file.write("hosts: resolve\n")

    def child():
        report = resolver.install(f"{etc}/private")
        return report, _read(f"{etc}/etc/resolv.conf"), _read(f"{etc}/etc/nsswitch.conf")

    report, resolv_conf, nsswitch_conf = in_sandbox(child, rootless=rootless)
    assert report == ((f"{etc}/etc/resolv.conf", f"{etc}/etc/nsswitch.conf"), ())
    assert resolv_conf == "search corp.example\nnameserver 192.0.2.53\n"
    assert nsswitch_conf == "hosts: files dns\n"


@pytest.mark.live
def test_a_covered_socket_refuses(in_sandbox, etc):
    with open(f"{etc}/etc/resolv.conf", "w"), socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{etc}/run/socket")
        os.chmod(f"{etc}/run/socket", 0o777)
        server.listen()

        def connect():
            with socket.socket(socket.AF_UNIX) as client:
                return client.connect_ex(f"{etc}/run/socket")

        def child():
            return connect(), resolver.install(f"{etc}/private").failed, connect()

        before, failed, after = in_sandbox(child)
    assert (before, failed) == (0, ())
    assert os.strerror(after) == "Connection refused"


@pytest.mark.live
@pytest.mark.parametrize("link", [None, "../run/gone"])
def test_a_missing_resolv_conf_appears(in_sandbox, etc, monkeypatch, link):
    if link:
        os.symlink(link, f"{etc}/etc/resolv.conf")
    monkeypatch.setattr(resolver, "overlay", lambda layers, _: mounts.overlay(layers, f"{etc}/etc"))

    def child():
        return resolver.install(f"{etc}/private").failed, _read(f"{etc}/etc/resolv.conf")

    assert in_sandbox(child) == ((), "nameserver 192.0.2.53\n")


@pytest.mark.live
def test_what_is_refused_is_reported(in_sandbox, etc, monkeypatch):
    def refuse(*_):
        raise mounts.EnvironmentProblem("no overlays")

    monkeypatch.setattr(resolver, "overlay", refuse)
    report = in_sandbox(lambda: resolver.install(f"{etc}/private"))
    assert report == ((), ((f"{etc}/etc/resolv.conf", "no overlays"),))


@pytest.mark.live
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a fact of glibc")
def test_a_process_that_resolved_before_follows(in_sandbox, scratch):
    if not os.path.exists("/etc/resolv.conf"):
        pytest.skip("no resolv.conf to lay over")

    def child():
        os.mkdir(f"{scratch}/first")
        os.mkdir(f"{scratch}/second")
        namespaces.unshare_network()
        _lo_up()
        seen = []
        for name in ("first", "second"):
            address = {"first": "127.0.0.1", "second": "127.0.0.2"}[name]
            _answer_one(address)
            resolver.install(f"{scratch}/{name}", address)
            seen.append(socket.getaddrinfo("name.example", 1, socket.AF_INET)[0][4][0])
        return seen

    assert in_sandbox(child) == ["10.0.0.1", "10.0.0.2"]


def _lo_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP


def _answer_one(address):
    """Serve DNS at `address`: each name has the address 10.0.0.<last number of the server's>."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))
    record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton("10.0.0." + address[-1])

    def serve():
        query, client = server.recvfrom(512)
        question = query[12 : query.index(b"\0", 12) + 5]
        server.sendto(query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question + record, client)

    threading.Thread(target=serve, daemon=True).start()
