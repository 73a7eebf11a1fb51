"""Real clients trust our CA inside the sandbox, and nothing is changed outside."""

from __future__ import annotations

import http.server
import os
import shutil
import ssl
import subprocess
import sys
import threading

import certifi
import pytest
import trustme

from pytest_netcapture.sandbox import bundles, capabilities, mounts, trust
from pytest_netcapture.sandbox.capabilities import is_root

pytestmark = pytest.mark.live

CLEAN = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
"""An environment without a variable that names a bundle."""

EVERYTHING = (
    "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
)
REQUESTS = "import sys, requests; print(requests.get(sys.argv[1]).text)"
NODE = "require('https').get(process.argv[1], r => r.on('data', d => console.log(String(d))))"


@pytest.fixture(scope="session")
def ca():
    return trustme.CA(organization_name="pytest-netcapture tests")


@pytest.fixture(scope="session")
def ca_pem(ca):
    return ca.cert_pem.bytes()


@pytest.fixture(scope="session")
def subject_hash(ca_pem):
    if not shutil.which("openssl"):
        pytest.skip("openssl computes the subject's hash")
    run = subprocess.run(
        ["openssl", "x509", "-hash", "-noout"], input=ca_pem, capture_output=True, check=True
    )
    return run.stdout.decode().strip()


@pytest.fixture(scope="session")
def server_context(ca):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    return context


class _Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass


@pytest.fixture
def get(server_context):
    """`get(program)`: run it with the address of an HTTPS server as last argument."""

    def run(program, environ=CLEAN):
        server = http.server.HTTPServer(("127.0.0.1", 0), _Hello)
        server.socket = server_context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"https://localhost:{server.server_port}/"
        done = subprocess.run(
            [*program, url], env=environ, capture_output=True, text=True, timeout=15
        )
        thread.join()
        server.server_close()
        return done.returncode, done.stdout.strip() or done.stderr[-300:]

    return run


@pytest.fixture
def trusting(in_sandbox, scratch, ca_pem, request):
    """`trusting(function)`: run it in a sandbox that trusts the CA; it gets the report."""

    def run(function, *, rootless=True, subject_hash=None):
        def child():
            report = trust.install(
                ca_pem,
                directory=_private(scratch),
                places=trust.find(sys.path, {}),
                subject_hash=subject_hash,
            )
            capabilities.keep_only(capabilities.TESTS)
            return function(report)

        return in_sandbox(child, rootless=rootless)

    return run


def _private(scratch):
    directory = f"{scratch}/private"
    os.mkdir(directory, 0o700)
    return directory


def _content(path):
    with open(path, "rb") as file:
        return file.read()


def _needs(program):
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    return program


def _needs_system_bundle():
    if not bundles.system_bundle():
        pytest.skip("this system has no CA bundle")


@pytest.mark.parametrize("rootless", [True, False])
def test_curl_trusts_the_ca(trusting, get, rootless):
    _needs_system_bundle()
    command = [_needs("curl"), "-sS", "--noproxy", "*"]
    assert trusting(lambda _: get(command), rootless=rootless) == (0, "hello")
    assert get(command)[0] == 60  # CURLE_PEER_FAILED_VERIFICATION: outside nothing has changed


@pytest.mark.parametrize("rootless", [True, False])
def test_python_and_certifi_trust_the_ca(trusting, get, ca_pem, rootless):
    def child(report):
        return _content(certifi.where()).endswith(ca_pem), get([sys.executable, "-c", REQUESTS])

    before = _content(certifi.where())
    assert trusting(child, rootless=rootless) == (True, (0, "hello"))
    assert _content(certifi.where()) == before


@pytest.mark.parametrize("rootless", [True, False])
def test_pythons_default_context_trusts_the_ca(trusting, get, subject_hash, rootless):
    _needs_system_bundle()
    answer = trusting(
        lambda _: get([sys.executable, "-c", EVERYTHING]),
        rootless=rootless,
        subject_hash=subject_hash,
    )
    assert answer == (0, "hello")


@pytest.mark.parametrize("rootless", [True, False])
def test_node_trusts_the_ca(trusting, get, rootless):
    node = _needs("node")
    command = [node, "-e", NODE]

    def child(report):
        return get(command, CLEAN | trust.environment(report, CLEAN))

    assert trusting(child, rootless=rootless) == (0, "hello")


def test_the_roots_that_were_there_stay(trusting):
    def child(report):
        return [
            _content(path).count(b"BEGIN CERT") for path in (certifi.where(), report.roots_file)
        ]

    certificates = _content(certifi.where()).count(b"BEGIN CERT")
    inside, roots = trusting(child)
    assert inside == certificates + 1
    assert roots > 1


def test_users_who_cannot_pass_the_directory_read_the_bundles(trusting, as_root):
    def child(report):
        variable = trust.environment(report, {})["NODE_EXTRA_CA_CERTS"]
        os.setresuid(12345, 12345, 12345)
        return (
            b"BEGIN" in _content(certifi.where()),
            os.access(variable, os.R_OK),
            os.access(report.ca_file, os.R_OK),
        )

    _needs_system_bundle()
    assert trusting(child, rootless=False) == (True, True, False)


def test_without_overlays_the_directory_is_mirrored(trusting, get, subject_hash, monkeypatch):
    _needs_system_bundle()

    def refuse(*_):
        raise mounts.EnvironmentProblem("no overlays")

    monkeypatch.setattr(mounts, "overlay", refuse)

    def child(report):
        return report.failed, get([sys.executable, "-c", EVERYTHING])

    assert trusting(child, subject_hash=subject_hash) == ((), (0, "hello"))


def test_what_cannot_be_covered_is_listed_and_stops_nothing(in_sandbox, scratch, ca_pem):
    def child():
        directory = _private(scratch)
        for name, mode in (("unreadable", 0), ("good", 0o644)):
            with open(f"{scratch}/{name}", "w"):
                os.chmod(f"{scratch}/{name}", mode)
        paths = [f"{scratch}/{name}" for name in ("missing", "unreadable", "good")]
        capabilities.keep_only(capabilities.TESTS)
        places = trust.Places(tuple(paths))
        report = trust.install(ca_pem, directory=directory, places=places)
        return report.covered, report.failed

    covered, failed = in_sandbox(child)
    assert covered == (f"{scratch}/good",)
    assert failed == (
        (f"{scratch}/missing", "No such file or directory"),
        (f"{scratch}/unreadable", "Permission denied"),
    )


def test_a_bundle_without_a_last_newline_stays_valid(in_sandbox, scratch, ca_pem):
    def child():
        with open(f"{scratch}/bundle", "wb") as file:
            file.write(ca_pem.rstrip())
        places = trust.Places((f"{scratch}/bundle",))
        trust.install(ca_pem, directory=_private(scratch), places=places)
        return _content(f"{scratch}/bundle")

    assert in_sandbox(child) == ca_pem.rstrip() + b"\n" + ca_pem


def test_a_taken_hash_gets_the_next_number(in_sandbox, scratch, ca_pem):
    def child():
        os.mkdir(f"{scratch}/certs")
        open(f"{scratch}/certs/0a1b2c3d.0", "w").close()
        trust.install(
            ca_pem,
            directory=_private(scratch),
            places=trust.Places((), (f"{scratch}/certs",)),
            subject_hash="0a1b2c3d",
        )
        return sorted(os.listdir(f"{scratch}/certs"))

    assert in_sandbox(child) == ["0a1b2c3d.0", "0a1b2c3d.1"]


def _report(**changes):
    report = trust.TrustReport(
        "/run/ca.pem", "/run/roots.pem", (), ("/etc/ssl/certs",), (), "/etc/bundle"
    )
    return report._replace(**changes)


def test_variables_only_where_no_file_can_do_it(monkeypatch):
    node = "/etc/bundle" if is_root() else "/run/ca.pem"
    assert trust.environment(_report(), {}) == {
        "NODE_EXTRA_CA_CERTS": node,
        "DENO_TLS_CA_STORE": "mozilla,system",
        "UV_SYSTEM_CERTS": "true",
        "PGCHANNELBINDING": "disable",
    }


def test_variables_that_are_set_stay():
    environ = {"NODE_EXTRA_CA_CERTS": "/own.pem", "DENO_TLS_CA_STORE": "mozilla"}
    environ |= {"UV_SYSTEM_CERTS": "false", "PGCHANNELBINDING": "prefer"}
    assert trust.environment(_report(), environ) == {}


def test_variables_of_a_system_without_a_bundle():
    names = set(trust.environment(_report(system_bundle=None), {"SSL_CERT_FILE": "/own"}))
    assert names - {"PGCHANNELBINDING"} == {
        "NODE_EXTRA_CA_CERTS",
        "DENO_CERT",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
    }


def test_a_directory_that_could_not_be_covered_needs_a_variable(monkeypatch):
    monkeypatch.setattr(trust, "find_hashed_directories", lambda _: ["/etc/ssl/certs"])
    assert trust.environment(_report(directories=()), {})["SSL_CERT_FILE"] == "/etc/bundle"
