"""Make every program in the sandbox trust our CA, beside all that it trusted before.

1. Each bundle is replaced, by a bind mount, with its original content followed by our certificate:
   a program that opens the file by path sees it. Nothing is written outside of `directory`. Proof:
   test_python_and_certifi_trust_the_ca, test_curl_trusts_the_ca.
2. OpenSSL's directories are looked up by file name: `<subject hash>.<n>` must appear in them
   (Python's `ssl` on Debian reads nothing else). Proof: test_pythons_default_context_trusts_the_ca.
3. What fails is listed with its reason and stops nothing.
4. Variables are set only where no file can do it, and never over a value that is there: the file
   that it names is a bundle like any other.
   - Node and Deno compile their roots in: NODE_EXTRA_CA_CERTS, and DENO_TLS_CA_STORE (DENO_CERT
     where there is no system bundle).
   - No system bundle at all (slim images): what curl, git, Go and OpenSSL would have found there.
   - A system bundle, but its hashed directory could not be covered: SSL_CERT_FILE.
5. As root, children may drop to another user, who cannot pass our 0700 directory. So variables then
   name the system's bundle, which everyone can read. Rootless nobody can change user.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox.bundles import (
    find_bundles,
    find_hashed_directories,
    original_roots,
    system_bundle,
)
from pytest_netcapture.sandbox.capabilities import is_root
from pytest_netcapture.sandbox.mounts import add_to_directory, bind_file
from pytest_netcapture.sandbox.original import exists, original, read_file, real_path, write_file

_OPENSSL_VARIABLES = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO")
_MOST_OF_A_NAME = 16


class TrustReport(NamedTuple):
    """What trusts the CA now. NamedTuple: a dataclass costs start-up time."""

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

    @property
    def covered(self) -> tuple[str, ...]:
        return self.directories + self.bundles


def install(
    ca_pem: bytes,
    *,
    directory: str,
    bundles: Iterable[str],
    hashed_directories: Iterable[str] = (),
    subject_hash: str | None = None,
) -> TrustReport:
    """Cover `bundles` and, given the `subject_hash` of `openssl x509 -hash`, the directories.

    Call it once, in a private mount namespace; `directory` is private, exists, and stays.
    """
    bundles = list(bundles)
    failed: list[tuple[str, str]] = []
    ca_file = _write(f"{directory}/netcapture-ca.pem", ca_pem)
    roots_file = _write(f"{directory}/roots.pem", _with_ca(_first_readable(bundles), ca_pem))
    copies = _copies(bundles, ca_pem, directory, failed)
    # Directories first: an overlay is refused where files below it are mounts already.
    covered_directories = []
    for index, path in enumerate(hashed_directories if subject_hash else ()):
        try:
            work = f"{directory}/hashed-{index}"
            _add_hashed(path, ca_pem, subject_hash or "", work)
            covered_directories.append(path)
        except (EnvironmentProblem, OSError) as error:
            failed.append((path, str(error)))
    covered = _bind_all(copies, failed)
    return TrustReport(
        ca_file=ca_file,
        roots_file=roots_file,
        bundles=tuple(covered),
        directories=tuple(covered_directories),
        failed=tuple(failed),
        system_bundle=_covered_system_bundle(covered),
    )


def environment(report: TrustReport, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables to set beside the files; what `environ` (os.environ) has stays."""
    environ = os.environ if environ is None else environ
    system = report.system_bundle
    public = system if is_root() and system else None
    wanted = {"NODE_EXTRA_CA_CERTS": public or report.ca_file}
    if system:
        wanted["DENO_TLS_CA_STORE"] = "mozilla,system"
        if not report.directories and find_hashed_directories({}):
            wanted["SSL_CERT_FILE"] = system
    else:
        wanted["DENO_CERT"] = report.ca_file
        wanted.update(dict.fromkeys(_OPENSSL_VARIABLES, report.roots_file))
    return {name: value for name, value in wanted.items() if name not in environ}


def _copies(
    bundles: list[str], ca_pem: bytes, directory: str, failed: list[tuple[str, str]]
) -> dict[str, str]:
    """Write each bundle with our certificate added, equal ones once: bundle to copy."""
    written: dict[bytes, str] = {}
    copies = {}
    for path in bundles:
        try:
            content = read_file(path)
            if content not in written:
                name = f"{directory}/bundle-{len(written)}-{os.path.basename(path)}"
                written[content] = _write(name, _with_ca(content, ca_pem))
            copies[path] = written[content]
        except OSError as error:
            failed.append((path, error.strerror or str(error)))
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


def _with_ca(content: bytes, ca_pem: bytes) -> bytes:
    separator = b"" if not content or content.endswith(b"\n") else b"\n"
    return content + separator + ca_pem


def _write(path: str, data: bytes) -> str:
    # Readable by all: through the bind mount also users who cannot pass `directory` open it.
    write_file(path, data, 0o644)
    return path


__all__ = [
    "TrustReport",
    "environment",
    "find_bundles",
    "find_hashed_directories",
    "install",
    "original_roots",
]
