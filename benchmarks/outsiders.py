"""The same programs behind others' userspace stacks, which hand connections on and look into none.

Each has its own place for the server: an address of its stack that leads to the host's loopback,
or, for mitmproxy_rs, which dials nothing itself, a Unix socket.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

from figures import Bar, Row
from lab import HERE, Lab, Missing, program

Runner = Callable[[Lab, list[str], str], str]
_UNSHARE = ("unshare", "--user", "--map-root-user", "--net")
OURS = "tun, relaying"
"""With `--passthrough`: looking into as little as the others do."""
_LIMIT = 60
_WAITING = 'echo ready && read go && exec "$@"'


def available(lab: Lab) -> tuple[list[str], list[Row]]:
    """Try each with a small file; return those that work, and why the others do not."""
    path = lab.server.file("small", 1024)
    works, rows = [], []
    for name in RUNNERS:
        try:
            through(lab, name, [program("curl"), "-sSf", "-m", "10", "-o", "/dev/null"], path)
        except subprocess.TimeoutExpired as error:
            rows.append(Row(name, None, note=f"skipped: it hangs ({error.timeout:.0f} s)"))
        except (Missing, RuntimeError) as error:
            rows.append(Row(name, None, note=f"skipped: {_line(error)}"))
        else:
            works.append(name)
    return works, rows


def through(lab: Lab, name: str, command: list[str], path: str) -> str:
    """Run `command` with the URL of `path` as its last word; return what it printed."""
    return RUNNERS[name](lab, command, path)


def _mitmproxy_rs(lab: Lab, command: list[str], path: str) -> str:
    python = _virtual(lab, "mitmproxy_rs")
    relay = [python, os.path.join(HERE, "tun_relay.py"), lab.server.unix]
    return lab.run([*_unshare(), *relay, *command, f"http://198.51.100.7{path}"], timeout=_LIMIT)


def _httptap(lab: Lab, command: list[str], path: str) -> str:
    url = f"http://host.httptap.local:{lab.server.http}{path}"
    return lab.run([program("httptap"), "--", *command, url], timeout=_LIMIT)


def _pasta(lab: Lab, command: list[str], path: str) -> str:
    if os.getuid() == 0:
        raise Missing("it becomes nobody for root, and may then make no namespace")
    found = re.search(r"default via (\S+)", lab.run([program("ip"), "route"]))
    if found is None:
        raise Missing("pasta needs a default route")
    url = f"http://{found[1]}:{lab.server.http}{path}"
    return lab.run([program("pasta"), "--config-net", "--", *command, url], timeout=_LIMIT)


def _slirp4netns(lab: Lab, command: list[str], path: str) -> str:
    slirp = [program("slirp4netns"), "--configure", "--mtu=65520", "--ready-fd=1"]
    url = f"http://10.0.2.2:{lab.server.http}{path}"
    words = [*_unshare(), "sh", "-c", _WAITING, "sh", *command, url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, text=True, env=lab.environment, **pipes) as client:  # type: ignore[call-overload]
        assert client.stdout.readline() == "ready\n"
        with subprocess.Popen([*slirp, str(client.pid), "tap0"], **pipes) as stack:  # type: ignore[call-overload]
            ready = stack.stdout.read(1)
            out, err = client.communicate("go\n" if ready else "", timeout=_LIMIT)
            stack.terminate()
            if not ready or client.returncode:
                raise RuntimeError(err if ready else stack.stderr.read().decode())
    return str(out)


def _unshare() -> list[str]:
    return [program(_UNSHARE[0]), *_UNSHARE[1:]]


def _virtual(lab: Lab, package: str) -> str:
    """Return the Python of a virtual environment with a package, made once."""
    folder = lab.path(f"venv-{package}")
    if not os.path.exists(folder):
        lab.run([sys.executable, "-m", "venv", folder])
        command = [f"{folder}/bin/pip", "install", "-q", "--only-binary", ":all:", package]
        try:
            lab.run(command, timeout=300)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            raise Missing(f"pip cannot install {package}: {_line(error)}") from None
    return f"{folder}/bin/python"


def _line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))[-160:]


RUNNERS: dict[str, Runner] = {
    "mitmproxy_rs (TUN)": _mitmproxy_rs,
    "httptap": _httptap,
    "slirp4netns": _slirp4netns,
    "pasta": _pasta,
}


def rows(what: str, found: dict[str, list[float]], ratio: Callable[..., float]) -> Iterator[Row]:
    """Compare ours with each of them that was measured."""
    for name in RUNNERS:
        for ours in ("tun", OURS):
            if name in found and ours in found:
                bar: Bar | None = None if name == "pasta" else ("at least", 1.0)
                yield Row(f"{what}: {ours} / {name}", ratio(found[ours], found[name]), bar=bar)
