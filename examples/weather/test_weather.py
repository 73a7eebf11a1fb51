"""Tests of the client: nothing in it is patched, and the curl process is seen like the rest.

`python examples/demo` runs them against a server of its own. By hand, name a server that
plays api.weather.example with --netcapture-map-host, or have cassettes recorded before.
"""

from __future__ import annotations

import os

import client
import pytest


@pytest.fixture(autouse=True)
def token(monkeypatch):
    """Replay needs no real token; what is recorded has none in it."""
    monkeypatch.setenv("WEATHER_TOKEN", os.environ.get("WEATHER_TOKEN", "none"))


@pytest.mark.cassette
def test_forecast(netcapture):
    assert client.forecast("Lisbon")["celsius"] == [19, 21, 20]
    netcapture.assert_requested(
        "GET",
        "https://api.weather.example/v1/forecast?*",
        query={"city": "Lisbon", "days": 3},
        times=1,
    )
    netcapture.assert_resolved("api.weather.example")
    netcapture.assert_not_requested(host="*.tracker.example")


@pytest.mark.cassette
def test_report(netcapture):
    assert client.report("Lisbon", 19.5) == "obs-1"
    exchange = netcapture.http.one(path="/v1/observations")
    assert exchange.request.json() == {"city": "Lisbon", "celsius": 19.5}
    assert exchange.response.status == 201


@pytest.mark.cassette
def test_alerts_come_through_curl(netcapture):
    assert client.alerts("pt") == ["Storm", "Heat"]
    exchange = netcapture.http.one(path="/v1/alerts/pt")
    assert exchange.process.name == "curl"


@pytest.mark.cassette("usage")
def test_usage_is_counted(netcapture):
    client.count_usage("forecast")
    netcapture.assert_requested(path="/v1/usage", query={"feature": "forecast"})


@pytest.mark.netcapture(block=True)
def test_fahrenheit_needs_no_network(netcapture):
    assert client.fahrenheit(19.5) == 67.1
    netcapture.assert_no_traffic()
