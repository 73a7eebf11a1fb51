"""Rules as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_netcapture.errors import UsageError
from pytest_netcapture.redirect.ebpf_records import CAPTURE_REST, NAMES, encode_name
from pytest_netcapture.redirect.ebpf_targets import Rule, inherited, parse


@pytest.mark.parametrize(
    ("specs", "rules"),
    [
        (["curl"], [Rule("curl", 0, False)]),
        (["!curl"], [Rule("curl", 0, True)]),
        (["1234"], [Rule("", 1234, False)]),
        (
            ["curl, !1234", "wget"],
            [Rule("curl", 0, False), Rule("", 1234, True), Rule("wget", 0, False)],
        ),
        (["", " , "], []),
        (["7zip"], [Rule("7zip", 0, False)]),
    ],
)
def test_what_is_written_is_what_is_meant(specs, rules):
    assert parse(specs).rules == tuple(rules)


@pytest.mark.parametrize(
    ("specs", "flags"),
    [
        ([], CAPTURE_REST),
        (["curl"], NAMES),
        (["!curl"], CAPTURE_REST | NAMES),
        (["12"], 0),
        (["12,!curl"], NAMES),
    ],
)
def test_who_is_not_named_is_captured_without_rules_or_when_the_first_excludes(specs, flags):
    assert parse(specs).flags == flags


@pytest.mark.parametrize("spec", ["!", "!!x", "0", "4194305", "/bin/sh", "x" * 64, "a\0b"])
def test_what_names_nobody_is_refused(spec):
    with pytest.raises(UsageError) as refused:
        parse([spec])
    assert repr(spec) in refused.value.message
    assert refused.value.cure


def test_the_last_rule_that_names_a_process_counts():
    rules = parse(["sh,12,!sh,!12,x"])
    assert rules.naming(12, ["y"]) % 2 == 1
    assert rules.naming(13, ["sh"]) % 2 == 1
    assert rules.naming(13, ["sh", "x"]) % 2 == 0
    assert rules.naming(13, ["y"]) == 0
    assert rules.names()[encode_name("sh")] == rules.naming(13, ["sh"])
    assert rules.processes()[12] == rules.naming(12, [])


def test_what_names_a_process_itself_counts_more_than_what_it_inherits():
    rules = parse(["!12,sh,a,b,c,d"])
    assert inherited(rules.naming(13, ["d"])) < rules.naming(12, [])
    assert inherited(rules.naming(12, [])) % 2 == 1


@given(st.text())
def test_anything_is_read_or_refused(text):
    try:
        rules = parse([text])
    except UsageError:
        return
    assert all(bool(rule.name) != bool(rule.process) for rule in rules.rules)
