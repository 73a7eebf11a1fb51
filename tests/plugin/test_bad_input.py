"""What users get wrong: each error names the thing and the cure, and nothing runs uncaptured."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from plugin_lab import Project, receipt_of


def fails(
    project: Project, status: int, lines: list[str], *args: str, use: str = ""
) -> pytest.RunResult:
    result = project.run(*args, use=use)
    text = result.stdout.str() + "\n" + result.stderr.str()
    assert result.ret == status, text
    pytest.LineMatcher(text.splitlines()).fnmatch_lines(lines)
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text
    return result


def test_bad_options_on_the_command_line(project: Project, tmp_path: Path) -> None:
    project.test("def test_x(): raise AssertionError('ran')\n")
    der = project.path / "ca.der"
    der.write_bytes(b"\x30\x82\x01\x00")
    cases = {
        "--netcapture-record-mode=onec": [
            "*--netcapture-record-mode: 'onec'*",
            "*did you mean 'once'*",
        ],
        "--netcapture-loopback=x": ["*--netcapture-loopback: 'x'*", "*one of: leave, capture*"],
        "--netcapture-map-host=a.example.com": [
            "*'a.example.com' does not parse as FROM=TO*",
            "*cure: write*",
        ],
        "--netcapture-map-host=a=b:99999": ["*'99999' in 'b:99999' is not a port*"],
        "--netcapture-allow=10.0.0.0/99": ["*'10.0.0.0/99' is not a CIDR block*", "*cure:*"],
        f"--netcapture-upstream-ca={tmp_path}/none.pem": ["*cannot read *none.pem: No such file*"],
        f"--netcapture-upstream-ca={der}": ["*ca.der is not PEM*", "*cure: convert DER*"],
        "--netcapture-upstream-ca=.": ["*cannot read *: Is a directory*"],
        "--netcapture-recordmode=none": [
            "*--netcapture-recordmode is not an option*",
            "*did you mean --netcapture-record-mode*",
        ],
    }
    for option, lines in cases.items():
        fails(project, 4, lines, option)
    assert project.left_behind() == []


def test_bad_ini(project: Project) -> None:
    project.test("def test_x(): raise AssertionError('ran')\n")
    cases = {
        "netcapture_record_mode = x": ["*ini netcapture_record_mode: 'x'*"],
        "netcapture_block = maybe": ["*ini netcapture_block: 'maybe' is neither true nor false*"],
        "netcapture_map_host = nowhere": ["*ini netcapture_map_host: 'nowhere' does not parse*"],
    }
    for line, lines in cases.items():
        project.write("pytest.ini", f"[pytest]\n{line}\n")
        fails(project, 4, lines)


def test_bad_markers_are_errors_at_collection(project: Project) -> None:
    cases = {
        "cassette(recordmode='once')": [
            "*test_x, @pytest.mark.cassette: unknown argument 'recordmode'*",
            "*did you mean 'record_mode'*",
        ],
        "cassette(record_mode='onse')": ["*'onse'*", "*did you mean 'once'*"],
        "cassette(3)": ["*name must be a string, given: 3*"],
        "cassette('')": ["*name must be a string, given: ''*"],
        "cassette('a', 'b')": ["*takes one name, given: 2*"],
        "cassette('a', name='b')": ["*the name is given twice*"],
        "cassette(repeat='twice')": ["*'twice' is not known*", "*once, last, cycle, any*"],
        "cassette(match_on='path')": ["*match_on must be a list*"],
        "cassette(match_on=['pth'])": ["*did you mean 'path'*"],
        "cassette(filters=['x'])": ["*filters must be a dict*"],
        "cassette(filters={'header': ['x']})": ["*did you mean 'headers'*"],
        "cassette(max_age='soon')": ["*'soon' is not an age*", '*write "30d"*'],
        "netcapture(blok=True)": [
            "*@pytest.mark.netcapture: unknown argument 'blok'*",
            "*did you mean 'block'*",
        ],
        "netcapture(block='yes')": ["*block must be True or False, given: 'yes'*"],
        "netcapture(True)": ["*takes keyword arguments only*"],
        "netcapture(allow=[1])": ["*allow must be a string or a list of strings*"],
        "netcapture(map_host={'a': 'b:x'})": ["*'x' in 'b:x' is not a port*"],
        "netcapture(upstream_ca='none.pem')": ["*cannot read *none.pem*"],
    }
    # One run each would take long: the same checks, a few ends.
    for index, (marker, lines) in enumerate(cases.items()):
        if index % 6:
            _check_marker(marker, lines)
            continue
        project.test(f"@pytest.mark.{marker}\ndef test_x(): raise AssertionError('ran')\n")
        fails(project, 4, lines)


def _check_marker(text: str, lines: list[str]) -> None:
    from pytest_netcapture import markers
    from pytest_netcapture.errors import UsageError
    from pytest_netcapture.settings import check_ca_file

    mark = eval(f"pytest.mark.{text}", {"pytest": pytest}).mark
    read = markers.cassette_options if mark.name == "cassette" else markers.netcapture_options
    with pytest.raises(UsageError) as caught:
        for path in markers.as_list(read(mark, "t.py::test_x").get("upstream_ca", []), ""):
            check_ca_file(path, "")
    pytest.LineMatcher(str(caught.value).splitlines()).fnmatch_lines(lines)


def test_bad_cassettes_name_file_and_cure(project: Project) -> None:
    project.test(
        """
        @pytest.mark.cassette("c")
        def test_x(): get("/x")
        """
    )
    project.run().assert_outcomes(passed=1)
    path = project.path / "cassettes/c.cassette"
    good = path.read_bytes()
    newer = good.replace(b"\xa7version\x01", b"\xa7version\x63", 1)
    cases = {
        b"interactions:\n- request: {}\n": "*not a*cassette*",
        b"": "*c.cassette*",
        good[: len(good) // 2]: "*c.cassette*torn*",
        good[:-3] + b"\xff\xff\xff": "*c.cassette*",
        good[:60] + bytes([good[60] ^ 1]) + good[61:]: "*c.cassette*",
    }
    if newer != good:
        cases[newer] = "*newer*"
    for content, line in cases.items():
        path.write_bytes(content)
        result = project.run()
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*c.cassette*"])
        text = result.stdout.str()
        assert "Traceback" not in text
        assert "active.py" not in text
        assert path.read_bytes() == content
        assert line
    path.unlink()
    path.mkdir()
    result = project.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*c.cassette: cannot be read: it is not a regular file*"])
    path.rmdir()
    project.run().assert_outcomes(passed=1)


def test_a_cassette_that_may_not_be_read_or_written(project: Project) -> None:
    if os.geteuid() == 0:
        pytest.skip(
            "not in CI: root may read and write everything; CI runs this as an ordinary user too"
        )
    project.test(
        """
        @pytest.mark.cassette("c")
        def test_x(): get("/x")
        """
    )
    folder = project.path / "cassettes"
    folder.mkdir()
    folder.chmod(0o555)
    result = project.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*cassettes/c.cassette: cannot be written: Permission denied"])
    folder.chmod(0o755)
    project.run().assert_outcomes(passed=1)
    (folder / "c.cassette").chmod(0)
    result = project.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*c.cassette: cannot be read: Permission denied*"])
    (folder / "c.cassette").chmod(0o644)
    project.run("--netcapture-record-mode=none").assert_outcomes(passed=1)


def _sandboxed(project: Project, script: str) -> tuple[int, str]:
    """Run a shell script as root of a private user and mount namespace; `$PYTEST` is the command."""
    import shlex
    import subprocess

    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    command = shlex.join([sys.executable, "-m", "pytest", *project.arguments()])
    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-ec", f"PYTEST={shlex.quote(command)}\n{script}"],
        cwd=project.path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return ran.returncode, ran.stdout + ran.stderr


def test_disk_full_while_recording(project: Project) -> None:
    project.test(
        """
        @pytest.mark.cassette
        def test_large():
            for n in range(3):
                get(f"/slow?n={600 + n}&x={os.urandom(8).hex()}")
        @pytest.mark.cassette
        def test_small():
            get("/small")
        def test_none():
            get("/none")
        """
    )
    (project.path / "cassettes").mkdir()
    status, text = _sandboxed(
        project,
        "mount -t tmpfs -o size=64k tmpfs cassettes\n"
        "head -c 60000 /dev/urandom > cassettes/filler\n"
        "status=0; $PYTEST || status=$?\n"
        "ls -a cassettes; exit $status\n",
    )
    if "mount:" in text and "permission denied" in text:
        pytest.skip(f"cannot mount here: {text}")
    assert status == 1, text
    matcher = pytest.LineMatcher(text.splitlines())
    matcher.fnmatch_lines(["*test_large*", "*No space left on device*"])
    assert "Traceback" not in text
    assert ".journal" not in text


def test_no_user_namespaces(project: Project) -> None:
    if os.geteuid() == 0:
        pytest.skip("not in CI: root needs no user namespace; CI runs this as an ordinary user too")
    project.test("def test_x(): raise AssertionError('ran')\n")
    import shlex
    import subprocess

    tproxy = project.arguments("--netcapture-redirector=tproxy")  # auto would take another one
    command = shlex.join([sys.executable, "-m", "pytest", *tproxy])
    for extra in ("", " -p xdist -n 2"):
        # As uid 0 of a first namespace the limit is ours to set; inside a second we are ourselves.
        inner = f"exec {command}{extra}"
        script = (
            "echo 1 > /proc/sys/user/max_user_namespaces\n"
            f"exec unshare --user --map-user={os.getuid()} --map-group={os.getgid()} sh -c {shlex.quote(inner)}\n"
        )
        ran = subprocess.run(
            ["unshare", "-Ur", "sh", "-ec", script],
            cwd=project.path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        text = ran.stdout + ran.stderr
        assert ran.returncode == 3, text
        assert "user.max_user_namespaces" in text
        assert "cure:" in text
        assert "Traceback" not in text


def test_malformed_http_and_silence_hang_nothing(project: Project) -> None:
    project.test(
        """
        import ssl
        def secure():
            raw = socket.create_connection(("api.example.com", 443), 20)
            return ssl.create_default_context().wrap_socket(raw, server_hostname="api.example.com")
        def test_malformed_request(netcapture):
            with socket.create_connection(("api.example.com", 80), 20) as s:
                s.sendall(b"GET /x HTTP/1.1\\r\\nHost: api.example.com\\r\\nContent-Length: -5\\r\\n\\r\\n")
                while s.recv(4096):
                    pass
            assert len(netcapture.flows) >= 2
        def test_malformed_response(netcapture):
            with pytest.raises(Exception):
                get("/malformed")
            assert len(netcapture.flows) >= 2
        def test_not_http_at_all(netcapture):
            with socket.create_connection(("api.example.com", 80), 20) as s:
                s.sendall(b"\\x00\\x01\\x02\\x03")
                s.shutdown(socket.SHUT_WR)
                while s.recv(4096):
                    pass
            assert len(netcapture.flows) >= 2
        def test_half_a_client_hello(netcapture):
            out = ssl.MemoryBIO()
            obj = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="api.example.com")
            with pytest.raises(ssl.SSLWantReadError):
                obj.do_handshake()
            hello = out.read()
            with socket.create_connection(("api.example.com", 443), 20) as s:
                s.sendall(hello[: len(hello) // 2])
        def test_half_a_client_hello_left_open(netcapture):
            s = socket.create_connection(("api.example.com", 443), 20)
            s.sendall(b"\\x16\\x03\\x01\\x02\\x00\\x01")
            pytest.left_open = s
        def test_a_client_that_never_sends(netcapture):
            pytest.silent = socket.create_connection(("api.example.com", 443), 20)
        @pytest.mark.cassette("none", record_mode="none")
        def test_a_client_that_never_sends_on_replay_fails(netcapture):
            with socket.create_connection(("api.example.com", 443), 20) as s:
                try:
                    s.recv(1)
                except OSError:
                    pass
        def test_good_afterwards(netcapture):
            get("/x")
            with secure() as s:
                s.sendall(b"GET /y HTTP/1.1\\r\\nHost: api.example.com\\r\\nConnection: close\\r\\n\\r\\n")
                while s.recv(4096):
                    pass
            assert [f.request.path for f in netcapture.http] == ["/x", "/y"]
        def test_silent_flows_are_listed(netcapture):
            s = socket.create_connection(("api.example.com", 80), 20)
            netcapture.assert_connected("api.example.com", 80)
            s.close()
        """
    )
    result = project.run("-rA")
    result.assert_outcomes(passed=8, failed=1)
    text = result.stdout.str()
    assert "FAILED test_it.py::test_a_client_that_never_sends_on_replay_fails" in text
    assert "a bug of its own" not in text
    assert receipt_of(result)["left"] == 0
    assert project.left_behind() == []
