"""The command in this process, and cassettes for it to work on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_netcapture.cassettes.secrets import Secrets
from pytest_netcapture.cassettes.writing import write_flows
from pytest_netcapture.flows import (
    AnyFlow,
    Body,
    DnsAnswer,
    DnsFlow,
    Headers,
    HttpFlow,
    HttpRequest,
    HttpResponse,
)


class Done(NamedTuple):
    status: int
    out: str
    err: str


def exchange(
    method: str = "GET",
    target: str = "/",
    answer: bytes = b'{"ok": true}',
    *,
    host: str = "api.example.com",
    status: int = 200,
    body: bytes = b"",
    headers: Any = (),
    answer_headers: Any = (("Content-Type", "application/json"),),
    coding: str = "",
) -> HttpFlow:
    request = HttpRequest(
        method=method,
        scheme="https",
        host=host,
        port=443,
        target=target,
        headers=Headers([("Host", host), *headers]),
        body=Body(len(body), body),
    )
    response = HttpResponse(
        status=status,
        reason={200: "OK", 201: "Created", 404: "Not Found"}.get(status, ""),
        headers=Headers(list(answer_headers)),
        body=Body(len(answer), answer, coding=coding),
    )
    return HttpFlow(host=host, port=443, request=request, response=response)


def lookup(name: str = "api.example.com", *addresses: str) -> DnsFlow:
    answers = [DnsAnswer(name, "A", 60, address) for address in addresses or ("10.0.0.1",)]
    return DnsFlow(host=name, port=53, name=name, type="A", rcode="NOERROR", answers=answers)


@pytest.fixture
def netcapture(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Run the command; an exception that it does not handle is the test's."""

    def run(*arguments: str | Path) -> Done:
        from pytest_netcapture.cli.main import main

        monkeypatch.setattr(sys, "argv", ["netcapture", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        done = capsys.readouterr()
        return Done(int(ended.value.code or 0), done.out, done.err)

    return run


@pytest.fixture
def cassette(tmp_path: Path) -> Callable[..., Path]:
    """Write a cassette of flows; return where it is."""

    def write(*flows: AnyFlow, name: str = "api.cassette") -> Path:
        path = tmp_path / name
        write_flows(str(path), flows, secrets=Secrets())
        return path

    return write


@pytest.fixture
def exchange_of() -> Callable[..., HttpFlow]:
    return exchange


@pytest.fixture
def lookup_of() -> Callable[..., DnsFlow]:
    return lookup
