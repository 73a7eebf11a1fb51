"""Scrub header fields that are secret by their name, keeping what is not secret in them.

`Authorization` keeps its scheme word, cookies their names and attributes: a reader of the cassette
sees what kind of thing was sent, and a client that parses a replayed answer still can.
"""

from __future__ import annotations

import base64
import binascii
from typing import Protocol

from pytest_netcapture.cassettes.secrets import SHORTEST

SECRET_FIELDS = frozenset(("authorization", "proxy-authorization", "cookie", "set-cookie"))
_SCHEMES = frozenset(
    str.split(
        """
    apikey api-key aws4-hmac-sha256 basic bearer concealed digest dpop gnap hawk hmac hoba key
    mutual negotiate ntlm oauth privatetoken scram-sha-1 scram-sha-256 sharedkey sharedkeylite
    signature token vapid
    """
    )
)
"""Words before credentials that are not part of them (IANA's registry, and common private ones)."""


class Tagger(Protocol):
    """What this module needs of a `Scrubber`."""

    def secret_header(self, name: str) -> bool: ...

    def secret_text(self, value: str) -> str: ...

    def kept(self, name: str) -> bool: ...


def scrub_field(name: str, value: str, tagger: Tagger) -> str:
    """Return the value of header `name` without the secrets that the name promises."""
    lower = name.lower()
    if not value:
        return value
    if lower in ("authorization", "proxy-authorization"):
        return _credentials(value, tagger)
    if lower == "cookie":
        return "; ".join(_cookie(pair, tagger) for pair in value.split("; "))
    if lower == "set-cookie":
        pair, semicolon, attributes = value.partition(";")
        return _cookie(pair, tagger) + semicolon + attributes
    if tagger.secret_header(name):
        return _tagged(value, tagger)
    return value


def _credentials(value: str, tagger: Tagger) -> str:
    scheme, space, rest = value.partition(" ")
    if not space or scheme.lower() not in _SCHEMES:
        return _tagged(value, tagger)
    if scheme.lower() == "basic":
        _learn_basic(rest, tagger)
    return f"{scheme} {_tagged(rest, tagger)}"


def _learn_basic(token: str, tagger: Tagger) -> None:
    try:
        _, _, password = base64.b64decode(token, validate=True).decode("latin-1").partition(":")
    except (binascii.Error, ValueError):
        return
    if len(password) >= SHORTEST:
        tagger.secret_text(password)


def _cookie(pair: str, tagger: Tagger) -> str:
    name, equals, value = pair.partition("=")
    if not equals or not value or tagger.kept(name.strip()):
        return pair
    return f"{name}={_tagged(value, tagger)}"


def _tagged(value: str, tagger: Tagger) -> str:
    return (
        value if value.startswith("scrubbed-") and len(value) == 19 else tagger.secret_text(value)
    )
