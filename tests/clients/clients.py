"""The clients of the matrix: what each is, how it is started, what it needs.

Each is started with PATH as its whole environment, unless `variables` names what no file can do.
`{url}` in a command is the address to get. A command is made by a function, since it may have to be
built or not be there.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
from building import PROGRAMS, Builder, needs

NODE_VARIABLES = ("NODE_EXTRA_CA_CERTS",)
UV_VARIABLES = ("UV_SYSTEM_CERTS",)
DENO_VARIABLES = ("DENO_TLS_CA_STORE", "DENO_CERT")


@dataclasses.dataclass(frozen=True)
class Client:
    name: str
    language: str
    command: Callable[[Builder], list[str]]
    process: str = ""
    """What the flow's process is called; by default the command's file name."""
    variables: tuple[str, ...] = ()
    """Names of variables that it needs, from those that a session sets."""
    path: str = "/hello"
    stdin: str = ""
    says: str = "hello"
    """What it writes to standard output; "" where it says nothing of the body."""
    home: bool = False
    """It cannot run without a home directory; gets an empty one."""


def program(
    name: str, *arguments: str, script: str = "", after: tuple[str, ...] = ()
) -> Callable[[Builder], list[str]]:
    where = [str(PROGRAMS / script)] if script else []
    return lambda _: [needs(name), *arguments, *where, "{url}", *after]


def python(script: str, module: str = "") -> Callable[[Builder], list[str]]:
    def command(_: Builder) -> list[str]:
        if module:
            pytest.importorskip(module, reason=f"{module} is not installed")
        return [sys.executable, str(PROGRAMS / script), "{url}"]

    return command


def java(name: str) -> Callable[[Builder], list[str]]:
    def command(builder: Builder) -> list[str]:
        needs("java")
        classes = builder.java("Client", "Connection")
        return [
            "java",
            "-Xshare:auto",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            str(classes),
            name,
            "{url}",
        ]

    return command


def node_package(name: str) -> Callable[[Builder], list[str]]:
    """A script run beside an installed `node_modules`."""

    def command(builder: Builder) -> list[str]:
        needs("node")
        directory = builder.npm().parent
        script = shutil.copy(PROGRAMS / f"{name}.js", directory / f"{name}.js")
        return ["node", str(script), "{url}"]

    return command


def pip(_: Builder) -> list[str]:
    pytest.importorskip("pip", reason="pip is not installed")
    command = [sys.executable, "-m", "pip", "download", "--no-cache-dir", "--no-deps", "--no-input"]
    return [*command, "--isolated", "--disable-pip-version-check", "--index-url", "{url}", "hello"]


def uv(_: Builder) -> list[str]:
    pytest.importorskip("uv", reason="uv is not installed")
    command = [f"{os.path.dirname(sys.executable)}/uv", "pip", "install", "--no-cache", "--dry-run"]
    return [*command, "--python", sys.executable, "--default-index", "{url}", "hello"]


def chromium(_: Builder) -> list[str]:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    return [needs("chromium", in_ci=False), *flags, "--timeout=20000", "--dump-dom", "{url}"]


def firefox(_: Builder) -> list[str]:
    return [needs("firefox-esr", in_ci=False), "--headless", "--screenshot", "page.png", "{url}"]


def erlang(_: Builder) -> list[str]:
    return [needs("escript"), str(PROGRAMS / "httpc.escript"), "{url}"]


def cargo(_: Builder) -> list[str]:
    program = needs("cargo", in_ci=False)
    if rustup := shutil.which("rustup"):  # whose cargo is a proxy that wants a home
        run = subprocess.run([rustup, "which", "cargo"], capture_output=True, text=True)
        program = run.stdout.strip() or program
    return [program, "search", "--index", "sparse+{url}/", "hello"]


def rust(features: str) -> Callable[[Builder], list[str]]:
    return lambda builder: [str(builder.cargo("ureq", features=features)), "{url}"]


CLIENTS = [
    Client("curl", "C", program("curl", "-sS")),
    Client("wget", "C", program("wget", "-qO-")),
    Client(
        "openssl s_client",
        "C",
        lambda _: [
            needs("openssl"),
            *["s_client", "-quiet", "-verify_return_error", "-connect"],
            "{host}:443",
            "-servername",
            "{host}",
        ],
        stdin="GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n",
    ),
    Client(
        "gnutls-cli",
        "C",
        lambda _: [needs("gnutls-cli"), "--logfile=/dev/null", "{host}"],
        stdin="GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n",
        says="",  # it hangs up at the end of its input
    ),
    Client("aria2", "C++", program("aria2c", "--quiet", "--dir=/tmp", "--dry-run"), says=""),
    Client("lynx", "C", program("lynx", "-source")),
    Client("w3m", "C", program("w3m", "-dump_source", "-o", "ssl_verify_server=1"), home=True),
    Client(
        "git",
        "C",
        lambda _: [needs("git"), "ls-remote", "{url}"],
        process="git-remote-https",
        path="/repository.git",
        says="refs/heads/hello",
    ),
    Client(
        "libcurl with GnuTLS",
        "C",
        lambda builder: [str(builder.c("libcurl.c", "-l:libcurl-gnutls.so.4")), "{url}"],
    ),
    Client("urllib", "Python", python("py_urllib.py")),
    Client("asyncio streams", "Python", python("py_asyncio.py")),
    Client("requests", "Python", python("py_requests.py", "requests")),
    Client("httpx", "Python", python("py_httpx.py", "httpx")),
    Client("urllib3", "Python", python("py_urllib3.py", "urllib3")),
    Client("aiohttp", "Python", python("py_aiohttp.py", "aiohttp")),
    Client("pycurl", "Python", python("py_pycurl.py", "pycurl")),
    Client("curl_cffi (BoringSSL)", "Python", python("py_curl_cffi.py", "curl_cffi")),
    Client("pip", "Python", pip, path="/simple", says=""),
    Client("uv", "Rust", uv, variables=UV_VARIABLES, path="/simple", says="", home=True),
    Client(
        "node https", "JavaScript", program("node", script="https.js"), variables=NODE_VARIABLES
    ),
    Client(
        "node fetch", "JavaScript", program("node", script="fetch.js"), variables=NODE_VARIABLES
    ),
    Client("node undici", "JavaScript", node_package("undici"), variables=NODE_VARIABLES),
    Client("node axios", "JavaScript", node_package("axios"), variables=NODE_VARIABLES),
    Client(
        "npm",
        "JavaScript",
        lambda _: [needs("npm"), "ping", "--registry", "{url}"],
        process="npm",
        variables=NODE_VARIABLES,
        path="/npm",
        says="",
        home=True,
    ),
    Client(
        "deno",
        "JavaScript",
        lambda builder: [
            str(builder.npm() / ".bin" / "deno"),
            *("run", "--allow-net", str(PROGRAMS / "fetch.js"), "{url}"),
        ],
        variables=DENO_VARIABLES,
        home=True,
    ),
    Client(
        "bun",
        "JavaScript",
        lambda builder: [
            str(builder.npm() / ".bin" / "bun"),
            *("run", str(PROGRAMS / "fetch.js"), "{url}"),
        ],
        variables=NODE_VARIABLES,
        home=True,
    ),
    Client("go", "Go", lambda builder: [str(builder.go("get.go", static=False)), "{url}"]),
    Client("go, static", "Go", lambda builder: [str(builder.go("get.go", static=True)), "{url}"]),
    Client("java HttpClient", "Java", java("Client")),
    Client("java URLConnection", "Java", java("Connection")),
    Client("ruby net/http", "Ruby", program("ruby", script="net_http.rb")),
    Client("ruby open-uri", "Ruby", program("ruby", script="open_uri.rb")),
    Client("php curl", "PHP", program("php", script="curl.php")),
    Client("php streams", "PHP", program("php", script="stream.php")),
    Client("perl LWP", "Perl", program("perl", script="lwp.pl")),
    Client("perl HTTP::Tiny", "Perl", program("perl", script="http_tiny.pl")),
    Client("lua luasec", "Lua", program("lua5.4", script="luasec.lua")),
    Client("erlang httpc", "Erlang", erlang, process="httpc.escript", home=True),
    Client("cargo", "Rust", cargo, path="/index", says="", home=True),
    Client("rust ureq, native roots", "Rust", rust("native")),
    Client("chromium", "C++", chromium, home=True),
    Client("firefox", "C++", firefox, says="", home=True),
]

OWN_ROOTS = [
    Client(
        "curl --cacert --capath",
        "C",
        program("curl", "-sS", "--capath", "/dev/null", "--cacert", "{ca}"),
    ),
    Client("node ca", "JavaScript", program("node", script="own_ca.js", after=("{ca}",))),
]
"""Clients told to trust the server's CA and no other: ours they refuse."""

COMPILED_IN = [
    Client("uv without a variable", "Rust", uv, path="/simple", home=True),
    Client(
        "node without a variable",  # Debian's own reads the system's roots unless told not to
        "JavaScript",
        program("node", "--use-bundled-ca", script="https.js"),
    ),
    Client("rust ureq, webpki-roots", "Rust", rust("")),
]
"""Clients whose roots are in the program: they refuse ours, and the test server's."""
