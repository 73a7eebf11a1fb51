"""An exchange as the command line that sends its request again."""

from __future__ import annotations

import shlex

from pytest_netcapture.flows import HttpRequest

_OWN = frozenset(("host", "content-length", "connection", "transfer-encoding", "accept-encoding"))
"""What curl sends by itself."""
_VERSIONS = {"1.0": "--http1.0", "2": "--http2", "3": "--http3"}


def curl_line(request: HttpRequest) -> str:
    """Return a line for a POSIX shell. A body that is no text comes through printf."""
    words = ["curl"]
    if request.method == "HEAD":
        words.append("--head")
    elif request.method != ("POST" if request.body else "GET"):
        words += ["-X", request.method]
    if version := _VERSIONS.get(request.http_version):
        words.append(version)
    for name, value in request.headers:
        if name.lower() not in _OWN and not name.startswith(":"):
            words += ["-H", f"{name}: {value}" if value else f"{name};"]
    if "gzip" in (request.headers.get("accept-encoding") or ""):
        words.append("--compressed")
    before = ""
    if request.body:
        if "content-type" not in request.headers:
            words += ["-H", "Content-Type:"]
        data = request.content
        if _is_text(data):
            words += ["--data-raw", data.decode()]
        else:
            before = f"printf {shlex.quote(_octal(data))} | "
            words += ["--data-binary", "@-"]
    if any(sign in request.url for sign in "[]{}"):
        words.append("--globoff")
    words.append(request.url)
    return before + " ".join(map(shlex.quote, words))


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def _octal(data: bytes) -> str:
    return "".join(f"\\{byte:03o}" for byte in data)
