"""The run's report: one HTML file that needs no other, and no network.

1. What was recorded is data in it, never markup: it lies in a block of JSON that cannot be left
   early, the page makes text of it, and its policy (CSP) runs the one script that we wrote.
2. Workers put what they saw into parts beside it; this process joins them at the end.

Proved by tests/plugin/test_report.py.
"""

from __future__ import annotations

import base64
import datetime as dt
import glob
import hashlib
import os
from collections.abc import Generator, Iterator
from importlib.resources import files
from typing import Any

import pytest

from pytest_netcapture.errors import UsageError
from pytest_netcapture.report.seen import PART

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; base-uri 'none'; \
form-action 'none'; script-src '{script_hash}'; style-src '{style_hash}'">
<meta name="viewport" content="width=device-width">
<title>netcapture report</title>
<style>{style}</style>
</head>
<body>
{body}<script type="application/json" id="data">{{"made": "{made}", "tests": [
"""
_END = """
]}}</script>
<script>{script}</script>
</body>
</html>
"""


class ReportWriter:
    """A plugin of the process that prints."""

    def __init__(self, path: str) -> None:
        self._path = path
        folder = os.path.dirname(path)
        try:
            os.makedirs(folder, exist_ok=True)
            with open(path, "a", encoding="utf-8"):
                pass
        except OSError as error:
            problem = f"--netcapture-report: cannot write {path}: {error.strerror}"
            raise UsageError(problem, cure="name another file") from None
        for part in self._parts():
            os.unlink(part)

    def _parts(self) -> list[str]:
        return sorted(glob.glob(f"{glob.escape(self._path)}.*{PART}"))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> Generator[None, None, None]:
        yield
        parts = self._parts()
        with open(self._path, "w", encoding="utf-8") as file:
            file.writelines(page(_lines(parts)))
        for part in parts:
            os.unlink(part)
        terminalreporter.write_line(f"netcapture: report: {self._path}")


def page(tests: Iterator[str]) -> Iterator[str]:
    """Yield the page; `tests` are lines of JSON, one for each."""
    here = files("pytest_netcapture.report")
    script, style, body = (
        here.joinpath(f"page.{ending}").read_text("utf-8") for ending in ("js", "css", "html")
    )
    made = dt.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    hashes = {"script_hash": _hash(script), "style_hash": _hash(style)}
    yield _PAGE.format(style=style, body=body, made=made, **hashes)
    for number, line in enumerate(tests):
        yield ("," if number else "") + line.strip().replace("<", "\\u003c") + "\n"
    yield _END.format(script=script)


def _lines(parts: list[str]) -> Iterator[str]:
    for part in parts:
        with open(part, encoding="utf-8") as file:
            yield from file


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
