"""What the SMTP layer does, line by line; TLS and a real server are in tests/services."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import Playbook, talk_unchanged

from pytest_netcapture.cassettes.services import canonical_sent
from pytest_netcapture.engine.layers.layer import Deny, Play
from pytest_netcapture.engine.layers.smtp import SmtpLayer
from pytest_netcapture.flows import MailFlow, Origin

HELLO = [
    ("server", b"220 mx ready\r\n"),
    ("client", b"EHLO me\r\n"),
    ("server", b"250-mx\r\n250 OK\r\n"),
]
MAIL = [
    ("client", b"MAIL FROM:<a@x> SIZE=9\r\nrcpt to:<b@x>\r\nDATA\r\n"),
    ("server", b"250 OK\r\n250 OK\r\n354 go\r\n"),
    ("client", b"Subject: hi\r\n\r\nhello\r\n..\r\n.\r\n"),
    ("server", b"250 queued\r\n"),
]


def begun(**options: Any) -> Playbook:
    play = Playbook(SmtpLayer, **options)
    play.layer.begin()  # type: ignore[attr-defined]
    return play


def live(*talk: tuple[str, bytes], size: int = 1 << 20) -> Playbook:
    play = begun(has_server=True)
    for side, data in talk:
        for at in range(0, len(data), size):
            getattr(play, side)(data[at : at + size])
    return play


class Cassette:
    def __init__(self, flows: list[Any]) -> None:
        self.left = list(flows)

    def decide(self, flow: Any) -> Play | Deny:
        for one in self.left:
            if (one.step, one.question, one.values) == (flow.step, flow.question, flow.values):
                return Play(exchange=one, error=one.error)
        return Deny(Origin.UNMATCHED)


def replayed(recorded: Playbook) -> Playbook:
    return begun(decide=Cassette(recorded.recorded).decide)


def test_a_mail_is_an_exchange_that_is_recorded_before_it_is_answered() -> None:
    play = live(*HELLO, *MAIL)
    assert play.recorded_by[-1][1] == 6
    mail = play.flow
    assert (mail.sender, mail.recipients, mail.subject) == ("a@x", ["b@x"], "hi")
    assert mail.sent == b"Subject: hi\n\nhello\n.\n"
    assert mail.text == "hello\n.\n"
    played = replayed(play)
    for side, data in HELLO + MAIL:
        if side == "client":
            played.client(data)
        else:
            played.expect_client(data)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_cut_at_every_byte_it_is_the_same(size: int) -> None:
    whole, cut = live(*HELLO, *MAIL), live(*HELLO, *MAIL, size=size)
    assert cut.recorded == whole.recorded
    assert (cut.all_client, cut.all_server) == (whole.all_client, whole.all_server)


def test_an_empty_mail() -> None:
    play = live(
        *HELLO, *MAIL[:2], ("client", b".\r\nQUIT\r\n"), ("server", b"250 x\r\n221 bye\r\n")
    )
    assert [flow.step for flow in play.recorded[-2:]] == ["message", "connect"]
    assert play.recorded[-2].sent == b""


def test_a_login_is_left_out() -> None:
    talk = [
        ("client", b"AUTH LOGIN\r\n"),
        ("server", b"334 VXNlcm5hbWU6\r\n"),
        ("client", b"c2VjcmV0LXVzZXI=\r\n"),
        ("server", b"334 UGFzc3dvcmQ6\r\n"),
        ("client", b"c2VjcmV0LXdvcmQ=\r\n"),
        ("server", b"235 in\r\n"),
        ("client", b"AUTH PLAIN AHNlY3JldA==\r\n"),
        ("server", b"503 again?\r\n"),
    ]
    play = live(*HELLO, *talk)
    assert b"c2Vjcm" not in repr(play.recorded).encode()
    assert b"AHNlY3" not in repr(play.recorded).encode()
    asked = [flow.question for flow in play.recorded[2:]]
    assert asked == ["AUTH LOGIN", "(response)", "(response)", "AUTH PLAIN"]


def test_what_is_not_recorded_is_refused() -> None:
    play = replayed(live(*HELLO)).expect_client(HELLO[0][1])
    play.client(b"MAIL FROM:<a@x>\r\n")
    assert play.take_client().startswith(b"554 netcapture: no recording answers this: MAIL")


@pytest.mark.parametrize(
    ("side", "said"),
    [
        ("client", b"USER anonymous\r\n"),
        ("client", b"BDAT 3 LAST\r\nabc"),
        ("server", b"hello\r\n"),
    ],
)
def test_what_is_not_understood_is_relayed(side: str, said: bytes) -> None:
    play = live(*HELLO, (side, said))
    assert play.raw_reason
    assert (play.all_server if side == "client" else play.all_client).endswith(said)


@pytest.mark.parametrize("at", range(len(MAIL)))
def test_a_server_that_resets(at: int) -> None:
    play = live(*HELLO, *MAIL[:at], ("client", b"NOOP\r\n" if at != 2 else b"")).server_reset()
    assert len(play.recorded) == len(play.began)
    assert play.names[-1] == "reset"


def test_starttls_is_told_when_it_is_agreed_to() -> None:
    play = live(*HELLO, ("client", b"STARTTLS\r\n"))
    smtp = play.layer.smtp  # type: ignore[attr-defined]
    assert not smtp.encrypts
    play.server(b"220 go\r\n")
    assert smtp.encrypts
    assert not smtp.beyond
    assert smtp.said == [b"EHLO me\r\n", b"STARTTLS\r\n"]


def test_what_the_making_of_a_mail_gives_is_overlooked() -> None:
    def mail(date: str, boundary: str) -> MailFlow:
        head = f"Date: {date}\nMessage-ID:\n <{date}@x>\nTo: a@x\n"
        body = f'Content-Type: multipart/mixed; boundary="{boundary}"\n\n--{boundary}\nhi {date}\n'
        return MailFlow(service="smtp", sent=(head + body).encode())

    assert canonical_sent(mail("1", "======1")) != canonical_sent(mail("2", "======1"))
    one, other = mail("1", "======1"), mail("1", "======2")
    other.sent = other.sent.replace(b"Date: 1", b"Date: 2").replace(b"<1@x>", b"<2@x>")
    assert canonical_sent(one) == canonical_sent(other)


LINES = st.sampled_from(
    [data for _, data in HELLO + MAIL]
    + [b"AUTH LOGIN\r\n", b"334 x\r\n", b".\r\n", b"STARTTLS\r\n"]
)
NOISE = st.lists(st.one_of(LINES, st.binary(max_size=9)), max_size=8)


@settings(max_examples=200)
@given(said=st.lists(st.tuples(st.sampled_from(["client", "server"]), NOISE), max_size=6))
def test_whatever_is_said_live_passes_unchanged(said: Any) -> None:
    play = live()
    talk_unchanged(play, said)
    assert len(play.recorded) == len(play.began)
    for flow in play.recorded:
        assert isinstance(str(flow), str)
