"""Who says nothing, or not enough: what is kept of a connection that never got a protocol."""

from playbook import Playbook

from pytest_netcapture.engine.layers.opening import OpeningLayer

SETTINGS = bytes((0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100))


def test_an_http2_server_whose_client_says_nothing_is_no_conversation_of_its_own():
    """Clients race two connections and drop one; played, its greeting would meet the other."""
    play = Playbook(OpeningLayer, has_server=True).server(SETTINGS).client_eof()
    (flow,) = play.began
    assert (flow.reason, flow.received, flow.turns) == ("the client said nothing", 15, [])


def test_another_server_that_speaks_first_is_one():
    play = Playbook(OpeningLayer, has_server=True).server(b"* OK hello there\r\n").client_eof()
    (flow,) = play.began
    assert flow.turns
