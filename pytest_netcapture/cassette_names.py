"""Where a test's cassette is.

1. `<folder>/<module>/<Class.test[id]>.cassette`, or `<folder>/<name>.cassette` for a test that
   names it; `<folder>` is `cassettes/` beside the test file unless an option says otherwise.
2. Characters that a file system refuses become `-`, as pytest-recording has it; a name that is too
   long is cut and ends in a digest of the whole.
3. Two tests that have the same default name are an error: neither said that it shares.

Proved by tests/plugin/test_names.py.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any

import pytest

from pytest_netcapture.errors import UsageError

ENDING = ".cassette"
_FORBIDDEN = re.compile(r"[<>?%*:|\\\"'/\x00-\x1f\x7f]")
_LONGEST = 200
"""Bytes; file systems take 255, and sidecars and journals add to a name."""
_DIGEST = 36


def cassette_path(item: pytest.Item, name: Any, folder: str) -> str:
    """Return the path; `name` is what the marker says, None for the default."""
    if name is not None:
        path = os.path.join(folder, os.fspath(name))
        return path if path.endswith(ENDING) else path + ENDING
    classes = [node.name for node in item.listchain() if isinstance(node, pytest.Class)]
    test = _FORBIDDEN.sub("-", ".".join([*classes, item.name]))
    module = _FORBIDDEN.sub("-", item.path.stem)
    return os.path.join(folder, shortened(module), shortened(test) + ENDING)


def check_name(name: Any, place: str) -> None:
    """Raise `UsageError` unless `name` can be a file's."""
    if not isinstance(name, (str, os.PathLike)) or not os.fspath(name):
        raise UsageError(
            f"{place}: name must be a string, given: {name!r}",
            cure="leave it out for a cassette named after the test",
        )
    text = os.fspath(name)
    if "\0" in text or text.endswith(("/", os.sep)):
        raise UsageError(
            f"{place}: name {name!r} cannot be a file's", cure='write name="some-name"'
        )


class Owners:
    """Which test has which default name."""

    def __init__(self) -> None:
        self._by_path: dict[str, str] = {}

    def claim(self, path: str, nodeid: str) -> None:
        """Note that a test has this default cassette. Raises `UsageError` if another has."""
        other = self._by_path.setdefault(path, nodeid)
        if other != nodeid:
            raise UsageError(
                f"{other} and {nodeid} would both write {path}",
                cure="name one of them: @pytest.mark.cassette('name'), "
                "or give both the same name to share it",
            )


def shortened(name: str) -> str:
    """Return a name that file systems take: a long one is cut, and ends in a digest."""
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) <= _LONGEST:
        return name
    digest = hashlib.md5(encoded, usedforsecurity=False).hexdigest()
    return encoded[: _LONGEST - _DIGEST].decode("utf-8", "ignore") + f"...{digest}"
