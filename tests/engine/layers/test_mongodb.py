"""What the MongoDB layer does, command by command; a real server is in tests/services."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import hmac
import struct
import zlib
from typing import Any

import bson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import Playbook, talk_unchanged

from pytest_netcapture import mongodb_documents as documents
from pytest_netcapture.engine.layers.layer import Deny, Forward, Play
from pytest_netcapture.engine.layers.opening import OpeningLayer
from pytest_netcapture.flows import Origin
from pytest_netcapture.mongodb_messages import (
    HEAD,
    Splitter,
    messages,
    read,
    replied,
    written,
)
from pytest_netcapture.unreadable import Unreadable

OK = {"ok": 1.0}


def asked(number: int = 7, flags: int = 0, database: str = "shop", **fields: Any) -> bytes:
    content = struct.pack("<IB", flags, 0) + bson.encode({**fields, "$db": database})
    return HEAD.pack(16 + len(content), number, 0, 2013) + content


def queried(number: int = 7, **fields: Any) -> bytes:
    content = struct.pack("<i", 0) + b"admin.$cmd\0" + struct.pack("<ii", 0, -1)
    content += bson.encode(fields)
    return HEAD.pack(16 + len(content), number, 0, 2004) + content


def told(answers: int = 7, number: int = 90, *, more: bool = False, **fields: Any) -> bytes:
    return written(bson.encode(fields or OK), number, answers, more=more)


def compressed(message: bytes, how: int, data: bytes) -> bytes:
    size, number, answers, kind = HEAD.unpack_from(message)
    content = struct.pack("<iiB", kind, size - 16, how) + data
    return HEAD.pack(16 + len(content), number, answers, 2012) + content


def live() -> Playbook:
    return Playbook(OpeningLayer, has_server=True)


class Cassette:
    """Plays what playbooks have recorded: a command once, what sets up again and again."""

    def __init__(self, flows: list[Any]) -> None:
        self.left = list(flows)

    def decide(self, flow: Any) -> Play | Deny:
        for one in self.left:
            if [(f.step, f.question, f.values, f.session) for f in (one, flow)] == [
                (one.step, one.question, one.values, one.session)
            ] * 2:
                if one.step == "command":
                    self.left.remove(one)
                return Play(exchange=one, error=one.error)
        return Deny(Origin.UNMATCHED)


def replayed(*recorded: Playbook) -> Playbook:
    flows = [flow for play in recorded for flow in play.recorded]
    return Playbook(OpeningLayer, decide=Cassette(flows).decide)


def documents_of(play: Playbook) -> list[dict[str, Any]]:
    return documents.answers(play.take_client())


def test_a_command_is_an_exchange_that_is_recorded_before_it_is_answered() -> None:
    question = asked(find="orders", filter={"item": "apple"}, lsid={"id": b"x"}, maxTimeMS=7)
    answer = told(cursor={"firstBatch": [{"item": "apple"}], "id": 0, "ns": "shop.orders"}, ok=1.0)
    play = live().client(question).expect_server(question).server(answer).expect_client(answer)
    assert play.recorded_by[-1][1] == 1
    flow = play.flow
    assert (flow.command, flow.collection, flow.database) == ("find", "orders", "shop")
    assert flow.arguments == {"find": "orders", "filter": {"item": "apple"}}
    assert (flow.batch, flow.code, flow.told) == ([{"item": "apple"}], 0, "1 document")
    played = replayed(play).client(asked(8, find="orders", filter={"item": "apple"}, lsid={}))
    assert [one.answers for one in messages(played.take_client())] == [8]
    played.client(asked(9, find="orders", filter={"item": "pear"}))
    refused = documents_of(played)[0]
    assert (refused["ok"], refused["code"]) == (0.0, 8)
    assert "no recording answers this" in refused["errmsg"]


def test_a_sequence_beside_the_command_is_its_field() -> None:
    parts = b"".join(map(bson.encode, [{"_id": 1}, {"_id": 2}]))
    section = b"\1" + struct.pack("<i", 4 + 10 + len(parts)) + b"documents\0" + parts
    plain = asked(insert="orders")[16:]
    content = plain + section
    whole = HEAD.pack(16 + len(content), 7, 0, 2013) + content
    play = live().client(whole).server(told(n=2, ok=1.0))
    assert play.flow.documents == [{"_id": 1}, {"_id": 2}]
    assert play.flow.values == [
        b'{"insert": "orders"}',
        *(b'{"documents": {"_id": %d}}' % n for n in (1, 2)),
    ]
    checked = struct.pack("<I", 1) + content[4:] + b"sum!"
    again = live().client(HEAD.pack(16 + len(checked), 7, 0, 2013) + checked).server(told())
    assert again.flow.values == play.flow.values


def test_identifiers_that_are_made_up_stand_for_those_of_the_recording() -> None:
    recorded, other, now = (bson.ObjectId() for _ in range(3))
    play = live().client(asked(insert="a", documents=[{"_id": recorded, "other": other}]))
    play.server(told()).client(asked(8, find="a", filter={"_id": recorded}))
    play.server(told(8, cursor={"firstBatch": [{"_id": recorded, "other": other}]}, ok=1.0))
    assert play.recorded[0].documents == [{"_id": recorded, "other": other}]  # type: ignore[union-attr]
    played = replayed(play).client(asked(insert="a", documents=[{"_id": now, "other": other}]))
    assert played.flow.documents == [{"_id": now, "other": other}]
    played.take_client()
    played.client(asked(8, find="a", filter={"_id": now}))
    assert documents_of(played)[0]["cursor"]["firstBatch"] == [{"_id": now, "other": other}]
    assert played.flow.arguments["filter"] == {"_id": now}
    unlike = replayed(play).client(asked(insert="a", documents=[{"_id": now, "other": now}]))
    assert documents_of(unlike)[0]["ok"] == 0.0


HELLO = {"isWritablePrimary": True, "helloOk": True, "maxWireVersion": 21, "ok": 1.0}
VERSION = {"processId": bson.ObjectId(), "counter": bson.Int64(6)}


def test_only_the_first_hello_of_a_connection_is_kept() -> None:
    first = queried(isMaster=1, helloOk=True, client={"driver": {"name": "x"}})
    answer = replied(bson.encode({**HELLO, "topologyVersion": VERSION}), 3, 7)
    play = live().client(first).expect_server(first).server(answer).expect_client(answer)
    awaiting = asked(8, flags=1 << 16, database="admin", hello=1, topologyVersion=VERSION)
    stream = told(8, 91, more=True, **HELLO) + told(91, 92, more=True, **HELLO)
    play.client(awaiting).expect_server(awaiting).server(stream).expect_client(stream)
    assert [flow.question for flow in play.began] == ["hello"]  # type: ignore[union-attr]
    played = replayed(play).client(queried(4, ismaster=1))
    [message] = messages(played.take_client())
    assert (message.kind, message.answers) == (1, 4)
    assert "topologyVersion" not in documents.decoded(message.document)
    played.client(asked(5, hello=1))
    [message] = messages(played.take_client())
    assert (message.kind, message.answers, message.more) == (2013, 5, False)


@pytest.mark.parametrize("name", ["hello", "endSessions", "killCursors", "saslStart"])
def test_what_drivers_say_by_themselves_needs_no_recording(name: str) -> None:
    played = replayed(live()).client(asked(**{name: 1}, payload=b"n,,n=app,r=x"))
    assert documents_of(played)[0]["ok"] == 1.0
    assert "unlike" not in played.names
    assert b"quiet" in played.began[0].notes or "quiet" in played.began[0].notes  # type: ignore[union-attr]


def test_a_connection_that_is_live_is_asked_for() -> None:
    play = Playbook(OpeningLayer, decide=lambda _flow: Forward()).client(asked(hello=1))
    play.expect("connect").expect_server(asked(hello=1))


PASSWORD, NONCE = b"secret-word", b"fyko+d2lbbFgONRv9qkxdawL"


def log_in(play: Playbook, password: bytes) -> dict[str, Any]:
    """Log in as a driver does (RFC 7677); return the answer to the proof, checked if it is one."""
    bare = b"n=app,r=" + NONCE
    play.client(asked(saslStart=1, mechanism="SCRAM-SHA-256", payload=b"n,," + bare))
    challenge = documents_of(play)[0]["payload"]
    nonce, salt, count = (part[2:] for part in challenge.split(b","))
    assert nonce.startswith(NONCE)
    final = b"c=biws,r=" + nonce
    talk = b",".join((bare, challenge, final))
    salted = hashlib.pbkdf2_hmac("sha256", password, base64.b64decode(salt), int(count))
    key = hmac.digest(salted, b"Client Key", "sha256")
    signed = hmac.digest(hashlib.sha256(key).digest(), talk, "sha256")
    proof = bytes(a ^ b for a, b in zip(key, signed, strict=True))
    play.client(asked(9, saslContinue=1, payload=final + b",p=" + base64.b64encode(proof)))
    answer = documents_of(play)[0]
    if answer["ok"]:
        mine = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), talk, "sha256")
        assert answer["payload"] == b"v=" + base64.b64encode(mine)
    return answer


def test_nothing_of_a_login_is_kept_and_one_with_a_known_password_is_let_in() -> None:
    play = live()
    start = asked(saslStart=1, mechanism="SCRAM-SHA-256", payload=b"n,,n=app,r=" + NONCE)
    play.client(start).server(
        told(conversationId=1, done=False, payload=b"r=x,s=eA==,i=4096", ok=1.0)
    )
    play.client(asked(8, saslContinue=1, payload=b"c=biws,r=x,p=cHJvb2Y="))
    play.server(told(8, conversationId=1, done=True, payload=b"v=dmVyaWZpZXI=", ok=1.0))
    kept = repr(play.recorded)
    assert all(one not in kept for one in ("s=eA", "cHJvb2Y", "dmVyaW", NONCE.decode()))
    play.client(asked(10, ping=1)).server(told(10))
    played = replayed(play)
    played.known = [b"other", PASSWORD]
    assert log_in(played, PASSWORD)["done"] is True
    assert log_in(replayed(play), b"netcapture")["ok"]
    refused = replayed(play)
    assert log_in(refused, PASSWORD)["code"] == 18
    assert "unlike" in refused.names


def test_a_login_that_was_refused_is_refused_again() -> None:
    play = live().client(
        asked(saslStart=1, mechanism="SCRAM-SHA-256", payload=b"n,,n=app,r=" + NONCE)
    )
    play.server(told(conversationId=1, done=False, payload=b"r=x,s=eA==,i=4096", ok=1.0))
    play.client(asked(8, saslContinue=1)).server(told(8, ok=0.0, code=18, errmsg="no"))
    assert log_in(replayed(play), b"netcapture") == {"ok": 0.0, "code": 18, "errmsg": "no"}


def test_a_cursor_that_sends_all_at_once_is_one_exchange() -> None:
    batches = [{"cursor": {"nextBatch": [n], "id": 1}, "ok": 1.0} for n in range(3)]
    answers = [told(7 if n == 0 else 89 + n, 90 + n, more=n < 2, **batches[n]) for n in range(3)]
    play = live().client(asked(flags=1 << 16, getMore=bson.Int64(1), collection="a"))
    play.server(answers[0]).expect_recorded(0).server(b"".join(answers[1:])).expect_recorded(1)
    assert (play.flow.batch, play.flow.collection) == ([0, 1, 2], "a")
    played = replayed(play).client(asked(4, flags=1 << 16, getMore=bson.Int64(1), collection="a"))
    found = messages(played.take_client())
    assert [(one.answers, one.more) for one in found] == [(4, True), (1, True), (2, False)]


def test_a_write_that_awaits_no_answer() -> None:
    play = live().client(asked(flags=2, insert="a", documents=[{"_id": 1}])).expect_recorded(1)
    play.client(asked(8, ping=1)).server(told(8)).expect_recorded(2)
    replayed(play).client(asked(flags=2, insert="a", documents=[{"_id": 1}])).expect_client(b"")


@pytest.mark.parametrize("how", [0, 2])
def test_compressed_messages(how: int) -> None:
    question = asked(ping=1)
    data = question[16:] if how == 0 else zlib.compress(question[16:])
    sent = compressed(question, how, data)
    play = live().client(sent).expect_server(sent).server(told())
    assert play.flow.question == "ping"
    assert documents_of(replayed(play).client(sent)) == [OK]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (compressed(asked(ping=1), 1, b"?"), "compressed with snappy"),
        (compressed(asked(ping=1), 3, b"?"), "compressed with zstd"),
        (compressed(asked(ping=1), 2, b"??"), "compressed badly"),
        (compressed(asked(ping=1), 2, zlib.compress(bytes(9999))), "of another length"),
        (asked(ping=1)[:-9] + b"\xff" * 9, "a bad document"),
        (asked(ping=1) + HEAD.pack(99, 1, 0, 2010) + bytes(83), "of the kind 2010"),
        (asked(ping=1) + HEAD.pack(1 << 30, 1, 0, 2013), "a message of 1073741824 bytes"),
        (HEAD.pack(26, 1, 0, 2013) + b"\0\0\0\0\0\x99\0\0\0\0", "a document of 153 bytes"),
    ],
)
def test_what_cannot_be_read_makes_a_raw_connection_that_goes_on(sent: bytes, reason: str) -> None:
    play = live().client(sent).expect_server(sent)
    assert reason in play.raw_reason
    play.server(b"more").expect_client(b"more")


def test_an_answer_to_nothing_makes_a_raw_connection() -> None:
    play = live().client(asked(ping=1)).server(told(99)).expect_client(told(99))
    assert play.raw_reason == "an answer to nothing"
    assert play.flow.error.kind == "malformed"


ANSWER = told(cursor={"firstBatch": [{"n": 1}], "id": 0}, ok=1.0)


@pytest.mark.parametrize("end", ["reset", "eof"])
@pytest.mark.parametrize("at", range(len(ANSWER)))
def test_a_server_that_ends_within_its_answer(end: str, at: int) -> None:
    play = live().client(asked(find="a")).server(ANSWER[:at])
    (play.server_reset if end == "reset" else play.server_eof)()
    assert play.flow.error.kind == end
    played = replayed(play).client(asked(find="a")).expect_client(b"")
    assert played.names == ["reset" if end == "reset" else "close"]


@pytest.mark.parametrize("size", [1, 5, 17])
def test_cut_at_any_byte_it_is_the_same(size: int) -> None:
    talk = [
        ("client", queried(1, isMaster=1)),
        ("server", replied(bson.encode(HELLO), 3, 1)),
        ("client", asked(2, insert="a", documents=[{"_id": bson.ObjectId()}]) + asked(3, find="a")),
        ("server", told(2, n=1, ok=1.0) + told(3, 91, cursor={"firstBatch": []}, ok=1.0)),
    ]
    whole, cut = live(), live()
    for side, data in talk:
        getattr(whole, side)(data)
    cut.client(talk[0][1])
    for side, data in talk[1:]:
        for at in range(0, len(data), size):
            getattr(cut, side)(data[at : at + size])
    assert cut.recorded == whole.recorded
    assert len(cut.recorded) == 3
    assert (cut.all_client, cut.all_server) == (whole.all_client, whole.all_server)


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(1 << 63), (1 << 63) - 1),
        st.floats(),
        st.text("aé\0😀", max_size=3),
        st.binary(max_size=5),
        st.just(bson.ObjectId()),
        st.just(dt.datetime(2024, 1, 2, tzinfo=dt.timezone.utc)),
        st.just(bson.Timestamp(1, 2)),
        st.just(bson.Decimal128("1.5")),
        st.just(bson.Regex("a.*")),
        st.just(bson.MinKey()),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text("abc$.", max_size=3), inner, max_size=3),
    ),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.text("abc$", min_size=1, max_size=3), VALUES, max_size=4)


@given(st.lists(DOCUMENTS, max_size=3), st.integers(1, 40))
def test_answers_are_cut_where_they_end_and_written_as_they_were(found: Any, size: int) -> None:
    said = [written(bson.encode(one), 1, 2) for one in found]
    data, splitter = b"".join(said), Splitter()
    assert [
        u for at in range(0, len(data), size) for u in splitter.feed(data[at : at + size])
    ] == said
    assert b"".join(documents.encoded(documents.decoded(m.document)) for m in messages(data)) == (
        b"".join(map(bson.encode, found))
    )
    assert len(documents.rewritten(data, lambda text: text)) == len(data)
    assert messages(documents.rewritten(data, lambda text: text + b"!")) is not None


@given(DOCUMENTS)
def test_a_command_has_values_from_which_it_can_be_read_again(fields: Any) -> None:
    command = documents.decoded(bson.encode({"insert": "a", **fields}))
    values, pairs = documents.values(command, lambda one: one)
    assert (
        documents.values(documents.command(values, pairs) or command, lambda one: one) is not None
    )
    assert values[0] == b'{"insert": "a"}'
    assert len(values) == len(command)


@given(st.binary(max_size=80))
def test_anything_is_read_or_refused(data: bytes) -> None:
    for whole in (data, HEAD.pack(16 + len(data), 1, 0, 2013) + data):
        with contextlib.suppress(Unreadable):
            for unit in Splitter().feed(whole):
                documents.whole(read(unit))
        documents.answers(whole)
        documents.command([data], data)


NOISE = st.lists(
    st.one_of(
        st.binary(max_size=9),
        DOCUMENTS.map(lambda one: asked(**{"ping": 1, **one})),
        DOCUMENTS.map(lambda one: written(bson.encode(one), 9, 7)),
        st.sampled_from([asked(hello=1), told(), told(more=True), ANSWER, queried(isMaster=1)]),
    ),
    max_size=6,
)


@settings(max_examples=200)
@given(said=st.lists(st.tuples(st.sampled_from(["client", "server"]), NOISE), max_size=5))
def test_whatever_is_said_live_passes_unchanged(said: Any) -> None:
    play = live().client(asked(hello=1)).server(told())
    talk_unchanged(play, said)
    assert len(play.recorded) == len(play.began)
