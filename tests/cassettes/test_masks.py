"""What may vary is found, and no more than that."""

from hypothesis import given
from hypothesis import strategies as st

from pytest_netcapture.cassettes.masks import (
    blanked,
    distance,
    first_difference,
    found_by,
    joined,
    learn,
    shape,
)
from pytest_netcapture.flows import Body, TcpFlow, Turn


def flow(*said):
    """A conversation: bytes of the client's, and ("server's",) in a tuple."""
    turns, ways = [], {True: b"", False: b""}
    for one in said:
        sent, data = (False, one[0]) if isinstance(one, tuple) else (True, one)
        turns.append(Turn(sent, len(data)))
        ways[sent] += data
    bodies = {sent: Body(len(data), data) for sent, data in ways.items()}
    return TcpFlow(outgoing=bodies[True], incoming=bodies[False], turns=turns)


def test_spans_that_touch_are_one():
    assert joined([(4, 6), (0, 2), (2, 3), (5, 9), [12, 13]]) == [(0, 3), (4, 9), (12, 13)]


def test_given_expressions_find_their_groups():
    data = b"id=17;stamp=0001 end"
    assert found_by([r"\d{4}", "id=([0-9]+);"], data) == [(12, 16), (3, 5)]
    assert found_by(["x*"], data) == []


def test_what_is_masked_is_blank_wherever_a_piece_begins():
    assert blanked(b"abcdef", 10, [(0, 11), (13, 14), (15, 99)]) == b"\0bc\0e\0"


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_the_first_difference(one, other):
    at = first_difference(one, other)
    assert one[:at] == other[:at]
    assert one[at : at + 1] != other[at : at + 1] or at == len(one) == len(other)


def test_text_is_masked_by_the_word():
    masks, _ = learn(flow(b"time 1700000001 now"), flow(b"time 1700000002 now"))
    assert masks == [(5, 15)]


def test_binary_is_masked_by_words_of_its_turn():
    old = flow(b"\xff\x00", (b"?",), b"\x01" + bytes(7) + b"\x00\x00\x00\x07")
    new = flow(b"\xff\x00", (b"?",), b"\x01" + bytes(7) + b"\x00\x00\x03\x09")
    assert learn(old, new)[0] == [(10, 14)]


def test_what_was_learned_before_stays():
    old, new = flow(b"a 1111 b 2222"), flow(b"a 1111 b 3333")
    old.masks = [(2, 6)]
    assert learn(old, new)[0] == [(2, 6), (9, 13)]


def test_what_the_server_repeats_is_an_echo():
    old = flow(b"id=aa01\n", (b"ok aa01\n",))
    new = flow(b"id=bb77\n", (b"ok bb77\n",))
    assert learn(old, new) == ([(3, 7)], [(3, 3, 4)])


def test_what_stands_elsewhere_is_no_echo():
    old = flow(b"id=aa01\n", (b"ok aa01\n",))
    new = flow(b"id=bb77\n", (b"oki bb77\n",))
    assert learn(old, new)[1] == []


def test_two_conversations_are_not_one():
    assert distance(flow(b"GET a"), flow(b"GET b")) == 1
    assert distance(flow(b"GET a"), flow(b"GET aa")) == -1
    assert distance(flow(b"completely"), flow(b"different!")) == -1
    assert distance(flow(b"one", (b"x",), b"two"), flow(b"onetwo")) == -1
    assert distance(flow(b"one", (b"x",)), flow(b"one", (b"longer",))) == 0


def test_turns_cut_by_waits_have_one_shape():
    whole = [Turn(True, 5), Turn(False, 2), Turn(True, 0, 0, "fin")]
    cut = [Turn(True, 2), Turn(True, 3, 4), Turn(False, 2), Turn(True, 0, 7, "fin")]
    assert shape(whole) == shape(cut)


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=5), st.data())
def test_both_recordings_match_what_was_learned(said, data):
    other = [bytearray(one) for one in said]
    for one in other:
        for _ in range(data.draw(st.integers(0, 3))):
            one[data.draw(st.integers(0, len(one) - 1))] = data.draw(st.integers(0, 255))
    parts = [x for one in said for x in (one, (b"ok",))]
    changed = [x for one in other for x in (bytes(one), (b"ok",))]
    old, new = flow(*parts), flow(*changed)
    masks, _ = learn(old, new)
    assert blanked(old.sent_bytes, 0, masks) == blanked(new.sent_bytes, 0, masks)
    assert masks == joined(masks)
    if old.sent_bytes == new.sent_bytes:
        assert masks == []
