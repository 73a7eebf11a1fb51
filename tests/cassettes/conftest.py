"""Makers of flows and cassettes, as fixtures: tests say only what matters to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_netcapture.cassettes.secrets import Secrets
from pytest_netcapture.cassettes.store import Cassette
from pytest_netcapture.flows import Body, Headers, HttpFlow, HttpRequest, HttpResponse
from pytest_netcapture.settings import CassetteUse, RecordMode

HOUR_NS = 3_600_000_000_000


def make_request(
    method: str = "GET",
    target: str = "/",
    *,
    host: str = "api.example.com",
    headers: Any = (),
    body: bytes = b"",
    **more: Any,
) -> HttpRequest:
    return HttpRequest(
        method=method,
        scheme="https",
        host=host,
        port=443,
        target=target,
        headers=Headers(list(headers)),
        body=Body(len(body), body),
        **more,
    )


def make_flow(
    method: str = "GET",
    target: str = "/",
    *,
    answer: bytes = b'{"ok": true}',
    status: int = 200,
    answer_headers: Any = (("Content-Type", "application/json"),),
    **request: Any,
) -> HttpFlow:
    response = HttpResponse(
        status=status, headers=Headers(list(answer_headers)), body=Body(len(answer), answer)
    )
    made = make_request(method, target, **request)
    return HttpFlow(host=made.host, port=made.port, request=made, response=response)


@pytest.fixture
def request_of() -> Callable[..., HttpRequest]:
    return make_request


@pytest.fixture
def flow_of() -> Callable[..., HttpFlow]:
    return make_flow


@pytest.fixture
def open_cassette(tmp_path: Any) -> Iterator[Callable[..., Cassette]]:
    """Open `name`; by default in a session that starts after every file was written."""
    opened: list[Cassette] = []
    (tmp_path / "spool").mkdir()

    def open_one(
        mode: str = "once",
        *,
        name: str = "c.cassette",
        environ: Any = None,
        session_age: int = -HOUR_NS,
        started: int = 0,
        **use: Any,
    ) -> Cassette:
        cassette = Cassette.open(
            CassetteUse(str(tmp_path / name), RecordMode(mode), **use),
            session_started_ns=started or time.time_ns() - session_age,
            secrets=Secrets.from_environ(environ or {}),
            spool_dir=str(tmp_path / "spool"),
        )
        opened.append(cassette)
        return cassette

    yield open_one
    for cassette in opened:
        cassette.close()


@pytest.fixture
def record(open_cassette: Callable[..., Cassette]) -> Callable[..., Any]:
    """Record flows and save them; return what `save` returned."""

    def record_all(*flows: Any, mode: str = "new_episodes", **use: Any) -> Any:
        cassette = open_cassette(mode, **use)
        for flow in flows:
            cassette.record(flow)
        saved = cassette.save()
        cassette.close()
        return saved

    return record_all
