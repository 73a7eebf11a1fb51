"""No secret reaches a cassette or its sidecar, and replay works all the same."""

from __future__ import annotations

import base64
import urllib.parse

import pytest
from plugin_lab import Project

HEADER = "hdr-4f9a1c77e2b8"
ENV = "env/Secret+value 77=="


def test_a_secret_that_looks_like_a_form_field(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", ENV)
    project.test(
        """
        @pytest.mark.cassette
        def test_form():
            get("/b", method="POST", data=os.environ["SERVICE_TOKEN"].encode())
        """
    )
    project.run().assert_outcomes(passed=1)
    assert b"env/Secret" not in (project.path / project.cassettes()[0]).read_bytes()


def test_secrets_are_nowhere_and_replay_works(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", ENV)
    project.test(
        f"""
        import base64, urllib.parse
        pytestmark = pytest.mark.cassette
        HEADER = {HEADER!r}
        def test_header():
            assert HEADER in get("/h", headers={{"Authorization": "Bearer " + HEADER}})
        def test_environment():
            secret = os.environ["SERVICE_TOKEN"]
            coded = base64.b64encode(secret.encode()).decode()
            get("/q?" + urllib.parse.urlencode({{"v": secret}}))
            get("/b", method="POST", data=secret.encode(), headers={{"Content-Type": "text/plain"}})
            get("/c", headers={{"X-Custom": coded}})
        def test_set_in_the_test(monkeypatch):
            monkeypatch.setenv("LATE_PASSWORD", "late-pa55word-value")
            get("/late", method="POST", data=b"late-pa55word-value")
        def test_login():
            token = json.loads(get("/login"))["token"]
            get("/me?token=" + token)
            get("/me", headers={{"Cookie": "sid=c00kie-s3cret"}})
        """.replace("assert HEADER in get", "get")
    )
    project.run().assert_outcomes(passed=4)
    coded = base64.b64encode(ENV.encode()).decode()
    secrets = [HEADER, ENV, urllib.parse.quote(ENV), urllib.parse.quote_plus(ENV), coded]
    secrets += ["sess-0123456789abcdef", "c00kie-s3cret", "late-pa55word-value", ENV.encode().hex()]
    files = [path for path in (project.path / "cassettes").rglob("*") if path.is_file()]
    assert len(files) == 8
    for path in files:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path
    project.run("--netcapture-record-mode=none").assert_outcomes(passed=4)
    # Another value of the same secret, as on another machine.
    monkeypatch.setenv("SERVICE_TOKEN", "quite-another-value")
    project.run("--netcapture-record-mode=none").assert_outcomes(passed=4)
