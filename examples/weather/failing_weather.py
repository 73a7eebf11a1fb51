"""Tests that must fail: the client swallows the error, netcapture does not."""

from __future__ import annotations

import client
import pytest


@pytest.mark.cassette("usage", record_mode="none")
def test_unrecorded_request():
    client.count_usage("radar")


@pytest.mark.netcapture(block=True)
def test_blocked_request():
    client.count_usage("forecast")


@pytest.mark.cassette("usage", record_mode="none")
def test_wrong_claim(netcapture):
    client.count_usage("forecast")
    netcapture.assert_requested(path="/v1/usage", query={"feature": "radar"})
