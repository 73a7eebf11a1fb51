"""What a type checker, and so an editor, knows of the fixture."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
REVEALED = {
    "netcapture.http": "HttpView",
    "netcapture.http.one(path='/x')": "HttpFlow",
    "netcapture.http.one().request.headers['a']": "str",
    "netcapture.http.one().request.json()": "Any",
    "netcapture.http.first.response": "HttpResponse | None",
    "netcapture.http.filter(status=200).last": "HttpFlow",
    "netcapture.http[0]": "HttpFlow",
    "netcapture.http[1:]": "list[HttpFlow]",
    "netcapture.dns.names": "set[str]",
    "netcapture.dns.last": "DnsFlow",
    "netcapture.grpc.one()": "GrpcFlow",
    "netcapture.websockets.one()": "WebSocketFlow",
    "netcapture.sql.one()": "SqlFlow",
    "netcapture.redis.one()": "RedisFlow",
    "netcapture.smtp.one()": "MailFlow",
    "netcapture.tcp.one().process.name": "str",
    "netcapture.udp.one()": "UdpFlow",
    "netcapture.tls_failures.one()": "TlsFailure",
    "netcapture.blocked.one()": "Flow",
    "netcapture.flows.one()": "Flow",
    "netcapture.cassette": "CassetteState | None",
    "netcapture.mock('GET', '/x')": "Mock",
    "netcapture.mock().respond(201, json={}, times=2)": "Mock",
    "netcapture.mock().calls.last": "HttpFlow",
    "netcapture.fault().status(503)": "Fault",
    "netcapture.run(['true'])": "CompletedProgram",
    "netcapture.run(['true']).returncode": "int",
    "netcapture.popen(['true'])": "Program",
    "netcapture.publish(80)": "int",
    "netcapture.snapshot()": "list[dict[str, Any]]",
    "netcapture.assert_requested()": "None",
}


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what mypy says of a module that a project may have."""
    pytest.importorskip("mypy", reason="not in CI: mypy is of the group `types`")
    folder = tmp_path_factory.mktemp("typed")
    lines = "\n".join(f"    reveal_type({one})" for one in REVEALED)
    body = textwrap.dedent(
        """\
        from pytest_netcapture.capture import Netcapture
        from pytest_netcapture import Response

        def check(netcapture: Netcapture) -> None:
        {lines}
            netcapture.mock().respond(200, jsn={{}})
            netcapture.fault().tls_error("old")
            netcapture.assert_encrypted(at_least="1.1")
            netcapture.http.one().request.json().whatever
            netcapture.http.one().reqest
        """
    ).format(lines=lines)
    (folder / "typed.py").write_text(body)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache")]
    done = subprocess.run(
        [*command, "--config-file", str(CHECKOUT / "pyproject.toml"), str(folder / "typed.py")],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.stdout + done.stderr


def test_the_fixture_is_typed(checked):
    revealed = re.findall(r'Revealed type is "(.*)"', checked)
    short = [re.sub(r"(\w+\.)+(?=\w)", "", one).replace("builtins.", "") for one in revealed]
    told = dict(zip(REVEALED, (one.removesuffix("?") for one in short), strict=False))
    assert told == REVEALED, checked


def test_what_is_wrong_is_an_error(checked):
    for said in (
        'Unexpected keyword argument "jsn" for "respond"',
        'Argument 1 to "tls_error" of "Fault" has incompatible type',
        'Argument "at_least" to "assert_encrypted" of "Netcapture" has incompatible type',
        '"HttpFlow" has no attribute "reqest"; maybe "request"?',
    ):
        assert said in checked, checked
