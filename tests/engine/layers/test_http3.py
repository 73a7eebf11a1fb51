"""QUIC transports and HTTP/3 peers against each other in memory: windows, ends, and broken datagrams."""

import pytest

pytest.importorskip("aioquic", reason="aioquic is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_netcapture.engine.authority import Authority
from pytest_netcapture.engine.layers.http2_channel import STREAM_WINDOW
from pytest_netcapture.engine.layers.http2_frames import Code
from pytest_netcapture.engine.layers.http3_peer import Http3Peer
from pytest_netcapture.engine.layers.quic_hello import destination
from pytest_netcapture.engine.layers.quic_transport import Transport, as_client, as_server

NAME = "api.example.com"
REQUEST = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", b"/")]
ANSWER = [(b":status", b"200")]


class Told:
    """A `Handler` that notes what it is told, and keeps the channels."""

    def __init__(self):
        self.events = []
        self.channels = []
        self.size = 0

    def opened(self, channel, fields, end):
        self.channels.append(channel)
        self.events.append(("opened", dict(fields)[b":method"], end))

    def headers(self, channel, fields, end):
        self.events.append(("headers", fields, end))

    def data(self, channel, data, end):
        self.size += len(data)
        if end:
            self.events.append(("end", self.size))

    def was_reset(self, channel, code, reason):
        self.events.append(("reset", code))


class Pair:
    """A client and a server; time goes on a millisecond a round."""

    def __init__(self, tmp_path_factory, authority, *, run=True):
        roots = tmp_path_factory.mktemp("roots") / "ca.pem"
        roots.write_bytes(authority.ca_pem)
        self.time = 1_000_000_000
        self.client = Transport(as_client(NAME, str(roots)))
        self.client.start(self.now() / 1e9)
        self.lost = lambda data: data
        first = self.client.to_send(self.now() / 1e9)
        self.server = Transport(as_server(*authority.leaf((NAME,))), destination(first[0]))
        self.asked, self.answered = Told(), Told()
        self.up = Http3Peer(self.answered, self.now, client=True)
        self.down = Http3Peer(self.asked, self.now, client=False)
        self.up.attach(self.client)
        self.down.attach(self.server)
        for data in first:
            self.down.receive(data)
        if not run:
            return
        self.run()
        assert self.client.established
        assert self.server.established

    def now(self):
        return self.time

    def run(self, rounds=2000):
        """Carry datagrams until there are none."""
        for _ in range(rounds):
            self.time += 1_000_000
            now = self.time / 1e9
            for peer in (self.up, self.down):
                peer.take()
                while peer.pumping:
                    peer.pump()
            to_server, to_client = self.client.to_send(now), self.server.to_send(now)
            if not to_server and not to_client:
                timers = [t for t in (self.client.get_timer(), self.server.get_timer()) if t]
                if not timers or min(timers) > now + 5:
                    return
                self.time = max(self.time, int(min(timers) * 1e9))
                for transport in (self.client, self.server):
                    if transport.get_timer() <= self.time / 1e9:
                        transport.handle_timer(self.time / 1e9)
            for data in to_server:
                self.down.receive(self.lost(data))
            for data in to_client:
                self.up.receive(self.lost(data))
        raise AssertionError("it does not end")


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def pair(tmp_path_factory, authority):
    return Pair(tmp_path_factory, authority)


def ask(pair):
    channel = pair.up.open(None)
    pair.up.send_headers(channel, REQUEST)
    return channel


def test_a_writer_waits_for_its_reader(pair):
    """What is not granted is not sent: one window of it, and no more."""
    channel = ask(pair)
    pair.up.send_body(channel, (bytes(1 << 16) for _ in range(64)))
    pair.up.end(channel)
    pair.run()
    assert STREAM_WINDOW // 2 < pair.asked.size <= STREAM_WINDOW
    granted = 0
    while pair.asked.events[-1][0] != "end":
        (theirs,) = pair.asked.channels
        pair.down.grant(theirs, pair.asked.size - granted)
        granted = pair.asked.size
        pair.run()
        assert pair.asked.size - granted <= STREAM_WINDOW
    assert pair.asked.size == 64 << 16


def test_a_stream_that_waits_does_not_stop_another(pair):
    slow, quick = ask(pair), ask(pair)
    pair.up.send_body(slow, (bytes(1 << 16) for _ in range(64)))
    pair.run()
    pair.up.send_data(quick, b"hello", end=True)
    pair.run()
    assert pair.asked.events[-1][0] == "end"


def test_a_reset_waits_for_what_was_sent_before(pair):
    channel = ask(pair)
    pair.run()
    (theirs,) = pair.asked.channels
    pair.down.send_headers(theirs, ANSWER)
    pair.down.send_data(theirs, bytes(100_000))
    pair.down.reset_behind(theirs, Code.INTERNAL_ERROR)
    pair.run()
    assert pair.answered.events == [("headers", ANSWER, False), ("reset", Code.INTERNAL_ERROR)]
    assert pair.answered.size == 100_000
    assert channel.id not in pair.up.channels


def test_codes_that_http2_has_not_pass_as_they_are(pair):
    channel = ask(pair)
    pair.run()
    pair.up.reset(channel, 0x1234)
    pair.run()
    assert pair.asked.events == [("opened", b"POST", False), ("reset", 0x1234)]


def test_a_server_that_has_answered_may_want_no_more(pair):
    channel = ask(pair)
    pair.run()
    (theirs,) = pair.asked.channels
    pair.down.send_headers(theirs, ANSWER, end=True)
    pair.server.stop_stream(0, 0x100)
    pair.run()
    pair.up.send_data(channel, b"more", end=True)
    pair.run()
    assert pair.answered.events == [("headers", ANSWER, True)]
    assert channel.id not in pair.up.channels


def test_trailers_whose_stream_ends_later(pair):
    channel = ask(pair)
    trailers = [(b"x-sum", b"7")]
    pair.up.send_data(channel, b"content")
    pair.client.h3.send_headers(0, trailers)
    pair.run()
    assert pair.asked.events == [("opened", b"POST", False)]
    pair.client.send_stream_data(0, b"", end_stream=True)
    pair.run()
    assert pair.asked.events[-1] == ("headers", trailers, True)


def test_connection_ids_are_told_before_the_client_can_use_them(tmp_path_factory, authority):
    """A client may go on with a new one at once, and with that its datagrams are found."""
    pair = Pair(tmp_path_factory, authority, run=False)
    told = []
    pair.server.issued = told.append
    for data in pair.server.to_send(pair.now() / 1e9):
        pair.up.receive(data)
    for data in pair.client.to_send(pair.now() / 1e9):
        pair.down.receive(data)
    pair.server.to_send(pair.now() / 1e9)
    assert pair.server.established
    assert len(told) >= 2
    assert len(set(told)) == len(told)


def test_an_end_is_known_at_once(pair):
    pair.client.close(error_code=0x107, reason_phrase="too much")
    for data in pair.client.to_send(pair.now() / 1e9):
        pair.down.receive(data)
    end = pair.server.end
    assert (end.error_code, end.reason_phrase) == (0x107, "too much")
    assert not pair.server.ended_quietly


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_broken_datagrams_break_nothing(data, tmp_path_factory, authority):
    """Bytes are flipped, cut off and made up; streams still arrive, since QUIC sends them again."""
    pair = Pair(tmp_path_factory, authority)
    left = [12]  # of more in a row, the next try would be so late that `run` takes it for the end

    def broken(datagram):
        if not left[0] or not data.draw(st.booleans()):
            return datagram
        left[0] -= 1
        how = data.draw(st.sampled_from(("flip", "cut", "made up", "empty")))
        at = data.draw(st.integers(0, len(datagram) - 1))
        if how == "flip":
            return datagram[:at] + bytes([datagram[at] ^ 0xFF]) + datagram[at + 1 :]
        if how == "cut":
            return datagram[:at]
        return data.draw(st.binary(min_size=1, max_size=200)) if how == "made up" else b""

    pair.lost = broken
    channel = ask(pair)
    pair.up.send_data(channel, bytes(50_000), end=True)
    pair.run()
    assert pair.asked.events == [("opened", b"POST", False), ("end", 50_000)]


@settings(max_examples=200, deadline=None)
@given(
    frames=st.lists(st.binary(max_size=60), max_size=6), stream=st.sampled_from((0, 2, 6, 10, 14))
)
def test_broken_http3_ends_the_connection_and_no_more(frames, stream, tmp_path_factory, authority):
    """Whatever a client writes on its streams: no error of ours, at most an end of the connection."""
    pair = _shared(tmp_path_factory, authority)
    if pair.server.end is not None or pair.client.end is not None:
        _pairs.clear()
        pair = _shared(tmp_path_factory, authority)
    stream += _used[0] * 16
    _used[0] += 1
    for frame in frames:
        pair.client.send_stream_data(stream, frame)
    pair.run()


_pairs = []
_used = [1]


def _shared(tmp_path_factory, authority):
    if not _pairs:
        _used[0] = 1
        _pairs.append(Pair(tmp_path_factory, authority))
    return _pairs[0]
