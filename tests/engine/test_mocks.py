"""Mocks through a real engine: real clients, no server."""

import asyncio
import json
import re
import socket
import subprocess
import threading
import urllib.error
import urllib.request

import pytest
from engine_lab import PLAIN, answer, in_sandbox, serving, settings

from pytest_netcapture import Response, UsageError
from pytest_netcapture.capture import Netcapture
from pytest_netcapture.report.problem import problem_text

HOST = "api.nowhere.example"
URL = f"http://{HOST}/x"


def mocking(function, wanted=PLAIN):
    """Run `function(netcapture, sandbox)` in a sandbox with `wanted` settings."""
    return in_sandbox(lambda sandbox: function(Netcapture(sandbox.scope), sandbox), wanted)


def fetch(url, data=None, **kwargs):
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data, **kwargs), timeout=20
        ) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_host_that_does_not_exist_answers(scheme):
    def check(netcapture, sandbox):
        url = f"{scheme}://{HOST}/v1/charges"
        mock = netcapture.mock("POST", url).respond(201, json={"id": "ch_1"}, headers={"X-A": "b"})
        seen = fetch(url, b"amount=42")
        (flow,) = mock.calls
        assert flow.request.form == [("amount", "42")]
        assert flow.response.headers["x-a"] == "b"
        assert netcapture.dns.one(host=HOST, type="A").origin.value == "mocked"
        netcapture.assert_requested("POST", url, form={"amount": 42}, times=1)
        netcapture.assert_all_mocks_used()
        return seen, flow.origin.value, len(sandbox.problems())

    assert mocking(check) == ((201, b'{"id":"ch_1"}'), "mocked", 0)


@pytest.mark.parametrize(
    ("flag", "scheme", "version"),
    [("--http2", "https", "1.1"), ("--http2-prior-knowledge", "http", "2")],
)
def test_any_program_is_answered(flag, scheme, version):
    def check(netcapture, _):
        netcapture.mock("GET", f"{scheme}://{HOST}/x").respond(text="from nowhere", delay="10ms")
        got = subprocess.run(
            ["curl", "-sS", flag, f"{scheme}://{HOST}/x", "-w", " %{http_version}"],
            capture_output=True,
            text=True,
            timeout=20,
        )
        return got.stdout, got.stderr, netcapture.http.one().process.name

    assert mocking(check) == (f"from nowhere {version}", "", "curl")


def test_answers_are_given_in_order_and_the_last_for_ever():
    def check(netcapture, _):
        mock = netcapture.mock("GET", URL).respond(503, times=2).respond(200).respond(404)
        return [fetch(URL)[0] for _ in range(5)], len(mock.calls)

    assert mocking(check) == ([503, 503, 200, 404, 404], 5)


def test_the_first_mock_that_matches_and_is_not_used_up_answers():
    def check(netcapture, _):
        netcapture.mock("GET", URL, headers={"x-key": "1"}).respond(text="key")
        netcapture.mock("GET", f"http://{HOST}/*").respond(text="once", times=1)
        netcapture.mock(host="*.nowhere.example").respond(text="rest")
        return [fetch(URL)[1], fetch(URL, headers={"X-Key": "1"})[1], fetch(URL)[1]]

    assert mocking(check) == [b"once", b"key", b"rest"]


def test_a_mock_without_answers_answers_200():
    assert mocking(lambda n, _: (n.mock("GET", URL), fetch(URL))[1]) == (200, b"")


def test_bodies_are_criteria_too():
    def check(netcapture, _):
        netcapture.mock("POST", URL, json={"n": re.compile("^1")}).respond(text="one")
        netcapture.mock("POST", URL, json={"n": int}).respond(text="number")
        netcapture.mock("POST", URL, json={"n": {"m": (1, 2)}}, exact=True).respond(text="exact")
        netcapture.mock("POST", URL).respond(400)
        bodies = [{"n": "12"}, {"n": 7}, {"n": {"m": [1, 2]}}, {"n": {"m": [1, 2]}, "o": 1}]
        return [fetch(URL, json.dumps(body).encode())[1] for body in bodies]

    assert mocking(check) == [b"one", b"number", b"exact", b""]


def test_a_streamed_body_comes_in_its_pieces():
    def check(netcapture, _):
        pieces = (f"data: {n}\n\n" for n in range(3))
        netcapture.mock("GET", URL).respond(
            stream=pieces, headers={"Content-Type": "text/event-stream"}
        )
        with socket.create_connection((HOST, 80), timeout=20) as sock:
            sock.sendall(f"GET /x HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            with sock.makefile("rb") as file:
                return file.read().partition(b"\r\n\r\n")[2]

    piece = b"9\r\ndata: %d\n\n\r\n"
    assert mocking(check) == b"".join(piece % n for n in range(3)) + b"0\r\n\r\n"


def test_a_delay_is_waited_for_and_others_are_served_meanwhile():
    """The slow answer is asked for first and comes last: nothing is timed."""

    def check(netcapture, sandbox):
        netcapture.mock("GET", f"http://{HOST}/slow").respond(text="slow", delay=0.5)
        netcapture.mock("GET", f"http://{HOST}/fast").respond(text="fast")
        order = []
        slow = threading.Thread(target=lambda: order.append(fetch(f"http://{HOST}/slow")[1]))
        slow.start()
        sandbox.wait(lambda: netcapture.http.filter(path="/slow"))
        order.append(fetch(f"http://{HOST}/fast")[1])
        slow.join(20)
        return order

    assert mocking(check) == [b"fast", b"slow"]


@pytest.mark.parametrize("how", ["unmatched", "used up", "pass_through", "returned None"])
def test_what_no_mock_answers_reaches_the_server(how):
    def check(netcapture, sandbox):
        path = "/other" if how == "unmatched" else "/x"
        mock = netcapture.mock("GET", f"http://{HOST}/x")
        if how == "pass_through":
            mock.pass_through()
        elif how == "returned None":
            mock.respond_with(lambda request: None)
        else:
            mock.respond(text="mocked", times=1)
        first = fetch(URL)[1] if how == "used up" else b""
        last = fetch(f"http://{HOST}{path}")[1]
        return first, last, netcapture.http.last.origin.value, len(mock.calls)

    with serving(answer(b"live")) as server:
        got = mocking(check, settings(mappings=[f"{HOST}={server.at}"]))
    calls = 0 if how == "unmatched" else 1
    assert got == (b"mocked" if how == "used up" else b"", b"live", "live", calls)


def test_a_server_that_speaks_first_is_heard_at_a_mocked_host():
    def banner(conn):
        conn.sendall(b"220 hello\r\n")
        conn.recv(1)

    def check(netcapture, sandbox):
        netcapture.mock("GET", host=HOST)
        with socket.create_connection((HOST, 25), timeout=20) as sock:
            return sock.recv(100), len(sandbox.problems())

    with serving(banner) as server:
        assert mocking(check, settings(mappings=[f"{HOST}={server.at}"])) == (b"220 hello\r\n", 0)


def test_blocked_networks_and_replay_do_not_hinder_mocks(tmp_path):
    def check(netcapture, sandbox):
        netcapture.mock("GET", URL).respond(text="mocked")
        return fetch(URL)[1], len(sandbox.problems())

    path = tmp_path / "a.cassette"
    path.write_bytes(b"")
    path.unlink()
    assert mocking(check, settings(block=True)) == (b"mocked", 0)
    assert mocking(check, settings(cassette=path, mode="once")) == (b"mocked", 0)
    assert not path.exists()
    assert mocking(check, settings(cassette=path, mode="none")) == (b"mocked", 0)


def test_other_requests_to_a_mocked_host_are_blocked_when_the_network_is():
    def check(netcapture, sandbox):
        netcapture.mock("GET", URL).respond(text="mocked")
        with pytest.raises(OSError):
            fetch(f"http://{HOST}/other")
        return [(p.kind, p.flow.request.path) for p in sandbox.problems()]

    assert mocking(check, settings(block=True)) == [("blocked", "/other")]


@pytest.mark.parametrize("block", [False, True])
def test_a_mock_that_names_no_host_answers_for_any(block):
    def check(netcapture, sandbox):
        netcapture.mock("GET", "/v1/x").respond(text="anywhere")
        return [fetch(f"{s}://{HOST}/v1/x")[1] for s in ("http", "https")], sandbox.problems()

    assert mocking(check, settings(block=block)) == ([b"anywhere"] * 2, [])


def test_programs_of_a_test_share_its_mocks():
    def check(netcapture, _):
        mock = netcapture.mock("GET", URL).respond(text="mocked")
        done = netcapture.run(["curl", "-sS", URL], capture_output=True, text=True)
        return done.stdout, len(mock.calls), mock.calls.one().process.name

    assert mocking(check) == ("mocked", 1, "curl")


def answering(request):
    return Response(201, json={"path": request.path, "sent": request.json()})


async def answering_slowly(request):
    await asyncio.sleep(0)
    return answering(request)


@pytest.mark.parametrize("function", [answering, answering_slowly])
def test_a_callable_answers_from_the_test_process(function):
    def check(netcapture, _):
        mock = netcapture.mock("POST", f"https://{HOST}/*").respond_with(function)
        got = fetch(f"https://{HOST}/a", b"[1]"), fetch(f"https://{HOST}/b", b"[2]")
        return *got, len(mock.calls)

    assert mocking(check) == (
        (201, b'{"path":"/a","sent":[1]}'),
        (201, b'{"path":"/b","sent":[2]}'),
        2,
    )


def test_a_callable_criterion_is_asked_of_the_test_process():
    def check(netcapture, _):
        seen = []
        odd = netcapture.mock(
            lambda flow: seen.append(flow.url) or flow.request.path.endswith("1"), host=HOST
        )
        odd.respond(text="odd")
        netcapture.mock(host=HOST).respond(text="even")
        got = [fetch(f"http://{HOST}/{n}")[1] for n in (1, 2)]
        return got, seen, len(odd.calls)

    assert mocking(check) == (
        [b"odd", b"even"],
        [f"http://{HOST}/1", f"http://{HOST}/2"],
        1,
    )


@pytest.mark.parametrize("where", ["answer", "criterion"])
def test_a_callable_that_raises_fails_the_test_and_the_client(where):
    def broken(_):
        raise LookupError("no such thing")

    def check(netcapture, sandbox):
        if where == "answer":
            netcapture.mock("GET", URL).respond_with(broken)
        else:
            netcapture.mock("GET", URL, path=broken).respond(200)
        status, body = fetch(URL)
        (problem,) = sandbox.problems()
        text = problem_text(problem)
        return status, b"no such thing" in body, problem.kind, text

    status, told, kind, text = mocking(check)
    assert (status, told, kind) == (500, True, "mock")
    assert "LookupError: no such thing" in text
    assert 'raise LookupError("no such thing")' in text
    assert "answering.py" not in text


def test_a_callable_that_returns_nonsense_is_named():
    def check(netcapture, sandbox):
        netcapture.mock("GET", URL).respond_with(lambda request: {"a": 1})
        return fetch(URL)[0], sandbox.problems()[0].reason

    status, reason = mocking(check)
    assert status == 500
    assert "returned {'a': 1}" in reason
    assert "return pytest_netcapture.Response" in reason


def test_no_thread_is_there_unless_something_must_be_asked():
    def check(netcapture, sandbox):
        netcapture.mock("GET", URL, json={"a": [re.compile("b"), int]}, port={80, 81}).respond()
        before = threading.active_count()
        netcapture.mock("GET", URL).respond_with(answering)
        after = threading.active_count()
        sandbox.session.end(sandbox.scope)
        ended = threading.active_count()
        sandbox.scope = sandbox.session.begin("second", PLAIN)
        return before, after, ended

    assert mocking(check) == (1, 2, 1)


def test_what_was_not_used_is_named():
    def check(netcapture, _):
        netcapture.mock("GET", URL).respond(503, times=3).respond_with(answering)
        netcapture.mock("PUT", URL)
        fetch(URL)
        with pytest.raises(AssertionError) as caught:
            netcapture.assert_all_mocks_used()
        return str(caught.value)

    text = mocking(check)
    assert "expected every mock to be used, 2 were not" in text
    assert f"GET {URL}, made at test_mocks.py:" in text
    assert "not given: answer 1 (503) 2 times, answer 2 (callable)" in text
    assert f"PUT {URL}, made at" in text
    assert ": never used" in text


MISTAKES = {
    "wrong name": (lambda m: m().respond(200, jsn={}), "unknown argument 'jsn'", "'json'"),
    "wrong criterion": (lambda m: m(hots="x"), "unknown criterion 'hots'", "'host'"),
    "two bodies": (lambda m: m().respond(json=1, text="a"), "json and text are both bodies", "one"),
    "no status": (lambda m: m().respond("200"), "'200' is not a status", "number"),
    "interim": (lambda m: m().respond(101), "101 is no final answer", "200"),
    "no json": (lambda m: m().respond(json=object()), "respond: json", "JSON"),
    "text bytes": (lambda m: m().respond(text=b"a"), "is not a string", "content="),
    "content text": (lambda m: m().respond(content="a"), "str is not bytes", "text="),
    "no pieces": (lambda m: m().respond(stream="abc"), "not several pieces", "strings"),
    "a piece": (lambda m: m().respond(stream=[1]), "1 is not a piece", "strings"),
    "header": (lambda m: m().respond(headers={"a b": "c"}), "'a b' is not a header's name", "name"),
    "value": (lambda m: m().respond(headers={"a": "b\n"}), "headers.a", "value"),
    "headers": (lambda m: m().respond(headers=3), "3 is not a name and a value", "name"),
    "delay": (lambda m: m().respond(delay="soon"), "'soon' is not a time", "200ms"),
    "times": (lambda m: m().respond(times=0), "times=0 is not a number of times", "1"),
    "a response": (lambda m: m().respond_with(Response(200)), "cannot be called", ".respond("),
    "no function": (lambda m: m().respond_with(200), "200 cannot be called", "function"),
    "body of a 204": (lambda m: m().respond(204, json={}), "a 204 has no body", "json="),
    "status asked": (lambda m: m(status=200), "a request has no status", "respond(status)"),
    "loopback": (lambda m: m("GET", "http://localhost:8000/"), "loopback", "capture"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_errors_at_the_call(name):
    mistake, what, cure = MISTAKES[name]

    class Source:
        set_mock = staticmethod(lambda mock: None)
        settings = staticmethod(lambda: PLAIN)

    with pytest.raises(UsageError) as caught:
        mistake(Netcapture(Source()).mock)
    assert what in caught.value.message
    assert cure in caught.value.cure


def test_loopback_is_mocked_where_it_is_captured():
    def check(netcapture, _):
        netcapture.mock("GET", "http://localhost:8123/").respond(text="here")
        return fetch("http://localhost:8123/")[1]

    assert mocking(check, settings(capture_loopback=True)) == b"here"
