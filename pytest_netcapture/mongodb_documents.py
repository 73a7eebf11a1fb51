"""What MongoDB's commands and answers say, read with pymongo's package `bson`.

1. A command is kept as JSON (relaxed Extended JSON), one value for each of its fields and of its
   documents, without what a connection, a session or the clock adds.
2. The `_id` that a driver makes up for a document that it inserts is another one each time. In
   values it is `MADE`; beside them are the pairs of what stands there and what was sent.
3. Nothing that only shows values raises on what a peer sent.

Imported where it is needed: pymongo is not installed everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import bson
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion

from pytest_netcapture.mongodb_messages import Message, messages, written
from pytest_netcapture.unreadable import Unreadable

MADE = bytes(12)
_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(
    document_class=dict, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
_JSON = json_util.JSONOptions(
    json_mode=json_util.JSONMode.RELAXED,
    tz_aware=False,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
_ADDED = frozenset(("$db", "lsid", "$clusterTime", "txnNumber", "recoveryToken", "maxTimeMS"))
_LISTS = {"insert": "documents", "update": "updates", "delete": "deletes"}
_BAD = (bson.errors.BSONError, ValueError, TypeError, OverflowError, RecursionError, KeyError)


def decoded(document: bytes) -> dict[str, Any]:
    """Return a document as Python's values. Raises `Unreadable`."""
    try:
        return bson.decode(document, _OPTIONS)
    except _BAD as problem:
        raise Unreadable(f"a bad document: {problem}") from None


def encoded(document: dict[str, Any]) -> bytes:
    """Return a document as BSON. Raises `Unreadable`."""
    try:
        return bson.encode(document, codec_options=_OPTIONS)
    except _BAD as problem:
        raise Unreadable(f"a bad document: {problem}") from None


def whole(message: Message) -> dict[str, Any]:
    """Return a message's document with the sequences that stand beside it. Raises `Unreadable`."""
    document = decoded(message.document)
    for name, parts in message.sequences:
        document[name] = [decoded(part) for part in parts]
    return document


def values(
    command: dict[str, Any], known: Callable[[bytes], bytes]
) -> tuple[list[bytes | None], bytes]:
    """Return what identifies a command, and the pairs of identifiers that were replaced in it.

    `known` gives the identifier that was recorded for one that is sent now.
    """
    name, pairs = next(iter(command)), bytearray()

    def told(one: bson.ObjectId) -> bson.ObjectId:
        recorded = known(one.binary)
        if recorded != one.binary:
            pairs.extend(recorded + one.binary)
        return bson.ObjectId(recorded)

    found: list[bytes | None] = [_json(name, command[name])]
    for field, value in command.items():
        if field == name or field in _ADDED:
            continue
        if field == _LISTS.get(name) and isinstance(value, list):
            documents = _without_made(value, pairs) if name == "insert" else value
            found += [_json(field, _changed(one, told)) for one in documents]
        else:
            found.append(_json(field, _changed(_without_time(field, value), told)))
    return found, bytes(pairs)


def _without_made(documents: list[Any], pairs: bytearray) -> Iterator[Any]:
    """Yield documents with `MADE` for an `_id` that is an identifier."""
    for one in documents:
        made = one.get("_id") if isinstance(one, dict) else None
        if isinstance(made, bson.ObjectId):
            pairs += MADE + made.binary
            yield {**one, "_id": bson.ObjectId(MADE)}
        else:
            yield one


def _without_time(field: str, value: Any) -> Any:
    if field == "readConcern" and isinstance(value, dict):
        return {key: one for key, one in value.items() if key != "afterClusterTime"}
    return value


def pairs_of(note: bytes) -> Iterable[tuple[bytes, bytes]]:
    return ((note[at : at + 12], note[at + 12 : at + 24]) for at in range(0, len(note) - 23, 24))


def command(found: Iterable[bytes | None], note: bytes) -> dict[str, Any]:
    """Return a command's fields as they were sent, from `values`."""
    pairs, whole = list(pairs_of(note)), dict[str, Any]()

    def sent(one: bson.ObjectId) -> bson.ObjectId:
        for at, (kept, now) in enumerate(pairs):
            if kept == one.binary:
                del pairs[at]
                return bson.ObjectId(now)
        return one

    for value in found:
        try:
            fields = json_util.loads(value or b"{}", json_options=_JSON)
        except _BAD:
            continue
        if not isinstance(fields, dict):
            continue
        for name, one in fields.items():
            listed = name == _LISTS.get(next(iter(whole), ""))
            if listed:
                whole.setdefault(name, []).append(_changed(one, sent))
            else:
                whole[name] = _changed(one, sent)
    return whole


def answers(data: bytes) -> list[dict[str, Any]]:
    """Return the documents of an answer, as far as it can be read."""
    found = []
    for message in messages(data):
        try:
            found.append(whole(message))
        except Unreadable:
            break
    return found


def batch(replies: Iterable[dict[str, Any]]) -> list[Any]:
    """Return the documents in the cursors of answers."""
    found: list[Any] = []
    for reply in replies:
        cursor = reply.get("cursor")
        for name in ("firstBatch", "nextBatch"):
            part = cursor.get(name) if isinstance(cursor, dict) else None
            found.extend(part if isinstance(part, list) else ())
    return found


def failure(reply: dict[str, Any]) -> tuple[int, str]:
    """Return code and text of an error: of the command, else of its first write that failed."""
    errors = reply.get("writeErrors")
    failed = reply if reply.get("errmsg") else None
    if failed is None and isinstance(errors, list) and errors:
        failed = errors[0]
    if not isinstance(failed, dict):
        return 0, ""
    code = failed.get("code", -1)
    return (code if isinstance(code, int) else -1), str(failed.get("errmsg", ""))


def told(replies: list[dict[str, Any]]) -> str:
    """Return in a few words what was answered."""
    last = replies[-1] if replies else {}
    code, text = failure(last)
    if code:
        return f"error {code} {text}"
    found, count = batch(replies), last.get("n")
    if found:
        return f"{len(found)} document{'s' * (len(found) != 1)}"
    return "ok" if count is None else f"ok, n = {count}"


def rewritten(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Return an answer with each text changed, and its lengths made right."""
    parts = []
    for message in messages(data):
        document = whole(message)
        changed = with_texts(document, change)
        kept = message.document if changed == document else encoded(changed)
        parts.append(written(kept, more=message.more))
    return b"".join(parts)


def with_identifiers(document: dict[str, Any], change: Callable[[bytes], bytes]) -> dict[str, Any]:
    """Return a document with each identifier changed."""
    return dict(_changed(document, lambda one: bson.ObjectId(change(one.binary))))


def with_texts(document: dict[str, Any], change: Callable[[bytes], bytes]) -> dict[str, Any]:
    """Return a document with each text changed, and what is bytes."""

    def text(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: text(one) for key, one in value.items()}
        if isinstance(value, list):
            return [text(one) for one in value]
        if type(value) is str:
            return change(value.encode()).decode("utf-8", "replace")
        return change(value) if type(value) is bytes else value

    return dict(text(document))


def _changed(value: Any, change: Callable[[bson.ObjectId], bson.ObjectId]) -> Any:
    if isinstance(value, bson.ObjectId):
        return change(value)
    if type(value) is dict:
        return {key: _changed(one, change) for key, one in value.items()}
    if type(value) is list:
        return [_changed(one, change) for one in value]
    return value


def _json(name: str, value: Any) -> bytes:
    try:
        return json_util.dumps({name: value}, json_options=_JSON, ensure_ascii=False).encode()
    except _BAD as problem:
        raise Unreadable(f"a value that has no text: {problem}") from None


def readable(value: Any) -> str:
    """Return a value as JSON, for people."""
    try:
        return json_util.dumps(value, json_options=_JSON, ensure_ascii=False)
    except _BAD:
        return json.dumps(str(value))
