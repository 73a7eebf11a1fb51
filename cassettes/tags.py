"""What stands in the place of a secret, and how it is overlooked when requests are compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

TAG = re.compile(rb"scrubbed-[0-9a-f]{10}")
_TEXT_TAG = re.compile(r"scrubbed-[0-9a-f]{10}")
PLACEHOLDER = "scrubbed"
_TAG_LENGTH = 19


def without_tags(text: str) -> str:
    """Replace every tag by one placeholder, so that any secret equals any other."""
    return _TEXT_TAG.sub(PLACEHOLDER, text) if "scrubbed-" in text else text


def bytes_without_tags(data: bytes) -> bytes:
    return TAG.sub(b"scrubbed", data) if b"scrubbed-" in data else data


def stream_without_tags(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Do the same for a body in pieces, where a tag may lie across a border."""
    rest = b""
    for piece in pieces:
        window = rest + piece
        cut = max(0, len(window) - _TAG_LENGTH + 1)
        for match in TAG.finditer(window):
            if match.start() < cut < match.end():
                cut = match.end()
        yield bytes_without_tags(window[:cut])
        rest = window[cut:]
    yield bytes_without_tags(rest)
