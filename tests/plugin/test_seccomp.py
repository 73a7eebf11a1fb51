"""Where no user namespace may be made, capture goes on under a seccomp filter: the main job too."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from plugin_lab import HOST, REDIRECTOR, TIMEOUT, URL, Project, Server, receipt_of

pytestmark = pytest.mark.skipif(
    bool(REDIRECTOR), reason="not in CI: another redirector is asked for"
)

FORBIDDING = str(Path(__file__).parent / "forbidding.py")
SECCOMP = "--netcapture-redirector=seccomp"
PLACES = ["filter", "limit", "yama", "podman"]

CLIENTS = """
    import asyncio, aiohttp, httpx, requests
    pytestmark = pytest.mark.cassette

    def test_requests(netcapture):
        assert requests.get(URL + "/a", timeout=20).json()["path"] == "/a"
        netcapture.assert_requested("GET", URL + "/a", times=1)
        assert "api.example.com" in netcapture.dns.names
        assert netcapture.http.one(path="/a").process.pid == os.getpid()

    def test_a_session_posts(netcapture):
        with requests.Session() as session:
            for n in range(3):
                answer = session.post(URL + "/p", json={"n": n}, timeout=20)
                assert json.loads(answer.json()["body"]) == {"n": n}
        assert len(netcapture.http) == 3

    def test_httpx():
        assert httpx.get(URL + "/hx").json()["path"] == "/hx"

    def test_urllib():
        assert json.loads(get("/ul"))["path"] == "/ul"

    def test_aiohttp():
        async def main():
            async with aiohttp.ClientSession() as session:
                async with session.get(URL + "/aio") as answer:
                    return await answer.json()
        assert asyncio.run(main())["path"] == "/aio"

    def test_curl(netcapture):
        out = subprocess.run(["curl", "-sS", URL + "/curl"], capture_output=True, check=True).stdout
        assert json.loads(out)["path"] == "/curl"
        assert netcapture.http.one(path="/curl").process.name == "curl"

    def test_chunked_body():
        assert get("/slow?n=300") == "x" * 300 * 1024
"""


def run_in(project: Project, place: str, *args: str, use: str = "") -> pytest.RunResult:
    """Run pytest where namespaces are forbidden."""
    command = [sys.executable, FORBIDDING, place, sys.executable, "-m", "pytest"]
    return project.pytester.run(*command, *project.arguments(*args, use=use), timeout=TIMEOUT)


@pytest.mark.parametrize("place", PLACES)
def test_the_main_job(project: Project, own_server: Server, place: str) -> None:
    project.server = own_server
    project.test(CLIENTS)
    recorded = run_in(project, place)
    recorded.assert_outcomes(passed=7)
    recorded.stdout.fnmatch_lines(
        [
            "netcapture: seccomp",
            "netcapture: no namespaces, since they are refused (*): loopback is the machine's own, *",
        ]
    )
    numbers = receipt_of(recorded)
    assert numbers["recorded"] >= 9
    assert len(project.cassettes()) == 7
    assert project.left_behind() == []

    own_server.stop()
    for args in ((), ("-n", "2")):
        replayed = run_in(project, place, "--netcapture-record-mode=none", *args, use="xdist")
        replayed.assert_outcomes(passed=7)
        replayed.stdout.fnmatch_lines(["netcapture: no namespaces, since they are refused*"])
        numbers = receipt_of(replayed)
        assert numbers["played"] >= 9
        unwanted = {"recorded", "unmatched", "unused", "blocked", "left"}
        assert {name: numbers[name] for name in unwanted} == dict.fromkeys(unwanted, 0)
    # A cassette is one and the same, whatever it was made with.
    project.run("--netcapture-record-mode=none").assert_outcomes(passed=7)
    assert project.left_behind() == []


@pytest.mark.parametrize("place", PLACES)
def test_a_program_without_pytest(project: Project, own_server: Server, place: str) -> None:
    project.server = own_server
    curl = ["curl", "-sS", f"{URL}/x"]
    options = [option.replace("--netcapture-", "--") for option in own_server.options()]
    main = "from pytest_netcapture.cli.main import main; main()"
    ours = [sys.executable, FORBIDDING, place, sys.executable, "-c", main, "run"]
    recorded = project.pytester.run(*ours, "--record", "c.cassette", *options, "--", *curl)
    assert recorded.ret == 0
    assert '"path": "/x"' in recorded.stdout.str()
    recorded.stderr.fnmatch_lines(["netcapture: no namespaces*", f"*GET {URL}/x*"])
    own_server.stop()
    replayed = project.pytester.run(*ours, "--replay", "c.cassette", "--quiet", "--", *curl)
    assert replayed.ret == 0, replayed.stderr.str()
    assert replayed.stdout.str() == recorded.stdout.str()
    assert replayed.stderr.str().strip() == ""
    assert project.left_behind() == []


def test_forced_tproxy_says_why_not(project: Project) -> None:
    project.test("def test_x(): pass")
    result = run_in(project, "limit", "--netcapture-redirector=tproxy")
    assert result.ret == 3
    text = result.stderr.str()
    assert "netcapture cannot start: cannot make a user namespace: ENOSPC" in text
    assert "sysctl -w user.max_user_namespaces" in text


def test_chosen_by_name(project: Project) -> None:
    """Also where namespaces could be made; one test cannot choose differently."""
    project.test(
        """
        @pytest.mark.netcapture(redirector="seccomp")
        def test_x():
            get("/x")
        """
    )
    result = project.run(SECCOMP)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["netcapture: seccomp", "netcapture: no namespaces: loopback is the machine's own, *"]
    )
    refused = project.run()
    assert refused.ret == 4
    refused.stderr.fnmatch_lines(
        ["*test_x: redirector='seccomp' for one test, where the run uses*"]
    )


def test_a_thread_that_runs_already(project: Project) -> None:
    """A namespace needs a process with one thread: a debugger's would forbid it."""
    project.write(
        "early.py",
        """
        import threading
        threading.Thread(target=threading.Event().wait, name="debugger", daemon=True).start()
        """,
    )
    project.test("def test_x(netcapture):\n    get('/x')\n    assert len(netcapture.http) == 1\n")
    result = run_in(project, "limit", "-p", "early")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*no namespaces, since they are refused*debugger*"])


def test_block_and_replay_name_the_line(project: Project) -> None:
    project.test(
        """
        def test_blocked():
            swallow("/x")

        def test_blocked_by_address():
            with socket.socket() as sock:
                sock.connect_ex(("198.51.100.7", 80))

        def test_a_child_is_blocked():
            subprocess.run(["curl", "-s", "http://198.51.100.7/"])

        def test_datagrams_are_blocked():
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                sock.sendto(b"x", ("198.51.100.7", 5000))

        @pytest.mark.cassette(record_mode="none")
        def test_unmatched():
            with socket.socket() as sock:
                sock.connect(("198.51.100.7", 80))
                sock.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
                sock.recv(100)

        def test_good():
            pass
        """
    )
    result = project.run(SECCOMP, "--netcapture-block", "-p", "no:randomly")
    result.assert_outcomes(failed=5, passed=1)
    text = result.stdout.str()
    assert re.search(r"blocked: .*198\.51\.100\.7:80", text)
    assert re.search(r"made by  curl \(pid \d+\)", text)
    assert text.count("from     test_it.py:") >= 3
    assert "unmatched: GET http://a/" in text


def test_programs_are_told_apart(project: Project) -> None:
    """Each has a sandbox of its own, as far as its flows go; a child of a child belongs to it."""
    project.test(
        """
        CURL = ["curl", "-sS", "-o", "/dev/null"]
        def test_x(netcapture):
            get("/test")
            one = netcapture.popen(["sh", "-c", f"sleep 0.2; {' '.join(CURL)} {URL}/one"])
            two = netcapture.run([*CURL, URL + "/two"])
            subprocess.run([*CURL, URL + "/also"], check=True)
            one.wait()
            assert [flow.url for flow in two.flows if flow.protocol == "http"] == [URL + "/two"]
            assert [flow.url for flow in one.flows if flow.protocol == "http"] == [URL + "/one"]
            assert [flow.url for flow in netcapture.http] == [URL + "/test", URL + "/also"]
        """
    )
    project.run(SECCOMP).assert_outcomes(passed=1)


def test_a_child_that_outlives_its_test(project: Project) -> None:
    """Its traffic is not the next test's, whose own is."""
    project.test(
        """
        children = []
        def test_a():
            line = f"import time, urllib.request, os; os.read(0, 1); urllib.request.urlopen('{URL}/late').read(); print('done', flush=True)"
            children.append(subprocess.Popen([sys.executable, "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))

        def test_b(netcapture):
            child = children.pop()
            child.stdin.write("x")
            child.stdin.flush()
            assert child.stdout.readline() == "done\\n"
            get("/own")
            assert [flow.url for flow in netcapture.http] == [URL + "/own"]
            child.communicate()
        """
    )
    project.run(SECCOMP, "-p", "no:randomly").assert_outcomes(passed=2)


def test_servers_of_fixtures_and_of_the_machine(project: Project) -> None:
    project.test(
        """
        import http.server

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"hello")
            def log_message(self, *_):
                pass

        @pytest.fixture(scope="session")
        def server():
            with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
                threading.Thread(target=made.serve_forever, daemon=True).start()
                yield f"http://127.0.0.1:{made.server_port}/"
                made.shutdown()

        def test_left_alone(netcapture, server):
            assert urllib.request.urlopen(server).read() == b"hello"
            assert [flow.reason for flow in netcapture.tcp] == ["loopback"]
            assert len(netcapture.http) == 0

        @pytest.mark.netcapture(loopback="capture")
        def test_captured(netcapture, server):
            assert urllib.request.urlopen(server).read() == b"hello"
            assert netcapture.http.one().response.status == 200

        def test_refused(netcapture):
            with socket.socket() as sock:
                sock.bind(("127.0.0.1", 0))
                port = sock.getsockname()[1]
            with socket.socket() as sock, pytest.raises(ConnectionRefusedError):
                sock.connect(("127.0.0.1", port))
            assert netcapture.tcp.one().error.kind == "refused"

        def test_published(netcapture):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
                assert netcapture.publish(port) == port
        """
    )
    project.run(SECCOMP).assert_outcomes(passed=4)


def test_what_a_test_leaves_is_ended(project: Project) -> None:
    project.test(
        """
        def test_x():
            child = subprocess.Popen(["sleep", "1000"])
            daemon = subprocess.run(["sh", "-c", "setsid sleep 1001 >/dev/null 2>&1 & echo $!"], stdout=subprocess.PIPE, text=True)
            forked = os.fork()
            if not forked:
                threading.Event().wait()
            with open("pids", "w") as fifo:
                print(child.pid, daemon.stdout.strip(), forked, file=fifo)
            with open("go"):
                pass
        """
    )
    for name in ("pids", "go"):
        os.mkfifo(project.path / name)
    with project.popen(
        SECCOMP, "-s", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        with open(project.path / "pids") as fifo:
            watched = [os.pidfd_open(int(word)) for word in fifo.read().split()]
        with open(project.path / "go", "w"):
            pass
        running.wait(TIMEOUT)
    assert ended(watched)
    assert project.left_behind() == []


def ended(pidfds: list[int]) -> bool:
    """Wait until all processes have ended."""
    for descriptor in pidfds:
        if not select.select([descriptor], [], [], TIMEOUT)[0]:
            return False
        os.close(descriptor)
    return True


def test_kill_9_leaves_nothing(project: Project) -> None:
    project.test(
        """
        def test_x():
            child = subprocess.Popen(["sleep", "1000"])
            with open("pids", "w") as fifo:
                print(child.pid, file=fifo)
            threading.Event().wait()
        """
    )
    os.mkfifo(project.path / "pids")
    with project.popen(
        SECCOMP, "-s", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        with open(project.path / "pids") as fifo:
            watched = [os.pidfd_open(int(word)) for word in fifo.read().split()]
        running.kill()
        running.wait(TIMEOUT)
        assert ended(watched)
    assert project.left_behind() == []


def test_an_engine_that_is_killed_ends_the_run_at_once(project: Project) -> None:
    project.test(
        """
        def test_killed(request):
            import select, signal
            session = request.config.pluginmanager.get_plugin("netcapture-active")._session
            left = os.pidfd_open(session.engine_pid)
            os.kill(session.engine_pid, signal.SIGKILL)
            select.select([left], [], [])
            with socket.socket() as sock:
                with pytest.raises(OSError, match="not implemented"):
                    sock.connect(("198.51.100.7", 80))

        @pytest.mark.parametrize("n", range(3))
        def test_after(n):
            pass
        """
    )
    result = project.run(SECCOMP, "-p", "no:randomly")
    assert result.ret == 3
    assert "the capture engine ended" in result.stdout.str() + result.stderr.str()
    assert "test_after" not in result.stdout.str()
    assert project.left_behind() == []


def test_a_pytest_in_a_test_says_that_it_cannot(project: Project) -> None:
    """The kernel allows one supervisor a process tree."""
    project.test(
        """
        def test_x():
            command = [sys.executable, "-m", "pytest", "--netcapture", "--netcapture-redirector=seccomp", "--collect-only"]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 3, done.stdout
            assert "EBUSY" in done.stderr
            assert "an outer netcapture" in done.stderr
        """
    )
    project.run(SECCOMP).assert_outcomes(passed=1)


def test_ctrl_c_and_exit_status_pass_an_ancestor(project: Project) -> None:
    """Under Yama the process that was started only waits; nobody can tell."""
    project.test(
        """
        def test_x():
            assert os.getppid() == int(os.environ["STARTED"])
            with open("up", "w"):
                pass
            threading.Event().wait()
        """
    )
    os.mkfifo(project.path / "up")
    line = f'STARTED=$$ exec {sys.executable} {FORBIDDING} yama {sys.executable} -m pytest "$@"'
    command = ["sh", "-c", line, "sh", *project.arguments("-s")]
    with subprocess.Popen(command, cwd=project.path, stdout=subprocess.PIPE) as running:
        with open(project.path / "up") as fifo:
            fifo.read()
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=TIMEOUT)
    assert running.returncode == 2, out
    assert b"KeyboardInterrupt" in out
    assert project.left_behind() == []


def test_names_are_looked_up_as_always(project: Project) -> None:
    project.test(
        f"""
        def test_x(netcapture):
            found = socket.getaddrinfo("{HOST}", 443, type=socket.SOCK_STREAM)
            assert {{entry[4][0] for entry in found}}
            assert netcapture.dns.names == {{"{HOST}"}}
            with socket.create_connection(("{HOST}", 443)) as sock:
                assert sock.getpeername()[:2] in {{entry[4][:2] for entry in found}}
            with pytest.raises(socket.gaierror):
                socket.getaddrinfo("nobody.example", 443)

        def test_own_name():
            assert socket.gethostbyname(socket.gethostname())
        """
    )
    project.run(SECCOMP).assert_outcomes(passed=2)


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_what_cannot_be_made_to_trust_is_named(
    project: Project, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    store = project.write("cacerts", "no key store")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", f"-Djavax.net.ssl.trustStore={store}")
    project.test("def test_x(): pass")
    result = project.run(*workers, use="xdist")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"netcapture: could not be covered: {store} (*"])
