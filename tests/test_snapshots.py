"""Claims about encryption and retries, and requests as plain data."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import pytest

from pytest_netcapture.capture import Netcapture
from pytest_netcapture.errors import AssertionMismatch, UsageError
from pytest_netcapture.flows import (
    Body,
    DnsFlow,
    FlowError,
    Headers,
    HttpFlow,
    HttpRequest,
    HttpResponse,
    TcpFlow,
)


class Source:
    def __init__(self, *flows):
        self._flows = list(flows)

    def flows(self):
        return self._flows


def exchange(url, method="GET", *, status=200, body=b"", headers=(), error=None, tls="TLSv1.3"):
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    request = HttpRequest(
        method=method,
        scheme=parts.scheme,
        host=parts.hostname,
        port=port,
        target=target,
        headers=Headers(list(headers)),
        body=Body(len(body), body),
    )
    return HttpFlow(
        host=parts.hostname,
        port=port,
        request=request,
        response=HttpResponse(status=status) if status else None,
        error=error,
        tls_version=tls if parts.scheme == "https" else "",
    )


def capture(*flows):
    return Netcapture(Source(*flows))


def failure(claim, *args, **kwargs):
    with pytest.raises(AssertionMismatch) as caught:
        claim(*args, **kwargs)
    return str(caught.value)


def test_encrypted():
    seen = capture(
        exchange("https://a.example/x"),
        DnsFlow(host="a.example", name="a.example", type="A", rcode="NOERROR"),
        TcpFlow(host="db.example", port=5432, sent=3, reason="loopback"),
        TcpFlow(host="no.example", port=25, error=FlowError("refused")),
    )
    seen.assert_encrypted()
    seen.assert_encrypted(at_least="1.3")
    mixed = capture(exchange("https://a.example/x"), exchange("http://b.example/y"))
    assert failure(mixed.assert_encrypted) == (
        "expected no plaintext, seen 1 flow: anything\n\n"
        "there was:\n"
        "  GET http://b.example/y → 200 0 B"
    )
    mixed.assert_encrypted(host="a.example")
    text = failure(capture(TcpFlow(host="db.example", port=5432, sent=3)).assert_encrypted)
    assert text.startswith("expected no plaintext, seen 1 flow")


def test_versions_of_tls():
    old = capture(exchange("https://a.example/x", tls="TLSv1.2"))
    old.assert_encrypted(at_least="1.2")
    text = failure(old.assert_encrypted, at_least="1.3")
    assert text.startswith("expected TLS 1.3 or later, seen TLSv1.2: anything\n")
    opaque = capture(TcpFlow(host="a.example", port=443, sni="a.example", sent=9))
    opaque.assert_encrypted()
    text = failure(opaque.assert_encrypted, at_least="1.2")
    assert text.startswith("cannot tell which version of TLS this was")
    assert "take the host out of passthrough" in text
    with pytest.raises(UsageError, match="at_least='TLS' is no version of TLS"):
        opaque.assert_encrypted(at_least="TLS")


def test_retries():
    url = "https://a.example/job"
    seen = capture(
        exchange(url, status=503),
        exchange("https://a.example/other"),
        exchange(url, status=0, error=FlowError("reset")),
        exchange(url),
        exchange(url),  # after a success: no retry
    )
    seen.assert_retried("GET", url, times=2)
    seen.assert_retried("GET", url, at_most=2)
    seen.assert_retried("GET", url)
    seen.assert_retried(path="/other", times=0)
    text = failure(seen.assert_retried, "GET", url, at_most=1)
    assert text.startswith(
        f"expected to be retried at most once, seen twice: GET {url}\n\nmatching:"
    )
    text = failure(seen.assert_retried, path="/other")
    assert text.startswith("expected to be retried at least once, seen 0 times")
    with pytest.raises(UsageError, match="times and at_most are both given"):
        seen.assert_retried(times=1, at_most=2)


def test_a_snapshot_is_the_same_in_every_run():
    body = {
        "id": "0b0f8a52-6d1e-4b5a-9d0a-0a3f0f0a7c11",
        "at": "2026-01-02T10:00:00Z",
        "password": "hunter2",
        "amount": 42,
        "ok": True,
        "items": [{"when": 1700000000}, "x"],
    }
    json_kind = ("Content-Type", "application/json")
    seen = capture(
        exchange(
            "https://a.example/v1/0b0f8a52-6d1e-4b5a-9d0a-0a3f0f0a7c11/x?a=1&b=2&a=3",
            "POST",
            body=json.dumps(body).encode(),
            headers=[json_kind, ("Authorization", "Bearer abc")],
        ),
        exchange(
            "http://b.example/",
            "POST",
            body=b"a=1&a=2&token=s3cret",
            headers=[("content-type", "application/x-www-form-urlencoded")],
        ),
        exchange("http://b.example/raw", "PUT", body=b"\xff\x00"),
        exchange("http://b.example/text", "PUT", body=b"hello"),
    )
    assert seen.snapshot(headers=["authorization"]) == [
        {
            "method": "POST",
            "url": "https://a.example/v1/<uuid>/x",
            "query": {"a": ["1", "3"], "b": "2"},
            "headers": {"authorization": "<secret>"},
            "json": {
                "id": "<uuid>",
                "at": "<date>",
                "password": "<secret>",
                "amount": 42,
                "ok": True,
                "items": [{"when": "<epoch>"}, "x"],
            },
        },
        {
            "method": "POST",
            "url": "http://b.example/",
            "form": {"a": ["1", "2"], "token": "<secret>"},
        },
        {"method": "PUT", "url": "http://b.example/raw", "body": "<2 bytes>"},
        {"method": "PUT", "url": "http://b.example/text", "body": "hello"},
    ]
    assert seen.snapshot("POST", host="a.example", mask=False)[0]["json"] == body
    assert seen.snapshot(path="/nowhere") == []
