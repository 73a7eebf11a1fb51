"""`--netcapture-chaos`: what it strikes, what it says of tests, and that nothing hangs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from pytest_netcapture.chaos import kinds, names

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
MATRIX = re.compile(r"^(\S+)\[(?:(.*)-)?chaos-(\d+)-([a-z0-9-]+)\] (\S.*?) +\[", re.MULTILINE)


def outcomes(result: pytest.RunResult) -> dict[str, str]:
    """Return what `-v` says of each cell: {"test_x 1 refused": "failed cleanly"}."""
    found = MATRIX.findall(result.stdout.str())
    return {f"{name.rpartition('::')[2]} {n} {kind}": said for name, _, n, kind, said in found}


def record(project, text: str, *args: str, use: str = "") -> None:
    project.test(text)
    result = project.run("--netcapture-auto-cassette", *args, use=use)
    assert result.ret == 0, result.stdout.str()
    project.server.stop()


def chaos(project, kinds: str = "", *args: str, use: str = "") -> pytest.RunResult:
    option = f"--netcapture-chaos={kinds}" if kinds else "--netcapture-chaos"
    return project.run("-v", "--netcapture-auto-cassette", option, *args, use=use)


def test_the_names_are_those_of_the_kinds():
    assert tuple(kinds.BY_NAME) == names.NAMES


@pytest.fixture
def own(project, own_server):
    """A project whose server may be stopped."""
    project.server = own_server
    return project


def test_the_example_has_three_mistakes_that_are_found(project, monkeypatch):
    shutil.copytree(EXAMPLES / "chaos", project.path, dirs_exist_ok=True)
    result = project.run("-v", "--netcapture-chaos", "--netcapture-chaos-report=out/matrix.html")
    text = result.stdout.str()
    seen = outcomes(result)
    assert result.ret == 1
    bad = {cell: said for cell, said in seen.items() if said not in ("survived", "failed cleanly")}
    assert {cell.split()[0] for cell in bad} == {"test_price", "test_reviews", "test_order"}, text
    assert bad["test_price 1 timeout"] == "HUNG"
    assert bad["test_reviews 1 truncated"] == "PASSED WRONGLY"
    assert bad["test_order 1 500"] == "HUNG"
    assert "it waited without a time-out" in text
    assert "are its retries limited?" in text
    assert re.search(r"48 tries of 4 exchanges: \d+ survived · \d+ failed cleanly · ", text)
    page = (project.path / "out/matrix.html").read_text()
    assert "<table>" in page
    assert "http://api.shop.example/reviews/tea" in page
    assert not re.search(r'(src|href)="', page)


def test_each_kind_is_what_the_client_sees(own):
    record(
        own,
        """
        def test_it():
            assert json.loads(get("/json"))
        """,
    )
    result = chaos(own, "", "-n", "2", use="xdist")
    text = result.stdout.str()
    assert "left this machine" in text
    assert re.search(r"14 passed|13 failed cleanly|12 failed cleanly", text), text
    assert "1 survived" in text
    result = chaos(own, "reset,expired,truncated-json", "--netcapture-chaos-expect=reset=survive")
    assert outcomes(result) == {
        "test_it 1 reset": "BROKE",
        "test_it 1 expired": "failed cleanly",
        "test_it 1 truncated-json": "failed cleanly",
    }
    assert result.ret == 1
    one = chaos(own, "reset", "test_it.py::test_it[chaos-1-reset]")
    assert outcomes(one) == {"test_it 1 reset": "failed cleanly"}
    assert one.ret == 0


def test_connections_are_struck_after_the_exchanges_before(own):
    """Both exchanges are on one connection: the second has to make one, which is refused."""
    record(
        own,
        """
        import http.client

        def test_pooled():
            client = http.client.HTTPConnection("api.example.com", timeout=20)
            client.request("GET", "/json?n=1")
            assert client.getresponse().read()
            try:
                client.request("GET", "/json?n=2")
                assert client.getresponse().read()
            except ConnectionRefusedError:
                pytest.fail("refused at the second")
        """,
    )
    result = chaos(own, "refused,nxdomain")
    assert outcomes(result) == {
        "test_pooled 1 refused": "failed cleanly",
        "test_pooled 1 nxdomain": "failed cleanly",
        "test_pooled 2 refused": "failed cleanly",
        "test_pooled 2 nxdomain": "failed cleanly",
    }


def test_time_outs_are_not_waited_for(own):
    """Of half a minute each: the main thread's in a socket, and an event loop's."""
    record(
        own,
        """
        import asyncio, unittest

        def test_blocking():
            try:
                get("/json")
            except TimeoutError:
                pass

        async def read(path):
            reader, writer = await asyncio.open_connection("api.example.com", 80)
            head = "Host: api.example.com\\r\\nConnection: close\\r\\n\\r\\n"
            writer.write(f"GET {path} HTTP/1.1\\r\\n{head}".encode())
            line = await asyncio.wait_for(reader.read(), 30)
            writer.close()
            return line

        def test_event_loop():
            try:
                assert asyncio.run(read("/json")).startswith(b"HTTP/1.1 200")
            except asyncio.TimeoutError:
                pass

        class TestOld(unittest.TestCase):
            def test_method(self):
                self.assertTrue(get("/json"))

        @pytest.mark.parametrize("n", [1])
        def test_parameter(n):
            assert get(f"/json?n={n}")

        def test_in_a_child():
            code = "import urllib.request as u; u.urlopen('http://api.example.com/json').read()"
            subprocess.run([sys.executable, "-c", code], check=True)
        """,
    )
    result = chaos(own, "timeout")
    assert outcomes(result) == {
        "test_blocking 1 timeout": "survived",
        "test_event_loop 1 timeout": "survived",
        "test_method 1 timeout": "failed cleanly",
        "test_parameter 1 timeout": "failed cleanly",
        "test_in_a_child 1 timeout": "HUNG",
    }
    assert re.search(r"\d+ s of time-outs cut short", result.stdout.str())
    assert result.duration < 30


def test_what_is_stopped_is_stopped(own):
    record(
        own,
        """
        def test_swallows_everything():
            for _ in range(20):
                try:
                    get("/json", timeout=None)
                    break
                except Exception:
                    time.sleep(0.3)

        def test_in_a_thread():
            threads = [threading.Thread(target=lambda: swallow("/json"))]
            threads[0].start()
            threads[0].join()
        """.replace('get("/json", timeout=None)', 'get("/json")'),
    )
    result = chaos(own, "500,timeout", "--netcapture-chaos-wait=1s")
    seen = outcomes(result)
    assert seen["test_swallows_everything 1 500"] == "HUNG"
    assert seen["test_in_a_thread 1 timeout"] == "HUNG"
    assert seen["test_in_a_thread 1 500"] == "survived"
    assert own.left_behind() == []


def test_what_is_asked_for_wrongly(project):
    project.test(
        """
        @pytest.mark.netcapture(chaos=["refusd"])
        def test_it():
            pass
        """
    )
    for option, said in {
        "--netcapture-chaos=refusd": "--netcapture-chaos: 'refusd' is not known",
        "--netcapture-chaos-expect=empty": "'empty' is not KIND=EXPECTED",
        "--netcapture-chaos-wait=long": "'long' is not a time",
    }.items():
        result = project.run("--netcapture-chaos=reset", option)
        assert result.ret == 4, result.stdout.str()
        result.stderr.fnmatch_lines([f"*{said}*"])
    result = project.run("--netcapture-chaos")
    result.stderr.fnmatch_lines(["*test_it*@pytest.mark.netcapture, chaos: 'refusd' is not known*"])


def test_nothing_to_strike_is_said(project):
    project.test("def test_it(): pass")
    result = project.run("--netcapture-chaos")
    result.assert_outcomes(passed=1)
    assert "no exchange to strike: record the tests first" in result.stdout.str()
