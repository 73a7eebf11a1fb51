"""Ports on the command line."""

import pytest

from pytest_netcapture.errors import UsageError
from pytest_netcapture.ports import parse_published


@pytest.mark.parametrize(
    ("text", "ports"), [("80", (80, 80)), ("8080:80", (8080, 80)), ("0:80", (0, 80))]
)
def test_reads(text, ports):
    assert parse_published(text, "--publish") == ports


@pytest.mark.parametrize("text", ["", "0", "x", "80:", ":80", "80:0", "1:2:3", "65536", "-1", "٣"])
def test_refuses_and_names_it(text):
    with pytest.raises(UsageError) as caught:
        parse_published(text, "--publish")
    assert caught.value.message.startswith(f"--publish: {text!r}: ")
