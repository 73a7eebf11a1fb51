"""A client of a shop, with three mistakes that its tests do not find."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

SHOP = "http://api.shop.example"


def stock(article: str) -> int:
    """Return how many of an article there are: as it should be."""
    with urllib.request.urlopen(f"{SHOP}/stock/{article}", timeout=10) as answer:
        return int(json.load(answer)["count"])


def price(article: str) -> int:
    """Return a price in cents. Mistake: there is no time-out."""
    with urllib.request.urlopen(f"{SHOP}/prices/{article}") as answer:
        return int(json.load(answer)["cents"])


def reviews(article: str) -> list[str]:
    """Return what people say. Mistake: what came is taken for all that there is."""
    with urllib.request.urlopen(f"{SHOP}/reviews/{article}", timeout=10) as answer:
        try:
            text = answer.read()
        except http.client.IncompleteRead as error:
            text = error.partial
    return text.decode().splitlines()


def order(article: str) -> str:
    """Order an article, return the number. Mistake: it tries for ever."""
    body = json.dumps({"article": article}).encode()
    headers = {"Content-Type": "application/json"}
    while True:
        request = urllib.request.Request(f"{SHOP}/orders", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                found: dict[str, Any] = json.load(answer)
                return str(found["number"])
        except OSError:
            continue
