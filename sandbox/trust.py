"""Make every program in the sandbox trust our CA, beside all that it trusted before.

1. Each bundle is replaced, by a bind mount, with its original content followed by our certificate:
   a program that opens the file by path sees it. Nothing is written outside of `directory`. Proof:
   test_python_and_certifi_trust_the_ca, test_curl_trusts_the_ca.
2. OpenSSL's directories are looked up by file name: `<subject hash>.<n>` must appear in them
   (Python's `ssl` on Debian reads nothing else). Proof: test_pythons_default_context_trusts_the_ca.
3. Java's key stores get one more entry (java.py), browsers a policy file (browsers.py). The latter
   is a new name in an overlay. Proof: tests/clients.
4. What fails is listed with its reason and stops nothing.
5. Variables are set only where no file can do it, and never over a value that is there: the file
   that it names is a bundle like any other.
   - Node, Bun and Deno compile their roots in: NODE_EXTRA_CA_CERTS, and DENO_TLS_CA_STORE
     (DENO_CERT where there is no system bundle). So does uv: UV_SYSTEM_CERTS
     (not UV_NATIVE_TLS, its older name, which it now warns of).
   - No system bundle at all (slim images): what curl, git, Go and OpenSSL would have found there.
   - A system bundle, but its hashed directory could not be covered: SSL_CERT_FILE.
6. As root, children may drop to another user, who cannot pass our 0700 directory. So variables then
   name the system's bundle, which everyone can read. Rootless nobody can change user.
7. `find` needs no certificate and changes nothing: it runs while the engine starts. `install` then
   only reads, writes and mounts what was found.
"""

from __future__ import annotations

import binascii
import os
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox import browsers, java
from pytest_netcapture.sandbox.bundles import (
    find_bundles,
    find_hashed_directories,
    original_roots,
    system_bundle,
)
from pytest_netcapture.sandbox.capabilities import is_root
from pytest_netcapture.sandbox.mounts import add_to_directory, bind_file
from pytest_netcapture.sandbox.original import exists, original, read_file, real_path, write_file

UNBOUND = {"PGCHANNELBINDING": "disable"}
"""libpq binds its login to the server's certificate (RFC 5929 §4), which it does not see."""
_OPENSSL_VARIABLES = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO")
_MOST_OF_A_NAME = 16


class Places(NamedTuple):
    """Where programs look for roots, as real paths. NamedTuple: a dataclass costs start-up time."""

    bundles: tuple[str, ...]
    """PEM files."""
    hashed_directories: tuple[str, ...] = ()
    key_stores: tuple[str, ...] = ()
    """Java's."""
    key_store_passwords: tuple[str, ...] = java.PASSWORDS
    browsers: bool = False
    """Whether browsers get a policy."""


class TrustReport(NamedTuple):
    """What trusts the CA now."""

    ca_file: str
    """Our certificate alone, PEM."""
    roots_file: str
    """The original roots and ours, PEM."""
    bundles: tuple[str, ...]
    directories: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    """(path, reason) of what could not be covered."""
    system_bundle: str | None
    """The system's bundle if it is covered."""
    key_stores: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    """Files that browsers read."""

    @property
    def covered(self) -> tuple[str, ...]:
        return self.directories + self.bundles + self.key_stores + self.policies


def find(sys_path: Iterable[str], environ: Mapping[str, str]) -> Places:
    """Find everything on this machine that lists roots. Takes some milliseconds."""
    return Places(
        bundles=tuple(find_bundles(sys_path, environ)),
        hashed_directories=tuple(find_hashed_directories(environ)),
        key_stores=tuple(java.find_stores(environ)),
        key_store_passwords=java.passwords(environ),
        browsers=True,
    )


def install(
    ca_pem: bytes, *, directory: str, places: Places, subject_hash: str | None = None
) -> TrustReport:
    """Cover the places; the hashed directories given the `subject_hash` of `openssl x509 -hash`.

    Call it once, in a private mount namespace; `directory` is private, exists, and stays.
    """
    failed: list[tuple[str, str]] = []
    ca_file = _write(f"{directory}/netcapture-ca.pem", ca_pem)
    roots = with_ca(_first_readable(places.bundles), ca_pem)
    roots_file = _write(f"{directory}/roots.pem", roots)
    ca_der = der(ca_pem)
    copies = _copies(places.bundles, lambda content: with_ca(content, ca_pem), directory, failed)
    stores = _copies(
        places.key_stores,
        lambda content: java.add_certificate(content, ca_der, places.key_store_passwords),
        directory,
        failed,
    )
    policies = browsers.policies(ca_der, ca_file, os.environ) if places.browsers else []
    # Directories first, outer before inner: an overlay is refused where mounts lie below it.
    covered_policies = _add_policies(policies, directory, failed)
    hashed = places.hashed_directories if subject_hash else ()
    covered_directories = _add_to_hashed(hashed, ca_pem, subject_hash or "", directory, failed)
    covered = _bind_all(copies, failed)
    return TrustReport(
        ca_file=ca_file,
        roots_file=roots_file,
        bundles=tuple(covered),
        directories=tuple(covered_directories),
        failed=tuple(failed),
        system_bundle=_covered_system_bundle(covered),
        key_stores=tuple(_bind_all(stores, failed)),
        policies=tuple(covered_policies),
    )


def environment(report: TrustReport, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables to set beside the files; what `environ` (os.environ) has stays."""
    environ = os.environ if environ is None else environ
    system = report.system_bundle
    public = system if is_root() and system else None
    wanted = {"NODE_EXTRA_CA_CERTS": public or report.ca_file, **UNBOUND}
    if system:
        wanted["DENO_TLS_CA_STORE"] = "mozilla,system"
        wanted["UV_SYSTEM_CERTS"] = "true"
        if not report.directories and find_hashed_directories({}):
            wanted["SSL_CERT_FILE"] = system
    else:
        wanted["DENO_CERT"] = report.ca_file
        wanted.update(dict.fromkeys(_OPENSSL_VARIABLES, report.roots_file))
    return {name: value for name, value in wanted.items() if name not in environ}


def _copies(
    paths: Iterable[str],
    add: Callable[[bytes], bytes],
    directory: str,
    failed: list[tuple[str, str]],
) -> dict[str, str]:
    """Write each file with our certificate added, equal ones once: path to copy."""
    written: dict[bytes, str] = {}
    copies = {}
    for path in paths:
        try:
            content = read_file(path)
            if content not in written:
                name = f"{directory}/{len(written)}-{os.path.basename(path)}"
                written[content] = _write(name, add(content))
            copies[path] = written[content]
        except OSError as error:
            failed.append((path, error.strerror or str(error)))
        except EnvironmentProblem as error:
            failed.append((path, error.message))
    return copies


def _bind_all(copies: Mapping[str, str], failed: list[tuple[str, str]]) -> list[str]:
    covered = []
    for path, copy in copies.items():
        try:
            bind_file(copy, path)
            covered.append(path)
        except EnvironmentProblem as error:
            failed.append((path, error.message))
    return covered


def _add_policies(
    additions: Iterable[browsers.Addition], directory: str, failed: list[tuple[str, str]]
) -> list[str]:
    """Make policy files appear: one overlay for all that one directory is to show."""
    covered: list[str] = []
    together: dict[str, list[browsers.Addition]] = {}
    for addition in additions:
        together.setdefault(addition.directory, []).append(addition)
    for number, target in enumerate(sorted(together)):
        try:
            covered += _add_policy(together[target], target, f"{directory}/policies-{number}")
        except (EnvironmentProblem, OSError) as error:
            reason = getattr(error, "message", str(error))
            failed += [(addition.path, reason) for addition in together[target]]
    return covered


def _add_policy(additions: list[browsers.Addition], target: str, work: str) -> list[str]:
    original.mkdir(work, 0o755)
    for addition in additions:
        browsers.check(addition)
        _make_directories(work, addition.name)
        _write(f"{work}/{addition.name}", addition.content)
    if all(exists(addition.path) for addition in additions):
        for addition in additions:
            bind_file(f"{work}/{addition.name}", addition.path)
    else:
        add_to_directory(work, target, f"{work}-mirror")
    return [addition.path for addition in additions]


def _make_directories(top: str, name: str) -> None:
    """Make the directories of `top`/`name` that are missing, below `top`."""
    parts = name.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        path = "/".join([top, *parts[:depth]])
        if not exists(path):
            original.mkdir(path, 0o755)


def _add_to_hashed(
    paths: Iterable[str],
    ca_pem: bytes,
    subject_hash: str,
    directory: str,
    failed: list[tuple[str, str]],
) -> list[str]:
    covered = []
    for index, path in enumerate(paths):
        try:
            _add_hashed(path, ca_pem, subject_hash, f"{directory}/hashed-{index}")
            covered.append(path)
        except (EnvironmentProblem, OSError) as error:
            failed.append((path, str(error)))
    return covered


def _add_hashed(path: str, ca_pem: bytes, subject_hash: str, work: str) -> None:
    additions = f"{work}-new"
    original.mkdir(additions, 0o755)
    _write(f"{additions}/{_free_name(path, subject_hash)}", ca_pem)
    add_to_directory(additions, path, work)


def _free_name(path: str, subject_hash: str) -> str:
    """Return `<hash>.<n>` with the first free n: OpenSSL tries 0, 1, 2 ... until one is missing."""
    for number in range(_MOST_OF_A_NAME):
        name = f"{subject_hash}.{number}"
        if not exists(f"{path}/{name}"):
            return name
    raise EnvironmentProblem(f"{path} has {_MOST_OF_A_NAME} certificates of hash {subject_hash}")


def _covered_system_bundle(covered: Iterable[str]) -> str | None:
    path = system_bundle()
    return path if path and real_path(path) in set(covered) else None


def _first_readable(bundles: Iterable[str]) -> bytes:
    for path in bundles:
        try:
            return read_file(path)
        except OSError:
            continue
    return b""


def with_ca(content: bytes, ca_pem: bytes) -> bytes:
    separator = b"" if not content or content.endswith(b"\n") else b"\n"
    return content + separator + ca_pem


def der(pem: bytes) -> bytes:
    """Return the first certificate of a PEM text as DER; b"" if there is none."""
    body = pem.partition(b"-----BEGIN CERTIFICATE-----")[2].partition(b"-----END")[0]
    return binascii.a2b_base64(body)


def _write(path: str, data: bytes) -> str:
    # Readable by all: through the bind mount also users who cannot pass `directory` open it.
    write_file(path, data, 0o644)
    return path


__all__ = [
    "Places",
    "TrustReport",
    "environment",
    "find",
    "install",
    "original_roots",
]
