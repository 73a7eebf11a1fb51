"""A recorded conversation is said as it was, and nothing else is accepted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_netcapture.cassettes.miss import Miss
from pytest_netcapture.cassettes.part import Part
from pytest_netcapture.cassettes.script import Cast, DatagramScript, Script
from pytest_netcapture.flows import Body, TcpFlow, Turn


def flow(text, **more):
    """A conversation such as ">ask\\n<answer\\n>$<$": $ is an end, ! a reset."""
    turns, ways = [], {True: b"", False: b""}
    for one in text.split("|"):
        sent, data = one[0] == ">", one[1:].encode()
        end = {b"$": "fin", b"!": "reset"}.get(data, "")
        turns.append(Turn(sent, 0 if end else len(data), 0, end))
        ways[sent] += b"" if end else data
    bodies = {sent: Body(len(data), data) for sent, data in ways.items()}
    return TcpFlow(outgoing=bodies[True], incoming=bodies[False], turns=turns, **more)


class Stage:
    """Scripts over one set of recordings; `taken` are those that were played to their end."""

    def __init__(self, *texts, kind=Script):
        self.flows = [flow(text) if isinstance(text, str) else text for text in texts]
        self.cast = Cast()
        self.taken = []
        self._kind = kind

    def script(self, shared=False):
        parts = [
            Part(number, one, shared=shared)
            for number, one in enumerate(self.flows)
            if number not in self.taken
        ]
        return self._kind(
            self.cast, parts, lambda d: d, began=lambda: None, taken=lambda p: self.took(p.key)
        )

    def took(self, key):
        self.taken.append(key)
        self.cast.forget(key)


def said(answer):
    assert not isinstance(answer, Miss), answer.reason
    return b"".join(answer.content()), answer.end


def test_the_server_speaks_when_what_came_before_it_has_come():
    script = Stage(">one|<1|>two|<2|<$|>$").script()
    assert said(script.heard(b"on")) == (b"", "")
    assert said(script.heard(b"et")) == (b"1", "")
    assert said(script.heard(b"wo")) == (b"2", "fin")
    assert not script.over
    assert said(script.client_ended()) == (b"", "")
    assert script.over


def test_an_end_of_the_clients_is_waited_for():
    script = Stage(">all|>$|<done|<$").script()
    assert said(script.heard(b"all")) == (b"", "")
    assert script.stalled
    assert said(script.client_ended()) == (b"done", "fin")


def test_a_server_that_speaks_first():
    script = Stage("<hello|>x").script()
    assert script.speaks_first
    assert said(script.begin()) == (b"hello", "")


def test_the_first_byte_that_differs_is_named():
    script = Stage(">0123456789abcdefghij|<ok").script()
    said(script.heard(b"0123456789"))
    miss = script.heard(b"abXde")
    assert miss.reason == "byte 12 of what the client says is not the recorded one"
    assert [d.actual for d in miss.differences] == ["61 62 58 64 65", "abXde"]
    assert miss.differences[1].recorded == "abcdefghij"
    assert miss.differences[0].field == "hex from byte 10"


def test_recordings_are_narrowed_byte_by_byte():
    stage = Stage(">GET a|<A", ">GET b|<B", ">GET bc|<C")
    script = stage.script()
    assert said(script.heard(b"GET ")) == (b"", "")
    assert said(script.heard(b"b")) == (b"B", "")
    script.finish()
    assert stage.taken == [1]


def test_while_servers_say_the_same_all_stay():
    stage = Stage("<hi|>1|<one", "<hi|>2|<two", "<ho|>3|<three")
    first, second = stage.script(), stage.script()
    assert said(first.begin()) == said(second.begin()) == (b"hi", "")
    assert said(first.heard(b"2")) == (b"two", "")
    assert said(second.heard(b"1")) == (b"one", "")
    third = stage.script()
    assert said(third.begin()) == (b"ho", "")


def test_a_recording_is_given_up_for_one_that_needs_it():
    stage = Stage("<hi|>1|<one", "<hi|>2|<two")
    first, second = stage.script(), stage.script()
    said(first.begin())
    said(second.begin())
    assert first.part.key == 0
    assert said(second.heard(b"1")) == (b"one", "")
    assert first.part.key == 1


def test_one_connection_too_many():
    stage = Stage("<hi|>1|<one")
    said(stage.script().begin())
    assert stage.script().begin().reason.startswith("used up: every recording")


def test_a_shared_recording_serves_any_number():
    stage = Stage("<hi|>1|<one")
    for _ in range(3):
        script = stage.script(shared=True)
        assert said(script.begin()) == (b"hi", "")
        assert said(script.heard(b"1")) == (b"one", "")


def test_masked_bytes_are_not_compared_and_echoes_follow_them():
    one = flow(">id=0001 end|<re: 0001!", masks=[(3, 7)], echoes=[(4, 3, 4)])
    script = Stage(one).script()
    assert said(script.heard(b"id=9")) == (b"", "")
    assert said(script.heard(b"876 end")) == (b"re: 9876!", "")
    assert isinstance(Stage(one).script().heard(b"ix=0001 end"), Miss)


def test_datagrams_are_whole():
    stage = Stage(">one|<1|<2|>two|<3", kind=DatagramScript)
    script = stage.script()
    assert script.heard(b"one").datagrams() == [b"1", b"2"]
    assert isinstance(script.heard(b"tw"), Miss)
    assert script.heard(b"two").datagrams() == [b"3"]
    assert script.heard(b"one").datagrams() == [b"1", b"2"]
    assert script.heard(b"six").reason == (
        "datagram 5 of the client is new: when recorded, it sent no more"
    )


turns = st.lists(
    st.tuples(st.booleans(), st.binary(min_size=1, max_size=12)), min_size=1, max_size=8
)


@given(turns, st.data())
def test_however_it_is_cut_the_same_is_said(talk, data):
    one = TcpFlow(turns=[Turn(sent, len(piece)) for sent, piece in talk])
    ways = {way: b"".join(p for sent, p in talk if sent is way) for way in (True, False)}
    one.outgoing = Body(len(ways[True]), ways[True])
    one.incoming = Body(len(ways[False]), ways[False])
    script = Stage(one).script()
    heard = said(script.begin())[0]
    rest = ways[True]
    while rest:
        cut = data.draw(st.integers(1, len(rest)))
        heard += said(script.heard(rest[:cut]))[0]
        rest = rest[cut:]
    assert heard == ways[False]
    assert script.over


@given(turns, st.integers(0, 95), st.integers(1, 255))
def test_any_other_byte_is_found(talk, place, change):
    outgoing = bytearray(b"".join(piece for sent, piece in talk if sent))
    if not outgoing:
        return
    one = TcpFlow(turns=[Turn(sent, len(piece)) for sent, piece in talk])
    one.outgoing = Body(len(outgoing), bytes(outgoing))
    incoming = b"".join(piece for sent, piece in talk if not sent)
    one.incoming = Body(len(incoming), incoming)
    place %= len(outgoing)
    outgoing[place] ^= change
    miss = Stage(one).script().heard(bytes(outgoing))
    assert isinstance(miss, Miss)
    assert miss.reason.startswith(f"byte {place} ")


@pytest.mark.parametrize("sizes", [(5,), (0, 99)])
def test_a_record_whose_lengths_lie_ends_in_a_miss(sizes):
    one = TcpFlow(turns=[Turn(True, size) for size in sizes])
    script = Stage(one).script()
    assert isinstance(script.heard(b"abc"), Miss)
