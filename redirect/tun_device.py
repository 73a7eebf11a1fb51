"""Opens the TUN device of the calling thread's namespace, with a few ioctls.

1. python-pytun, the library for it, has wheels for x86-64 only, knows neither offloads nor the
   device's index, and its descriptor is inherited by programs; what is left is this page.
2. Offloads come all or none: with them packets have a virtio_net_hdr and may be 64 KiB long, which
   makes most of the speed; without them a large MTU does, in part.
3. The device goes when its descriptor is closed.

Kernel: Documentation/networking/tuntap.rst, include/uapi/linux/if_tun.h. Tests: test_tun.py.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from typing import NamedTuple

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import kernel as k

PATH = "/dev/net/tun"
NAME = "eth0"
MTU_WITH_OFFLOAD, MTU_WITHOUT = 1500, 65535
_TSO = k.TUN_F_CSUM | k.TUN_F_TSO4 | k.TUN_F_TSO6
_OFFLOADS = (_TSO | k.TUN_F_USO4 | k.TUN_F_USO6, _TSO)  # the first from Linux 6.2 on
_CURES = {
    errno.ENOENT: "modprobe tun (as root, once); in a container: --device /dev/net/tun",
    errno.ENODEV: "modprobe tun (as root, once)",
    errno.EACCES: f"chmod 0666 {PATH} (as root, once), which is how udev makes it",
}


class Tun(NamedTuple):
    """An open device that is not up yet."""

    fd: int
    offload: bool

    @property
    def mtu(self) -> int:
        return MTU_WITH_OFFLOAD if self.offload else MTU_WITHOUT


def open_tun(*, offload: bool = True) -> Tun:
    """Make the device `eth0`. Raises `EnvironmentProblem`."""
    try:
        fd = os.open(PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _problem(f"cannot open {PATH}", error) from error
    try:
        fcntl.ioctl(fd, k.TUNSETIFINDEX, struct.pack("=I", k.LINK_INDEX))
        flags = k.IFF_TUN | k.IFF_NO_PI | (k.IFF_VNET_HDR if offload else 0)
        fcntl.ioctl(fd, k.TUNSETIFF, struct.pack("16sH22x", NAME.encode(), flags))
    except OSError as error:
        os.close(fd)
        raise _problem("cannot make a TUN device", error) from error
    if offload and not _offload(fd):
        os.close(fd)
        return open_tun(offload=False)
    return Tun(fd, offload)


def open_loopback(*, offload: bool) -> socket.socket:
    """Return a packet socket that puts packets on `lo`; it receives none."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    conn = socket.socket(socket.AF_PACKET, kind, 0)
    try:
        conn.setsockopt(socket.SOL_SOCKET, k.SO_MARK, k.ENGINE_MARK)
        if offload:
            conn.setsockopt(k.SOL_PACKET, k.PACKET_VNET_HDR, 1)
        conn.bind(("lo", 0))
    except BaseException:
        conn.close()
        raise
    return conn


def _offload(fd: int) -> bool:
    for wanted in _OFFLOADS:
        try:
            fcntl.ioctl(fd, k.TUNSETOFFLOAD, wanted)
        except OSError:
            continue
        return True
    return False


def _problem(what: str, error: OSError) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"tun: {what}: {error.strerror}",
        cure=_CURES.get(error.errno or 0, "see docs/limits.md"),
        slug="docs/limits.md#tun",
    )
