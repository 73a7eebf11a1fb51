"""The machine's own store of trusted roots: one certificate more, or less.

1. Each distribution has a directory for certificates of one's own, and a command that makes the
   bundles anew. Nothing else of the store is touched.
2. What is added is found again by its name.

update-ca-certificates(8), update-ca-trust(8), trust(1). Tests: test_system_store.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import NamedTuple

from pytest_netcapture.errors import EnvironmentProblem

NAME = "netcapture-local.crt"
_SLUG = "docs/local-mode.md#who-trusts-it"


class Store(NamedTuple):
    """Where own certificates go, and what is to be run then."""

    directory: str
    command: tuple[str, ...]

    @property
    def file(self) -> str:
        return os.path.join(self.directory, NAME)


STORES = (
    Store("/usr/local/share/ca-certificates", ("update-ca-certificates",)),  # Debian, Alpine
    Store("/etc/pki/ca-trust/source/anchors", ("update-ca-trust", "extract")),  # Fedora, RHEL
    Store("/etc/ca-certificates/trust-source/anchors", ("trust", "extract-compat")),  # Arch
    Store("/etc/pki/trust/anchors", ("update-ca-certificates",)),  # openSUSE
)


def find() -> Store:
    """Return this machine's. Raises `EnvironmentProblem`."""
    for store in STORES:
        if os.path.isdir(store.directory) and shutil.which(store.command[0]):
            return store
    raise EnvironmentProblem(
        "no store of trusted roots is known on this machine",
        cure="install the package ca-certificates, or trust the CA in each client",
        slug=_SLUG,
    )


def add(store: Store, certificate: bytes) -> None:
    """Let the machine trust a certificate. Raises `EnvironmentProblem`."""
    try:
        with open(store.file, "wb") as file:
            file.write(certificate)
        os.chmod(store.file, 0o644)
    except OSError as error:
        raise _refused(store, error) from error
    _update(store)


def remove(store: Store) -> bool:
    """Undo that; tell whether there was anything to undo. Raises `EnvironmentProblem`."""
    try:
        os.unlink(store.file)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _refused(store, error) from error
    _update(store)
    return True


def _update(store: Store) -> None:
    done = subprocess.run(store.command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentProblem(
            f"{store.command[0]} failed: {done.stderr.strip()}",
            cure=f"run it by hand, as root: {' '.join(store.command)}",
            slug=_SLUG,
        )


def _refused(store: Store, error: OSError) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{store.file}: {error.strerror}", cure="run it as root: sudo netcapture ca …", slug=_SLUG
    )
