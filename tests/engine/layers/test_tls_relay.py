"""A relay of TLS notices how the handshake went, from real handshakes, however they are cut."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator

import pytest
import trustme
from playbook import Playbook

from pytest_netcapture.engine.layers.alerts import OF_CERTIFICATES, alert_in, name_of
from pytest_netcapture.engine.layers.tls_relay import Progress, TlsRelay
from pytest_netcapture.flows import FlowError

CA = trustme.CA()
LEAF = CA.issue_cert("a.example")
CLIENT = CA.issue_cert("client@a.example")
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = [V12, V13]
BLAME = "certificate has expired"


class Shaking:
    """A real client and server; `client` and `server` move one and yield what it sends."""

    def __init__(self, version: ssl.TLSVersion, *, curve: str = "", asks: bool = False) -> None:
        theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        LEAF.configure_cert(theirs)
        CA.configure_trust(theirs)
        theirs.verify_mode = ssl.CERT_OPTIONAL if asks else ssl.CERT_NONE
        theirs.maximum_version = version
        if curve:
            theirs.set_ecdh_curve(curve)
        self.ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._to = {"client": ssl.MemoryBIO(), "server": ssl.MemoryBIO()}
        self._from = {"client": ssl.MemoryBIO(), "server": ssl.MemoryBIO()}
        self._theirs = theirs

    def trust(self) -> Shaking:
        CA.configure_trust(self.ours)
        return self

    def show(self) -> Shaking:
        CLIENT.configure_cert(self.ours)
        return self

    def begin(self) -> Shaking:
        self.tls = {
            "client": self.ours.wrap_bio(
                self._to["client"], self._from["client"], server_hostname="a.example"
            ),
            "server": self._theirs.wrap_bio(
                self._to["server"], self._from["server"], server_side=True
            ),
        }
        return self

    def handshake(self) -> Iterator[tuple[str, bytes]]:
        """Yield who sends what until nobody does."""
        quiet = 0
        side = "client"
        while quiet < 2:
            sent = self._move(side)
            quiet = 0 if sent else quiet + 1
            if sent:
                yield side, sent
            side = "server" if side == "client" else "client"

    def data(self, data: bytes) -> tuple[str, bytes]:
        self.tls["client"].write(data)
        return "client", self._from["client"].read()

    def bye(self) -> tuple[str, bytes]:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls["client"].unwrap()
        return "client", self._from["client"].read()

    def _move(self, side: str) -> bytes:
        with contextlib.suppress(ssl.SSLError):
            self.tls[side].do_handshake()
        sent = self._from[side].read()
        self._to["server" if side == "client" else "client"].write(sent)
        return sent


def relay(blame: str = "") -> Playbook:
    return Playbook(lambda context: TlsRelay(context, "why", sni="a.example", blame=blame))


def play(play: Playbook, *sent: tuple[str, bytes], size: int = 1 << 20) -> Playbook:
    """Pass on what was sent, the client's in pieces of `size`; it arrives as it was."""
    for side, data in sent:
        if side == "client":
            for start in range(0, len(data), size):
                play.client(data[start : start + size])
            play.expect_server(data)
        else:
            play.server(data).expect_client(data)
    return play


def failures(play: Playbook) -> list[tuple[str, str]]:
    return [(f.side, f.detail) for f in play.recorded if f.protocol == "tls"]


def over(play: Playbook) -> Playbook:
    play.client_eof().server_eof()
    assert play.flow.protocol == "tcp"
    return play


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("blame", ["", BLAME])
@pytest.mark.parametrize(
    "shaking",
    [
        lambda: Shaking(V12),
        lambda: Shaking(V13),
        lambda: Shaking(V13, curve="secp521r1"),
        lambda: Shaking(V12, asks=True),
        lambda: Shaking(V13, asks=True),
        lambda: Shaking(V12, asks=True).show(),
        lambda: Shaking(V13, asks=True).show(),
    ],
    ids=["1.2", "1.3", "retry", "1.2 empty", "1.3 empty", "1.2 mutual", "1.3 mutual"],
)
def test_a_client_that_sends_data_is_content(shaking, blame, size) -> None:
    made = shaking().trust().begin()
    relayed = play(relay(blame), *made.handshake(), made.data(b"hi, and more"), size=size)
    assert failures(over(relayed)) == []


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("version", VERSIONS)
def test_one_that_sends_an_alert_is_not(version, size) -> None:
    made = Shaking(version).begin()
    relayed = over(play(relay(), *made.handshake(), size=size))
    assert failures(relayed) == [("client", "unknown_ca")]
    assert failures(over(play(relay(BLAME), *Shaking(version).begin().handshake()))) == [
        ("server", BLAME)
    ]


@pytest.mark.parametrize("politely", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
def test_one_that_only_looks_has_failed_if_the_server_is_at_fault(version, politely) -> None:
    for blame, expected in (("", []), (BLAME, [("server", BLAME)])):
        made = Shaking(version).trust().begin()
        relayed = play(relay(blame), *made.handshake())
        if politely:
            play(relayed, made.bye())
        assert failures(over(relayed)) == expected


def test_an_encrypted_alert_is_one() -> None:
    """Go and Chromium send it so, after a change_cipher_spec (RFC 8446 §D.4); Java pads its own."""
    hello = next(Shaking(V13).begin().handshake())
    flight = ("server", b"\x16\3\3\0\1\2")
    for length in (19, 35):
        sent = b"\x14\3\3\0\1\1" + b"\x17\3\3" + length.to_bytes(2, "big") + b"x" * length
        relayed = over(play(relay(), hello, flight, ("client", sent)))
        assert failures(relayed) == [("client", "an encrypted alert")]


def test_hanging_up_on_the_certificate() -> None:
    shaking = Shaking(V13).begin().handshake()
    hello, flight = next(shaking), next(shaking)
    assert failures(over(play(relay(), hello, flight))) == [
        ("client", "hung up during the handshake")
    ]
    assert failures(over(play(relay(), hello))) == []  # it gave up waiting: nothing was shown


def test_a_servers_failure_is_recorded_before_its_client_can_know() -> None:
    hello = next(Shaking(V13).begin().handshake())
    for data, detail in (
        (b"\x15\3\3\0\2\2\x46", "protocol_version"),
        (b"HTTP/1.1 400 Bad Request\r\n", "no TLS"),
    ):
        relayed = play(relay(), hello, ("server", data))
        assert failures(relayed) == [("server", detail)]
        assert relayed.recorded_by == [(len(data), 1)]
        over(relayed)
    relayed = play(relay(), hello)
    relayed.server_eof().expect_recorded(1).expect("eof_client")
    assert failures(relayed) == [("server", "hung up during the handshake")]
    relayed = play(relay(), hello).server_reset()
    assert failures(relayed) == [("server", "hung up during the handshake")]


def test_a_warning_is_not_the_end() -> None:
    """Some servers say unrecognized_name and go on (RFC 6066 §3)."""
    made = Shaking(V12).trust().begin()
    shaking = made.handshake()
    hello = next(shaking)
    relayed = play(relay(), hello, ("server", b"\x15\3\3\0\2\1\x70"), *shaking, made.data(b"hi"))
    assert failures(over(relayed)) == []


def test_a_server_that_cannot_be_dialled_is_told_by_the_flow() -> None:
    relayed = relay().client(b"\x16\3\1\0\5hello")
    relayed.layer.server_failed(FlowError("refused"))
    assert [flow.protocol for flow in relayed.recorded] == ["tcp"]


def test_progress_is_the_same_at_whatever_byte_it_is_cut() -> None:
    for version in VERSIONS:
        made = Shaking(version).trust().begin()
        sent = [data for side, data in made.handshake() if side == "client"]
        whole = b"".join([*sent, made.data(b"a request")[1]])
        for cut in range(len(whole) + 1):
            progress = Progress()
            progress.feed(whole[:cut])
            progress.feed(whole[cut:])
            assert (progress.steps, progress.alert) == (2, "")


def test_alerts_have_the_names_of_the_standard() -> None:
    """And OpenSSL's reasons for them are understood, whichever version's."""
    names = {
        a.value: a.name.removeprefix("ALERT_DESCRIPTION_").lower() for a in ssl.AlertDescription
    }
    names[90] = "user_canceled"  # OpenSSL spells it otherwise
    ours = {number: name_of(number) for number in names}
    known = {number: name for number, name in ours.items() if not name.startswith("alert ")}
    assert known == {number: names[number] for number in known}
    assert {name_of(n) for n in range(256)} >= OF_CERTIFICATES
    assert alert_in("SSLV3_ALERT_BAD_CERTIFICATE") == "bad_certificate"
    assert alert_in("TLSV13_ALERT_CERTIFICATE_REQUIRED") == "certificate_required"
    assert alert_in("TLSV1_BAD_CERTIFICATE_STATUS_RESPONSE") == "bad_certificate_status_response"
    assert (
        alert_in("[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca (_ssl.c:2580)")
        == "unknown_ca"
    )
    assert alert_in("[Errno 104] Connection reset by peer") == ""
