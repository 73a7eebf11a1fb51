"""Take secrets out of bytes: of a body, a query, or any text.

1. First the values of secret-named fields are replaced and learned, then known values and token
   shapes wherever they stand.
2. A secret becomes `scrubbed-<10 hex>`, a keyed digest of the value: the same secret has the same
   tag within a cassette. A tag that comes back from a client stays as it is.
3. Content is searched for a few literal bytes first, and looked at closely only when one is there.

Proven by tests/cassettes/test_scrub.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator

from pytest_netcapture.cassettes import fields
from pytest_netcapture.cassettes.edits import Edit, apply
from pytest_netcapture.cassettes.names import STEMS, is_secret_name
from pytest_netcapture.cassettes.secrets import Secrets
from pytest_netcapture.cassettes.tags import TAG
from pytest_netcapture.cassettes.tokens import LONGEST, find_tokens
from pytest_netcapture.settings import Filters

_REMEMBERED_TAGS = 4096
_BINARY = (
    "image/",
    "video/",
    "audio/",
    "font/",
    "application/octet-stream",
    "application/zip",
)


class ContentScrubber:
    """Scrubs bytes with one salt, one set of filters, its own growing set of secrets."""

    def __init__(self, secrets: Secrets, filters: Filters, salt: bytes) -> None:
        self.secrets = secrets.copy(filters.values)
        self._salt = salt[:64]
        self._keep = frozenset(name.lower() for name in filters.keep)
        lists = {
            "header": filters.headers,
            "query": filters.query,
            "form": filters.form,
            "json": filters.json,
        }
        self._given = {
            place: frozenset(name.lower() for name in names) for place, names in lists.items()
        }
        extra = {name for names in self._given.values() for name in names}
        self._text_stems = (*STEMS, *extra)
        self._stems = tuple(stem.encode() for stem in self._text_stems)
        self._tags: dict[bytes, bytes] = {}
        self._quiet = False
        self.streamed = 0
        """How often `stream` has replaced something."""

    # What a field's name says

    def secret_header(self, name: str) -> bool:
        return self._secret("header", name)

    def secret_query(self, name: str) -> bool:
        return self._secret("query", name)

    def secret_form(self, name: str) -> bool:
        return self._secret("form", name)

    def secret_json(self, name: str) -> bool:
        return self._secret("json", name)

    def kept(self, name: str) -> bool:
        return name.lower() in self._keep

    def _secret(self, place: str, name: str) -> bool:
        name_lower = name.lower()
        if name_lower in self._keep:
            return False
        return name_lower in self._given[place] or is_secret_name(name)

    # Content

    def content(self, data: bytes, media_type: str, borders: list[int]) -> bytes:
        """Return a whole body without secrets; `borders` are moved in place."""
        # Known values before names: a value with "=" in it looks like a field, and would be cut up.
        data = self._known(data, borders)
        if not media_type.startswith(_BINARY):
            data = self._named(data, media_type, borders)
        return self.text(data, borders)

    def _named(self, data: bytes, media_type: str, borders: list[int]) -> bytes:
        if not any(map(data.lower().__contains__, self._stems)):
            return data
        first = data[:64].lstrip()[:1]
        if media_type == "application/x-www-form-urlencoded" and first not in (b"{", b"["):
            return self._replace(data, fields.in_form(data, self.secret_form), borders)
        if media_type.startswith("multipart/"):
            data = self._replace(data, fields.in_multipart(data, self.secret_form), borders)
        if b'"' in data and b":" in data:
            data = self._replace(data, self._json(data), borders)
        return self._urls(data, borders)

    def _json(self, data: bytes, depth: int = 0) -> Iterator[fields.Found]:
        def rewrite(inner: bytes) -> bytes:
            return self._replace(inner, self._json(inner, depth + 1), [])

        given = self._given["json"]
        return fields.in_json(
            data, self.secret_json, lambda name: name.lower() in given, rewrite, depth
        )

    def _urls(self, data: bytes, borders: list[int] | None = None) -> bytes:
        if b"=" not in data or not (b"?" in data or b"#" in data):
            return data
        found = fields.in_urls(data, self.secret_query)
        return self._replace(data, found, [] if borders is None else borders)

    def text(self, data: bytes, borders: list[int] | None = None) -> bytes:
        """Replace known values and token shapes in `data`."""
        if self._quiet:
            return data
        borders = [] if borders is None else borders
        data = self._known(data, borders)
        return apply(data, self._token_edits(data), borders)

    def _known(self, data: bytes, borders: list[int]) -> bytes:
        if self._quiet:
            return data
        found = self.secrets.find(data)
        return apply(
            data, [Edit(start, end, self.tag(secret)) for start, end, secret in found], borders
        )

    def stream(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Do as `text` for a body of any size, seeing no more than a window at a time."""
        for window, edits in self._windows(pieces, self._all_edits):
            self.streamed += len(edits)
            yield apply(window, edits, [])

    def wire(self, pieces: Iterable[bytes], spans: list[tuple[int, int]]) -> Iterator[bytes]:
        """Do as `stream` and keep all lengths: a protocol that is not known may count its bytes.

        Where something was replaced is added to `spans`.
        """
        position = 0
        for window, edits in self._windows(pieces, self._wire_edits):
            self.streamed += len(edits)
            spans += [(position + start, position + end) for start, end, _ in edits]
            position += len(window)
            yield apply(window, edits, [])

    def same_length(self, data: bytes) -> bytes:
        """Do as `wire` for bytes that are whole."""
        return b"".join(self.wire([data], []))

    def _windows(
        self, pieces: Iterable[bytes], find: Callable[[bytes], list[Edit]]
    ) -> Iterator[tuple[bytes, list[Edit]]]:
        """Cut a stream where no edit is cut."""
        keep = max(LONGEST, self.secrets.longest)
        window = b""
        for piece in pieces:
            window += piece
            if len(window) < 2 * keep:
                continue
            edits = find(window)
            cut = min([len(window) - keep, *(e.start for e in edits if e.end > len(window) - keep)])
            yield window[:cut], [e for e in edits if e.end <= cut]
            window = window[cut:]
        if window:
            yield window, find(window)

    def _wire_edits(self, data: bytes) -> list[Edit]:
        found = [(start, end) for start, end, _ in self.secrets.find(data)] + find_tokens(data)
        edits = [Edit(start, end, b"") for start, end in found]
        return [
            edit._replace(new=_as_long(self.tag(data[edit.start : edit.end]), edit))
            for edit in _disjoint(edits)
        ]

    def tag(self, value: bytes) -> bytes:
        """Return the stable tag of a secret; a tag is its own."""
        tag = self._tags.get(value)
        if tag is None:
            if TAG.fullmatch(value):
                return value
            digest = hashlib.blake2b(value, key=self._salt, digest_size=5).hexdigest()
            tag = b"scrubbed-" + digest.encode()
            if len(self._tags) < _REMEMBERED_TAGS:
                self._tags[value] = tag
        return tag

    def secret_text(self, value: str) -> str:
        """Learn `value` and return its tag."""
        data = value.encode("latin-1", "replace")
        self.secrets.learn(data)
        return self.tag(data).decode()

    def _all_edits(self, data: bytes) -> list[Edit]:
        edits = [
            Edit(start, end, self.tag(secret)) for start, end, secret in self.secrets.find(data)
        ]
        if b"\0" in data:  # not text: a shape that it has is chance, and looking takes long
            return _disjoint(edits)
        return _disjoint(edits + self._token_edits(data))

    def _token_edits(self, data: bytes) -> list[Edit]:
        spans = find_tokens(data)
        return [
            Edit(start, end, self.tag(data[start:end]))
            for start, end in spans
            if not TAG.fullmatch(data, start, end)
        ]

    def _replace(self, data: bytes, found: Iterable[fields.Found], borders: list[int]) -> bytes:
        edits = []
        for start, end, value, new in found:
            if new is not None:
                edits.append(Edit(start, end, new))
            elif not TAG.fullmatch(value):
                self.secrets.learn(value)
                edits.append(Edit(start, end, self.tag(value)))
        return apply(data, edits, borders)


def _as_long(tag: bytes, edit: Edit) -> bytes:
    """Return `tag` cut, or filled up, to the length of what it stands for."""
    return tag.ljust(edit.end - edit.start, b"-")[: edit.end - edit.start]


def _disjoint(edits: list[Edit]) -> list[Edit]:
    """Join edits that overlap."""
    kept: list[Edit] = []
    for edit in sorted(edits):
        if not kept or edit.start >= kept[-1].end:
            kept.append(edit)
        elif edit.end > kept[-1].end:
            kept[-1] = kept[-1]._replace(end=edit.end)
    return kept
