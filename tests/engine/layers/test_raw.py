"""An opaque connection: relayed, counted, recorded once."""

from __future__ import annotations

from playbook import Playbook

from pytest_netcapture.engine.layers.raw import RawLayer
from pytest_netcapture.flows import FlowError


def playbook() -> Playbook:
    return Playbook(lambda context: RawLayer(context, "why", sni="a.example"))


def test_bytes_pass_and_are_counted() -> None:
    play = playbook()
    play.client(b"abc").expect_server(b"abc").server(b"hello").expect_client(
        b"hello"
    ).expect_recorded(0)
    play.client_eof().expect("eof_server").server_eof().expect("close").expect_recorded(1)
    flow = play.flow
    assert (flow.sent, flow.received, flow.sni, flow.reason) == (3, 5, "a.example", "why")
    assert flow.error is None


def test_the_server_may_end_first() -> None:
    play = playbook()
    play.server_eof().expect("eof_client").client(b"x").expect_server(b"x").client_eof().expect(
        "close"
    )


def test_a_reset_is_recorded_and_passed_on() -> None:
    play = playbook()
    play.server(b"ab").server_reset().expect("reset").expect_recorded(1)
    assert play.flow.error == FlowError("reset", "by the server", 2)
    play.client_reset().expect_recorded(1)


def test_a_client_that_resets() -> None:
    playbook().client_reset().expect("close").expect_recorded(1)


def test_an_upstream_that_cannot_be_reached() -> None:
    play = playbook().client(b"x")
    play.layer.server_failed(FlowError("refused"))
    play.expect("reset").expect_recorded(1)
