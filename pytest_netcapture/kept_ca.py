"""The CA that a person has let the machine trust: its file, which holds the key.

1. It is made by `netcapture ca install` only, for this user, and `uninstall` removes it. All else
   uses throwaway CAs, whose keys never leave an engine's memory.
2. The file is its owner's alone (0600); one that others could read or have written is refused.
3. It lasts `LASTS`; an old one is refused, too.

Tests: tests/cli/test_ca.py.
"""

from __future__ import annotations

import datetime as dt
import os
import stat

from pytest_netcapture.errors import EnvironmentProblem

LASTS = dt.timedelta(days=365)
CURE = "netcapture ca uninstall, then: netcapture ca install"
SLUG = "docs/local-mode.md#who-trusts-it"


def path() -> str:
    """Return where it is, or would be (XDG Base Directory Specification)."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(data, "netcapture", "ca.pem")


def read() -> bytes:
    """Return the key and the certificate, b"" when there is none. Raises `EnvironmentProblem`."""
    try:
        with open(path(), "rb") as file:
            found = os.fstat(file.fileno())
            content = file.read()
    except (FileNotFoundError, PermissionError):  # of another user, whose HOME is still set
        return b""
    except OSError as error:
        raise EnvironmentProblem(
            f"the CA {path()} cannot be read: {error.strerror}", cure=CURE, slug=SLUG
        ) from error
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise EnvironmentProblem(
            f"the CA {path()} may be known to others: its mode is {stat.filemode(found.st_mode)}",
            cure=CURE,
            slug=SLUG,
        )
    return content


def write(content: bytes) -> None:
    """Put it there. Raises `OSError`, also when there is one."""
    os.makedirs(os.path.dirname(path()), 0o700, exist_ok=True)
    descriptor = os.open(path(), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def certificate(content: bytes) -> bytes:
    """Return the certificate alone."""
    mark = b"-----BEGIN CERTIFICATE-----"
    return mark + content.partition(mark)[2]


def remove() -> None:
    """Delete it. Raises `FileNotFoundError`."""
    os.unlink(path())
