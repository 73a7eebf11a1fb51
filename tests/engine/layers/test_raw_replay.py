"""A conversation that is played, as the layer sees it."""

from hypothesis import given
from hypothesis import strategies as st
from playbook import Playbook

from pytest_netcapture.cassettes.part import Part
from pytest_netcapture.cassettes.script import Cast, Script
from pytest_netcapture.engine.layers.raw_replay import PATIENCE, RawReplayLayer
from pytest_netcapture.flows import Body, FlowError, TcpFlow, Turn


def recorded(*turns, error=None):
    ways = {way: b"".join(data for sent, data in turns if sent is way and isinstance(data, bytes))
            for way in (True, False)}  # fmt: skip
    return TcpFlow(
        outgoing=Body(len(ways[True]), ways[True]),
        incoming=Body(len(ways[False]), ways[False]),
        turns=[
            Turn(sent, len(data)) if isinstance(data, bytes) else Turn(sent, 0, 0, data)
            for sent, data in turns
        ],
        error=error,
    )


def start(*flows, **options):
    taken = []
    parts = [Part(number, flow) for number, flow in enumerate(flows)]
    script = Script(Cast(), parts, lambda d: d, began=lambda: None, taken=taken.append)
    play = Playbook(lambda context: RawReplayLayer(context, script, "why"), **options)
    play.layer.begin()
    return play, taken


ASK = [(True, b"ask"), (False, b"answer"), (True, "fin"), (False, "fin")]


def test_it_is_recorded_when_both_have_ended():
    play, taken = start(recorded(*ASK))
    play.client(b"a").client(b"sk").expect_client(b"answer")
    play.expect_recorded(0)
    play.client_eof().expect_recorded(1)
    assert play.names == ["close"]
    assert [(m.sent, m.data) for m in play.flow.messages] == [(True, b"ask"), (False, b"answer")]
    assert (play.flow.sent, play.flow.received, play.flow.origin.value) == (3, 6, "played")
    assert len(taken) == 1


def test_a_server_that_ends_first_leaves_the_client_its_side():
    play, _ = start(recorded((False, b"bye"), (False, "fin"), (True, b"and"), (True, "fin")))
    play.expect_client(b"bye").expect("eof_client")
    play.client(b"and").client_eof().expect("close")
    play.expect_recorded(1)


def test_a_reset_follows_what_came_before_it():
    error = FlowError("reset", "by peer", 4)
    play, _ = start(recorded((True, b"ask"), (False, b"half"), (False, "reset"), error=error))
    play.client(b"ask").expect_client(b"half").expect("reset")
    assert (play.flow.error.kind, play.flow.error.after) == ("reset", 4)


def test_one_that_says_another_thing_is_handed_back():
    play, taken = start(recorded(*ASK))
    play.client(b"ax")
    ((name, reason, miss, held, flow),) = play.events
    assert (name, reason, held) == ("unplayed", "why", b"ax")
    assert "byte 1 " in miss.reason
    assert flow is None
    assert taken == []


def test_one_that_was_answered_cannot_go_live():
    play, _ = start(recorded(*ASK, (True, b"more")))
    play.client(b"ask").client(b"mire")
    ((_, _, _, held, flow),) = play.events
    assert held is None
    assert flow.sent_bytes == b"ask"


def test_one_that_only_looks_is_no_failure():
    play, taken = start(recorded(*ASK))
    play.client_eof().expect("close")
    assert (play.began, taken) == ([], [])


def test_one_that_ends_early_is_told():
    play, _ = start(recorded((True, b"a long question"), (False, b"!")))
    play.client(b"a long").client_eof()
    assert "ended after 6 of the 15 bytes" in play.events[-1][2].reason


def test_one_that_waits_in_the_middle_has_some_patience():
    play, _ = start(recorded(*ASK))
    play.client(b"as")
    ((seconds, wake),) = play.timers
    assert seconds == PATIENCE
    play.client(b"k").expect_client(b"answer")
    wake()
    assert play.events == []
    other, _ = start(recorded(*ASK))
    other.client(b"as").timers[-1][1]()
    assert "the client waits after 2 of the 3 bytes" in other.events[-1][2].reason


def test_a_large_answer_is_streamed(tmp_path):
    data = bytes(range(256)) * 2000
    path = tmp_path / "body"
    path.write_bytes(data)
    flow = recorded((True, b"ask"), (False, b""))
    flow.incoming, flow.turns[1].size = Body(len(data), path=str(path)), len(data)
    play, _ = start(flow, spool=tmp_path)
    play.client(b"ask").expect_client(data)


@given(st.lists(st.one_of(st.binary(max_size=6), st.sampled_from(["eof", "reset", "wake"])),
                max_size=8))  # fmt: skip
def test_whatever_a_client_does_it_ends_well(moves):
    """Nothing raises, nothing is recorded twice, nothing is said after the end."""
    play, _ = start(recorded(*ASK), recorded((True, b"as"), (False, b"?"), (False, "reset")))
    for move in moves:
        if isinstance(move, bytes):
            play.client(move or b"ask")
        elif move == "wake":
            for _, wake in play.timers:
                wake()
        else:
            _ = play.client_eof() if move == "eof" else play.client_reset()
    over = [name for name in play.names if name in ("close", "reset", "unplayed")]
    assert len(over) <= 1
