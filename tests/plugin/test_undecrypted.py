"""What could not be decrypted is told at the end of the run, and to the test."""

from __future__ import annotations

import pytest
from plugin_lab import HOST, Project

from pytest_netcapture.summary import Summary

PINNED = f"""
import ssl
def pinned():
    context = ssl.create_default_context(cafile="CA")  # of its own, so it does not trust ours
    with socket.create_connection(("{HOST}", 443), 20) as raw:
        with context.wrap_socket(raw, server_hostname="{HOST}") as tls:
            tls.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            return tls.recv(100)[:12]
"""


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_a_client_that_refuses_us_is_named(project: Project, workers: list[str]) -> None:
    project.test(
        PINNED.replace("CA", project.server.ca)
        + """
def test_pinned(netcapture):
    with pytest.raises(ssl.SSLCertVerificationError):
        pinned()
    failure = netcapture.wait_for(lambda flow: flow.protocol == "tls")
    assert pinned() == b"HTTP/1.1 200"
    assert (failure.side, failure.detail) == ("client", "unknown_ca")
    assert "refused our certificate" in netcapture.tcp.last.reason
"""
    )
    result = project.run(*workers, use="xdist" if workers else "")
    result.assert_outcomes(passed=1)
    reason = "the client refused our certificate (unknown_ca)"
    named = f"netcapture: not decrypted: {HOST}:443: {reason}"
    result.stdout.fnmatch_lines([named, "netcapture: * flows*"], consecutive=True)


def test_what_was_asked_for_is_not_named(project: Project) -> None:
    project.test(
        PINNED.replace("CA", project.server.ca)
        + """
def test_passed_through(netcapture):
    assert pinned() == b"HTTP/1.1 200"
    assert "passthrough" in netcapture.tcp.last.reason
"""
    )
    result = project.run(f"--netcapture-passthrough={HOST}")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*not decrypted*")


class Lines:
    """A terminal reporter, as far as the summary needs one."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write_line(self, line: str) -> None:
        self.lines.append(line)


def test_of_many_some_are_named_and_all_are_counted() -> None:
    summary, reporter = Summary(), Lines()
    summary.add({}, [], {f"h{number:02}.example.com:443": "why" for number in range(8)})
    summary.add({}, [], {f"h{number:02}.example.com:443": "why" for number in range(6, 13)})
    for _ in summary.pytest_terminal_summary(reporter):
        pass
    assert reporter.lines[0] == "netcapture: not decrypted: h00.example.com:443: why"
    assert reporter.lines[10:11] == ["netcapture: not decrypted: 3 more"]
    assert len(reporter.lines) == 12
