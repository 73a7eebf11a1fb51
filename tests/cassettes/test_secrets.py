"""Which values are secrets, and how many are remembered."""

from __future__ import annotations

from pytest_netcapture.cassettes.secrets import REMEMBERED, Secrets


def found(secrets, text):
    return [secret for _, _, secret in secrets.find(text)]


def test_values_of_secret_variables_but_not_plain_ones(tmp_path):
    environ = {
        "A_TOKEN": "abc123-def",
        "SHORT_TOKEN": "abc",
        "FLAG_PASSWORD": "disabled",
        "NUMBER_KEY": "12345678",
        "PATH_KEY": str(tmp_path),
        "PLAIN": "visible-value",
        "WORD_PASSWORD": "password",
        "DATABASE_URL": "postgres://u:hunter-22@h/db",
    }
    secrets = Secrets.from_environ(environ)
    assert found(secrets, " ".join(environ.values()).encode()) == [b"abc123-def", b"hunter-22"]


def test_learned_values_are_bounded_and_distinctive():
    secrets = Secrets()
    for value in (b"short", b"password", b"12345678", b"scrubbed-0123456789", b"x" * 5000):
        secrets.learn(value)
    assert secrets.version == 0
    for number in range(REMEMBERED + 10):
        secrets.learn(b"value-%04d-x" % number)
    assert found(secrets, b"value-0000-x") == []
    assert found(secrets, b"value-0073-x") == [b"value-0073-x"]


def test_a_copy_learns_for_itself():
    one = Secrets(["abc-123-def"])
    two = one.copy(["more-values"])
    two.learn(b"learned-77")
    assert found(one, b"abc-123-def more-values learned-77") == [b"abc-123-def"]
    assert len(found(two, b"abc-123-def more-values learned-77")) == 3


def test_overlapping_values_leave_no_rest():
    assert Secrets(["abcdef123", "123xyz789"]).find(b"-abcdef123xyz789-") == [(1, 16, b"abcdef123")]


def test_a_value_that_holds_another():
    assert Secrets(["abcdef", "xx-abcdef-yy"]).find(b"xx-abcdef-yy") == [(0, 12, b"xx-abcdef-yy")]
