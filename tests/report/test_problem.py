"""The section of a failed test that says what traffic was in the way, whole."""

from __future__ import annotations

from pytest_netcapture.flows import (
    Body,
    Difference,
    HttpFlow,
    HttpRequest,
    HttpResponse,
    Origin,
    Problem,
    Process,
    TcpFlow,
)
from pytest_netcapture.report.problem import problem_text, problem_title
from pytest_netcapture.stacks import Frame

PYTHON = Process(1234, "python", ("/opt/v/bin/python", "-m", "pytest"))


def exchange(path, response=None, **fields):
    request = HttpRequest(method="GET", scheme="https", host="a.test", port=443, target=path)
    return HttpFlow(request=request, response=response, **fields)


def test_unmatched(tmp_path):
    file = tmp_path / "test_users.py"
    file.write_text("def test_user():\n    user = client.get('/users/43')\n")
    problem = Problem(
        kind="unmatched",
        reason="never recorded in cassettes/test_users/test_user.cassette",
        flow=exchange("/users/43", origin=Origin.UNMATCHED, process=PYTHON),
        nearest=exchange(
            "/users/42", HttpResponse(status=200, body=Body(size=310)), process=PYTHON
        ),
        differences=[
            Difference("path", "/users/42", "/users/43"),
            Difference("query.at", "2024-05-01", "2025-01-01", volatile="date"),
        ],
        advice="record it: --netcapture-record-mode=new_episodes\nor match without query: match_on=[…]",
    )
    text = problem_text(problem, [Frame(str(file), 2, "test_user")], str(tmp_path))
    assert text == (
        "unmatched: GET https://a.test/users/43\n"
        "  why      never recorded in cassettes/test_users/test_user.cassette\n"
        "  made by  python (pid 1234)\n"
        "           /opt/v/bin/python -m pytest\n"
        "  from     test_users.py:2 in test_user\n"
        "               user = client.get('/users/43')\n"
        "  nearest  GET https://a.test/users/42 → 200 310 B\n"
        "           (- recorded, + actual)\n"
        "             path      - /users/42\n"
        "                       + /users/43\n"
        "             query.at  - 2024-05-01\n"
        "                       + 2025-01-01  (date: only a volatile value differs)\n"
        "  do       record it: --netcapture-record-mode=new_episodes\n"
        "           or match without query: match_on=[…]"
    )


def test_blocked():
    flow = TcpFlow(host="evil.test", port=443, origin=Origin.BLOCKED)
    problem = Problem(kind="blocked", reason="not allowed", flow=flow, advice="allow it: evil.test")
    assert problem_text(problem) == (
        "blocked: TCP evil.test:443\n"
        "  why      not allowed\n"
        "  made by  a process that has ended\n"
        "  do       allow it: evil.test"
    )


def test_without_a_flow():
    problem = Problem(kind="cassette", reason="a.cassette: bad CRC at 912", advice="restore it")
    assert problem_text(problem) == "cassette: a.cassette: bad CRC at 912\n  do       restore it"
    assert problem_title(problem) == "cassette: a.cassette: bad CRC at 912"


def test_what_came_off_the_wire_moves_no_terminal_and_is_bounded():
    noisy = Process(1, "x\x1b]0;", ("y\x1b[2J" * 500,))
    problem = Problem(kind="blocked", reason="r\x07", flow=exchange("/\x1b[H" * 900, process=noisy))
    frames = [Frame("/nowhere.py", n, "f") for n in range(50)]
    text = problem_text(problem, frames)
    assert text.replace("\n", "").isprintable()
    assert "… 45 outer frames" in text
    assert max(map(len, text.splitlines())) < 200
