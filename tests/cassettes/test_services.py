"""Exchanges with databases and brokers: keys, order, what is scrubbed, how they read."""

from __future__ import annotations

import struct
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_netcapture.cassettes import service_scrub
from pytest_netcapture.cassettes.miss import Miss, MissKind
from pytest_netcapture.flows import FlowError, ServiceFlow, SqlFlow
from pytest_netcapture.postgresql_messages import message, split

DONE = message(b"C", b"SELECT 1\0")


def sql(statement="SELECT 1", *values, answer=DONE, **fields):
    given = {"host": "db", "port": 5432, "session": "app@shop", "step": "execute"}
    return SqlFlow(
        service="postgresql",
        question=statement,
        values=list(values),
        answer=answer,
        **given | fields,
    )


def row(*values):
    parts = [struct.pack(">h", len(values))]
    parts += [struct.pack(">i", len(value)) + value for value in values]
    return message(b"D", b"".join(parts))


def test_one_is_found_by_who_asks_what(record, open_cassette):
    record(sql("SELECT 1"), sql("SELECT 2"), sql("SELECT 1", session="app@other"))
    with closing(open_cassette("none")) as cassette:
        assert cassette.play_service(sql("SELECT 2")).answer == DONE
        assert cassette.play_service(sql(session="app@other")).session == "app@other"
        assert isinstance(cassette.play_service(sql(step="query")), Miss)
        assert isinstance(cassette.play_service(sql(form="1")), Miss)
        assert [flow.statement for flow in cassette.unused] == ["SELECT 1"]


def test_equal_ones_are_played_in_order_each_once(record, open_cassette):
    record(*(sql(answer=answer) for answer in (b"1", b"2")))
    with closing(open_cassette("none")) as cassette:
        assert [cassette.play_service(sql()).answer for _ in range(2)] == [b"1", b"2"]
        miss = cassette.play_service(sql())
    assert miss.kind is MissKind.USED_UP
    assert miss.reason == "used up: 2 of 2 recordings were played"


@pytest.mark.parametrize("step", ["connect", "prepare"])
def test_connecting_and_preparing_may_be_done_more_often(record, open_cassette, step):
    record(sql(step=step))
    with closing(open_cassette("none")) as cassette:
        assert all(isinstance(cassette.play_service(sql(step=step)), SqlFlow) for _ in range(3))
        assert cassette.unused == []


def test_the_nearest_is_named_with_what_differs(record, open_cassette):
    record(sql("SELECT $1", b"apple"), sql("SELECT name FROM items WHERE id = $1", b"1"))
    with closing(open_cassette("none")) as cassette:
        miss = cassette.play_service(sql("SELECT $1", b"pear"))
        assert [(d.field, d.recorded, d.actual) for d in miss.differences] == [
            ("parameter 1", "'apple'", "'pear'")
        ]
        miss = cassette.play_service(sql("SELECT price FROM items WHERE id = $1", b"1"))
        assert [d.field for d in miss.differences] == ["statement"]
        assert miss.nearest.statement == "SELECT name FROM items WHERE id = $1"


def test_a_volatile_value_is_named_and_can_be_left_out(record, open_cassette):
    first, second = (
        b"0d9c1f0e-7a55-4a6d-9a7e-0a3f0c1d2e3f",
        b"5b1f7a52-9d0b-4a52-8a51-7d6c5b4a3f2e",
    )
    record(sql("SELECT $1", first))
    with closing(open_cassette("none")) as cassette:
        miss = cassette.play_service(sql("SELECT $1", second))
    assert miss.kind is MissKind.VOLATILE or "parameter 1" in str(miss.differences)
    with closing(open_cassette("none", match_on=("host",))) as cassette:
        assert isinstance(cassette.play_service(sql("SELECT $1", second, port=7)), SqlFlow)


def test_what_was_sent_is_compared(record, open_cassette):
    record(sql("COPY t FROM STDIN", sent=b"1\n"))
    with closing(open_cassette("none")) as cassette:
        found = cassette.play_service(sql("COPY t FROM STDIN"))
        assert cassette.compare_sent(found, sql(sent=b"1\n")) is None
        miss = cassette.compare_sent(found, sql(sent=b"2\n"))
    assert [(d.recorded, d.actual) for d in miss.differences] == [("1\n", "2\n")]


def test_everything_is_kept(record, open_cassette):
    flow = sql("SELECT $1", None, b"\0\xff", sent=b"s", form="1", notes={"status": b"T"})
    flow.error = FlowError("reset", after=3)
    record(flow)
    with closing(open_cassette("none")) as cassette:
        found = cassette.play_service(sql("SELECT $1", None, b"\0\xff", form="1"))
    for name in ("service", "session", "step", "values", "sent", "answer", "notes", "error"):
        assert getattr(found, name) == getattr(flow, name)


def test_what_is_there_is_not_recorded_again(record, open_cassette):
    record(sql("SELECT 1"))
    with closing(open_cassette("new_episodes")) as cassette:
        cassette.record(sql("SELECT 1"))
        cassette.record(sql("SELECT 1"))
        cassette.record(sql("SELECT 2"))
        assert cassette.save().total == 3


SECRET = "hunter2-hunter2"
STATEMENTS = [
    f"ALTER ROLE app PASSWORD '{SECRET}'",
    f"CREATE USER x WITH LOGIN ENCRYPTED PASSWORD E'{SECRET}'",
    f"create user x identified by '{SECRET}'",
    f"CREATE USER x IDENTIFIED WITH mysql_native_password BY '{SECRET}'",
    f"SET PASSWORD FOR x = PASSWORD('{SECRET}')",
    f"CREATE SUBSCRIPTION s CONNECTION 'host=a password={SECRET}'",
    f"ALTER ROLE app PASSWORD $${SECRET}$$",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_passwords_in_statements_are_scrubbed(record, open_cassette, tmp_path, statement):
    record(sql(statement), sql("SELECT $1", SECRET.encode(), answer=row(SECRET.encode()) + DONE))
    assert SECRET.encode() not in (tmp_path / "c.cassette").read_bytes()
    assert SECRET not in (tmp_path / "c.cassette.txt").read_text()
    with closing(open_cassette("none")) as cassette:
        other = statement.replace(SECRET, "another-password")
        assert isinstance(cassette.play_service(sql(other)), SqlFlow)


def test_an_answer_stays_readable_when_a_value_is_scrubbed(record, open_cassette):
    token = b"ghp_" + b"a1B2" * 9
    record(sql(answer=row(b"1", token, b"x") + DONE))
    with closing(open_cassette("none")) as cassette:
        flow = cassette.play_service(sql())
    assert [kind for kind, _ in split(flow.answer)] == [b"D", b"C"]
    (values,) = flow.rows
    assert (values[0], values[2]) == (b"1", b"x")
    assert values[1].startswith(b"scrubbed-")


@given(st.sampled_from(["postgresql", "mysql", "redis"]), st.binary(max_size=200))
def test_any_answer_comes_through_a_scrubber_that_changes_nothing(service, answer):
    flow = ServiceFlow(service=service, step="query", answer=answer)
    assert service_scrub.in_answer(flow, lambda data: data) == answer


def test_the_text(record, tmp_path):
    columns = b"\0\1id\0" + struct.pack(">ihihih", 0, 0, 23, 4, -1, 0)
    answer = message(b"T", columns) + row(b"7") + DONE
    record(sql("SELECT id FROM items\nWHERE name = $1", b"apple", answer=answer))
    assert (
        (tmp_path / "c.cassette.txt")
        .read_text()
        .endswith(
            """
--- 1. postgresql db:5432 app@shop execute -> SELECT 1
  SELECT id FROM items
  WHERE name = $1
  $1 = apple
  < id
  < 7
"""
        )
    )


def test_a_service_without_a_type_of_its_own_is_a_plain_one(record, open_cassette):
    record(ServiceFlow(service="other", host="h", port=1, question="q", answer=b"a"))
    with closing(open_cassette("none")) as cassette:
        asked = ServiceFlow(service="other", host="h", port=1, question="q")
        assert type(cassette.play_service(asked)) is ServiceFlow
