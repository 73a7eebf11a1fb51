"""A client of a weather service, as projects have them: two libraries and a program."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from typing import Any

import httpx
import requests

SERVICE = "https://api.weather.example"


def forecast(city: str, days: int = 3) -> dict[str, Any]:
    """Return the forecast for a city (requests)."""
    answer = requests.get(
        f"{SERVICE}/v1/forecast",
        params={"city": city, "days": days},
        headers={"Authorization": f"Bearer {os.environ['WEATHER_TOKEN']}"},
        timeout=10,
    )
    answer.raise_for_status()
    return dict(answer.json())


def report(city: str, celsius: float) -> str:
    """Send an observation, return its id (httpx)."""
    with httpx.Client(timeout=10) as client:
        answer = client.post(f"{SERVICE}/v1/observations", json={"city": city, "celsius": celsius})
    answer.raise_for_status()
    return str(answer.json()["id"])


def alerts(country: str) -> list[str]:
    """Return the titles of the alerts in a country (curl)."""
    command = ["curl", "--silent", "--show-error", "--fail", f"{SERVICE}/v1/alerts/{country}"]
    answer = subprocess.run(command, check=True, capture_output=True, timeout=30)
    return [alert["title"] for alert in json.loads(answer.stdout)]


def count_usage(feature: str) -> None:
    """Tell a third party which feature was used; nobody minds if that fails."""
    with contextlib.suppress(requests.RequestException):
        requests.get(f"{SERVICE}/v1/usage", params={"feature": feature}, timeout=10)


def fahrenheit(celsius: float) -> float:
    """Return a temperature in degrees Fahrenheit."""
    return round(celsius * 9 / 5 + 32, 1)
