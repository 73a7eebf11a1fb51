"""Make programs trust our CA where nothing can be mounted: by environment variables alone.

1. Each variable that programs know is set to a file of the roots that they trusted before and our
   certificate: what the variable itself named, else the system's. Clients that heed none of these
   variables do not trust us, nor does a program that is started without its environment.
2. Node's and Deno's files add to the roots that are compiled in: they hold what they held, and
   ours.
3. Java reads one of its own options (JAVA_TOOL_OPTIONS, of which it tells on standard error), and
   only where a JDK is found.
4. A variable that names a directory, or nothing, is left alone.

docs/redirectors.md lists the clients. Tests: test_trust_variables.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox import java
from pytest_netcapture.sandbox.bundles import original_roots
from pytest_netcapture.sandbox.original import read_file, write_file
from pytest_netcapture.sandbox.trust import UNBOUND, der, with_ca

FILES = (
    "SSL_CERT_FILE",  # OpenSSL, Go, Ruby, rustls-native-certs, .NET, httpx, uv
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "NIX_SSL_CERT_FILE",
    "CARGO_HTTP_CAINFO",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "HTTPLIB2_CA_CERTS",
    "PERL_LWP_SSL_CA_FILE",
)
ADDED = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")
"""Of these the compiled-in roots stay."""

_JAVA = "JAVA_TOOL_OPTIONS"
_JAVA_STORE = "javax.net.ssl.trustStore"


class Variables(NamedTuple):
    """What to set, and (variable, reason) of what could not be."""

    environment: dict[str, str]
    failed: tuple[tuple[str, str], ...]


def install(ca_pem: bytes, *, directory: str, environ: Mapping[str, str]) -> Variables:
    """Write the files into `directory`, which is private and stays."""
    wanted = {name: environ.get(name, value) for name, value in UNBOUND.items()}
    failed: list[tuple[str, str]] = []
    roots = b"".join(_readable(path) for path in original_roots({})[:1])
    ours = _write(f"{directory}/roots.pem", with_ca(roots, ca_pem))
    alone = _write(f"{directory}/netcapture-ca.pem", ca_pem)
    for name in (*FILES, *ADDED):
        named = environ.get(name)
        if not named:
            wanted[name] = alone if name in ADDED else ours
            continue
        try:
            content = with_ca(read_file(named), ca_pem)
            wanted[name] = _write(f"{directory}/{name.lower()}.pem", content)
        except OSError as error:
            failed.append((name, f"{named}: {error.strerror}"))
    wanted["UV_SYSTEM_CERTS"] = environ.get("UV_SYSTEM_CERTS") or "true"
    _add_java(wanted, failed, ca_pem, directory, environ)
    return Variables(wanted, tuple(failed))


def _add_java(
    wanted: dict[str, str],
    failed: list[tuple[str, str]],
    ca_pem: bytes,
    directory: str,
    environ: Mapping[str, str],
) -> None:
    given = environ.get(_JAVA, "")
    stores = java.find_stores(environ)
    if not stores or _JAVA_STORE in given:
        return
    try:
        passwords = java.passwords(environ)
        content = java.add_certificate(read_file(stores[0]), der(ca_pem), passwords)
    except (OSError, EnvironmentProblem) as error:
        failed.append((_JAVA, f"{stores[0]}: {error}"))
        return
    store = _write(f"{directory}/cacerts", content)
    wanted[_JAVA] = f"{given} -D{_JAVA_STORE}={store}".strip()


def _readable(path: str) -> bytes:
    try:
        return read_file(path)
    except OSError:
        return b""


def _write(path: str, data: bytes) -> str:
    write_file(path, data, 0o644)
    return path
