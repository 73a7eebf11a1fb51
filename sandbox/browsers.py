"""Browsers have roots of their own; what an administrator adds, they read from policy files.

1. Chromium and its kin read every file of `policies/managed` below their directory in /etc. The
   last file that sets CACertificates wins, so ours comes last and repeats what the others list.
   Chromium 131 and later. Proof: tests/clients (Chromium), test_other_policies_stay.
2. Firefox reads one policies.json: the one in /etc if there is one, else `distribution/` beside the
   program. Proof: tests/clients (Firefox), test_firefox_keeps_its_policies.
3. A browser is there if its directory in /etc, or one that it is installed in, is. For others
   nothing is done.
4. New names need an overlay of the nearest directory that exists. Of /etc itself only for ordinary
   users, who cannot write there anyway: root could no longer.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox.capabilities import is_root
from pytest_netcapture.sandbox.original import exists, original, read_file

CHROMIUMS: dict[str, tuple[str, ...]] = {
    "/etc/chromium": (
        "/usr/lib/chromium",
        "/usr/lib64/chromium-browser",
        "/usr/bin/chromium",
        "~/.cache/ms-playwright",
        "/ms-playwright",
    ),
    "/etc/chromium-browser": ("/usr/lib/chromium-browser", "/usr/bin/chromium-browser"),
    "/etc/opt/chrome": ("/opt/google/chrome",),
    "/etc/opt/chrome_for_testing": (
        "~/.cache/ms-playwright",
        "~/.cache/puppeteer",
        "~/.cache/selenium/chrome",
        "/ms-playwright",
    ),
    "/etc/opt/edge": ("/opt/microsoft/msedge",),
    "/etc/brave": ("/opt/brave.com",),
}
"""The directory of the policies, and where the browser that reads them is installed."""
MANAGED = "policies/managed"
POLICY_FILE = "zz-netcapture.json"

FIREFOXES = ("/usr/lib/firefox-esr", "/usr/lib/firefox", "/usr/lib64/firefox", "/opt/firefox")
FIREFOX_SYSTEM_POLICY = "/etc/firefox/policies/policies.json"


class Addition(NamedTuple):
    """A file to appear in a directory that exists, maybe in sub-directories that do not."""

    directory: str
    name: str
    """Relative to `directory`."""
    content: bytes

    @property
    def path(self) -> str:
        return f"{self.directory}/{self.name}"


def policies(ca_der: bytes, ca_file: str, environ: Mapping[str, str]) -> list[Addition]:
    """Return the policy files that make the browsers of this machine trust the CA."""
    home = environ.get("HOME", "")
    found = [
        _addition(f"{root}/{MANAGED}/{POLICY_FILE}", chromium_policy(f"{root}/{MANAGED}", ca_der))
        for root, installed in CHROMIUMS.items()
        if exists(root) or _any_exists(installed, home)
    ]
    return found + _firefox(ca_file)


def check(addition: Addition) -> None:
    """Raise `EnvironmentProblem` if the addition would take something from root."""
    if addition.directory in {"/", "/etc"} and is_root():
        parent = addition.path.rpartition("/")[0]
        raise EnvironmentProblem(
            f"{addition.directory} is not overlaid for root", cure=f"mkdir -p {parent}"
        )


def chromium_policy(directory: str, ca_der: bytes) -> bytes:
    """Return a policy with the certificates that other files in `directory` add, and ours."""
    listed: list[object] = []
    for name in sorted(_names(directory)):
        value = _json(f"{directory}/{name}").get("CACertificates")
        listed = value if isinstance(value, list) else listed
    ours = binascii.b2a_base64(ca_der, newline=False).decode()
    return json.dumps({"CACertificates": [*listed, ours]}).encode()


def firefox_policy(path: str, ca_file: str) -> bytes:
    """Return the policies of the file at `path`, if any, with our CA installed."""
    document = _json(path)
    inner = _object(document, "policies")
    certificates = _object(inner, "Certificates")
    install = certificates.get("Install")
    certificates["Install"] = [*(install if isinstance(install, list) else ()), ca_file]
    return json.dumps(document).encode()


def _firefox(ca_file: str) -> list[Addition]:
    installed = [path for path in FIREFOXES if exists(path)]
    if installed and exists(FIREFOX_SYSTEM_POLICY):
        paths = [FIREFOX_SYSTEM_POLICY]
    else:
        paths = [f"{path}/distribution/policies.json" for path in installed]
    return [_addition(path, firefox_policy(path, ca_file)) for path in paths]


def _addition(path: str, content: bytes) -> Addition:
    directory, _, name = path.rpartition("/")
    while directory and not exists(directory):
        directory, _, last = directory.rpartition("/")
        name = f"{last}/{name}"
    return Addition(directory or "/", name, content)


def _object(parent: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the object `name` of `parent`, new if there is none."""
    value = parent.get(name)
    if not isinstance(value, dict):
        value = parent[name] = {}
    return value


def _json(path: str) -> dict[str, Any]:
    """Return the object in the file; an empty one where the browser could not read it, either."""
    try:
        value = json.loads(read_file(path))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _any_exists(paths: Iterable[str], home: str) -> bool:
    return any(exists(path.replace("~", home, 1)) for path in paths if home or path[0] != "~")


def _names(directory: str) -> list[str]:
    try:
        return original.listdir(directory)
    except OSError:
        return []
