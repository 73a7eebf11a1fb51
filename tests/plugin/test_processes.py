"""Processes: made in every way that Python has, in a test and across tests; what outlives its test."""

from __future__ import annotations

import os
import select
import tempfile
from collections.abc import Iterator

import pytest
from plugin_lab import Project


@pytest.fixture
def short_temp(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """multiprocessing has sockets in the temporary folder, whose paths may have 107 bytes."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="mp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield


PRELUDE = """
    import concurrent.futures, multiprocessing
    def paths(netcapture):
        return sorted("/" + flow.url.split("/", 3)[3] for flow in netcapture.http)
    def pids(netcapture):
        return {flow.process.pid for flow in netcapture.http}
    methods = pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    twice = pytest.mark.parametrize("n", range(2))
"""


@pytest.mark.usefixtures("short_temp")
def test_multiprocessing(project: Project) -> None:
    project.test(
        PRELUDE
        + """
    @methods
    @twice
    def test_process(netcapture, method, n):
        process = multiprocessing.get_context(method).Process(target=get, args=(f"/{method}/{n}",))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert paths(netcapture) == [f"/{method}/{n}"]
        assert pids(netcapture) == {process.pid}
        assert not netcapture.http[0].late
    @methods
    @twice
    def test_pool(netcapture, method, n):
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            assert len(list(pool.map(get, ["/a", "/b", "/c"]))) == 3
        assert paths(netcapture) == ["/a", "/b", "/c"]
        assert os.getpid() not in pids(netcapture)
    @methods
    def test_a_child_reaches_a_server_of_the_test(method):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            context = multiprocessing.get_context(method)
            process = context.Process(target=socket.create_connection, args=(listener.getsockname(), 20))
            process.start()
            listener.settimeout(20)
            listener.accept()[0].close()
            process.join()
            assert process.exitcode == 0
    @twice
    def test_manager(netcapture, n):
        with multiprocessing.Manager() as manager:
            shared = manager.dict(a=n)
            assert shared["a"] == n
        """
    )
    project.run().assert_outcomes(passed=17)


@pytest.mark.usefixtures("short_temp")
@pytest.mark.parametrize("first", ["in_the_fixture", "in_a_test"])
def test_multiprocessing_in_wider_fixtures(project: Project, first: str) -> None:
    """Their processes live in the session, whoever has started the fork server before."""
    project.test(
        PRELUDE
        + f"""
    @pytest.fixture(scope="session", params=["fork", "spawn", "forkserver"])
    def pool(request):
        with multiprocessing.get_context(request.param).Pool(1) as pool:
            yield pool
    @pytest.fixture(scope="session")
    def manager():
        with multiprocessing.Manager() as manager:
            yield manager
    @pytest.mark.skipif({first == "in_the_fixture"}, reason="in the fixture")
    def test_fork_server():
        process = multiprocessing.get_context("forkserver").Process(target=print)
        process.start()
        process.join()
    """
        + """
    @twice
    def test_pool(pool, netcapture, n):
        assert json.loads(pool.map(get, [f"/{n}"])[0])["path"] == f"/{n}"
        assert paths(netcapture) == [f"/{n}"]
        assert os.getpid() not in pids(netcapture)
    @twice
    def test_manager(manager, n):
        shared = manager.list([n])
        assert list(shared) == [n]
    @twice
    def test_fork_server_of_the_session_stays(pool, netcapture, n):
        process = multiprocessing.get_context("forkserver").Process(target=get, args=("/x",))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert paths(netcapture) == ["/x"]
        """
    )
    skipped = int(first == "in_the_fixture")
    project.run().assert_outcomes(passed=15 - skipped, skipped=skipped)


@pytest.mark.usefixtures("short_temp")
def test_a_fork_server_with_running_children_is_left_alone(project: Project) -> None:
    project.test(
        PRELUDE
        + """
    kept = []
    def wait_for(conn):
        conn.send(conn.recv() + 1)
    def test_starts():
        context = multiprocessing.get_context("forkserver")
        ours, theirs = context.Pipe()
        process = context.Process(target=wait_for, args=(theirs,))
        process.start()
        kept.extend([ours, process])
    def test_uses():
        ours, process = kept
        ours.send(1)
        assert ours.recv() == 2
        process.join()
        assert process.exitcode == 0
        """
    )
    project.run().assert_outcomes(passed=2)


def test_asyncio_subprocesses(project: Project) -> None:
    project.test(
        PRELUDE
        + """
    import asyncio
    async def curl(path):
        program = await asyncio.create_subprocess_exec("curl", "-sS", URL + path, stdout=-1)
        text, _ = await program.communicate()
        return program.pid, json.loads(text)["path"]
    async def shell(path):
        program = await asyncio.create_subprocess_shell(f"curl -sS {URL}{path}; true", stdout=-1)
        return json.loads((await program.communicate())[0])["path"]
    @twice
    def test_exec(netcapture, n):
        async def main():
            return await asyncio.gather(*(curl(f"/{i}") for i in range(3)))
        ran = asyncio.run(main())
        assert paths(netcapture) == sorted(path for _, path in ran) == ["/0", "/1", "/2"]
        assert pids(netcapture) == {pid for pid, _ in ran}
        assert {flow.process.name for flow in netcapture.http} == {"curl"}
    def test_shell(netcapture):
        assert asyncio.run(shell("/sh")) == "/sh"
        assert netcapture.http.one().process.name == "curl"
        """
    )
    project.run().assert_outcomes(passed=3)


def test_double_forks_and_daemons(project: Project) -> None:
    project.test(
        PRELUDE
        + """
    def daemon(action):
        "Run `action` in a grandchild that has a session of its own; return what it says."
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.setsid()
            if os.fork():
                os._exit(0)
            try:
                os.write(writer, f"{os.getpid()} {action()}".encode())
            finally:
                os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        with open(reader) as told:
            return told.read().split()
    @twice
    def test_double_fork(netcapture, n):
        pid, _ = daemon(lambda: len(get("/daemon")))
        assert paths(netcapture) == ["/daemon"]
        assert pids(netcapture) == {int(pid)}
    def test_all_descriptors_closed(netcapture):
        child = os.fork()
        if not child:
            try:
                os.closerange(3, 4096)
                get("/closed")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert paths(netcapture) == ["/closed"]
        code = f"import os, urllib.request; os.closerange(3, 4096); urllib.request.urlopen('{URL}/exec').read()"
        subprocess.run([sys.executable, "-c", code], check=True)
        assert paths(netcapture) == ["/closed", "/exec"]
        """
    )
    project.run().assert_outcomes(passed=3)


OUTLIVING = """
    class Child:
        def __init__(self):
            command = [sys.executable, "child.py", URL]
            self.process = subprocess.Popen(command, stdin=-1, stdout=-1, text=True)
        def ask(self, path):
            print(path, file=self.process.stdin, flush=True)
            return self.process.stdout.readline().strip()
        def end(self):
            self.process.communicate()
    kept = []
"""

CHILD = """
    import sys, urllib.request
    for path in sys.stdin:
        try:
            urllib.request.urlopen(sys.argv[1] + path.strip()).read()
            print("ok", flush=True)
        except OSError as error:
            print(error, flush=True)
"""


def test_what_outlives_its_test_is_late_and_nobody_elses(project: Project) -> None:
    project.write("child.py", CHILD)
    project.test(
        PRELUDE
        + OUTLIVING
        + """
    def test_starts(netcapture):
        kept.append(Child())
        assert kept[0].ask("/early") == "ok"
        assert paths(netcapture) == ["/early"]
    def test_next(netcapture):
        assert kept[0].ask("/late") == "ok"
        assert len(netcapture.flows) == 0
    def test_last(netcapture):
        kept[0].end()
        assert len(netcapture.flows) == 0
        """
    )
    project.run().assert_outcomes(passed=3)


def test_what_it_must_not_do_fails_the_run_and_names_it(project: Project) -> None:
    project.write("child.py", CHILD)
    project.test(
        PRELUDE
        + OUTLIVING
        + """
    @pytest.mark.netcapture(block=True)
    def test_starts():
        kept.append(Child())
    def test_next():
        assert "Name or service not known" in kept[0].ask("/late")
    def test_last():
        kept[0].end()
        """
    )
    result = project.run()
    result.assert_outcomes(passed=3)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["*netcapture: outside of any test*", "blocked: DNS api.example.com *", "*made by*python*"]
    )


def test_nothing_is_left_when_the_run_has_ended(project: Project) -> None:
    """Neither a daemon in a test's namespace nor one in the session's."""
    project.test(
        """
        def daemon():
            reader, writer = os.pipe()
            child = os.fork()
            if not child:
                os.setsid()
                if not os.fork():
                    os.write(writer, str(os.getpid()).encode())
                    os.close(writer)
                    while True:
                        time.sleep(1000)
                os._exit(0)
            os.close(writer)
            os.waitpid(child, 0)
            with open(reader) as told, open("pids", "a") as pids:
                print(told.read(), file=pids)
        @pytest.fixture(scope="session")
        def of_the_session():
            daemon()
        def test_it(of_the_session):
            daemon()
        """
    )
    project.run().assert_outcomes(passed=1)
    for pid in (project.path / "pids").read_text().split():
        assert ended(int(pid)), f"process {pid} is left"
    assert project.left_behind() == []


def ended(pid: int) -> bool:
    """Wait until a process has ended; the engine ends what is left when the run has."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        return bool(poll.poll(20_000))
    finally:
        os.close(descriptor)
