"""Policy files for browsers: what they hold, and where they appear."""

from __future__ import annotations

import json
import os

import pytest

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox import browsers, capabilities, trust

DER = b"\x30\x03\x02\x01\x00"
OURS = "MAMCAQA="
PEM = b"-----BEGIN CERTIFICATE-----\nMAMCAQA=\n-----END CERTIFICATE-----\n"


@pytest.fixture
def only(monkeypatch):
    """`only(root, installed, firefox)`: no browser but these."""

    def only(root="", installed=(), firefoxes=(), system_policy="/none"):
        monkeypatch.setattr(browsers, "CHROMIUMS", {root: tuple(installed)} if root else {})
        monkeypatch.setattr(browsers, "FIREFOXES", tuple(firefoxes))
        monkeypatch.setattr(browsers, "FIREFOX_SYSTEM_POLICY", str(system_policy))

    return only


def test_no_browser_no_policy(only, tmp_path):
    only(f"{tmp_path}/chromium", ["/none", "~/none"], ["/none"])
    assert browsers.policies(DER, "/ca.pem", {"HOME": str(tmp_path)}) == []


def test_a_browser_is_known_by_its_folder_or_its_program(only, tmp_path):
    (tmp_path / ".cache/browser").mkdir(parents=True)
    only(f"{tmp_path}/etc/chromium", ["~/.cache/browser"])
    assert browsers.policies(DER, "/ca.pem", {}) == []
    (addition,) = browsers.policies(DER, "/ca.pem", {"HOME": str(tmp_path)})
    assert (addition.directory, addition.name) == (
        str(tmp_path),
        "etc/chromium/policies/managed/zz-netcapture.json",
    )
    assert json.loads(addition.content) == {"CACertificates": [OURS]}


def test_other_policies_stay(tmp_path):
    (tmp_path / "a.json").write_text('{"CACertificates": ["AAAA"]}')
    (tmp_path / "b.json").write_text('{"CACertificates": ["BBBB"], "HomepageLocation": "x"}')
    (tmp_path / "c.json").write_text("not JSON")
    assert json.loads(browsers.chromium_policy(str(tmp_path), DER)) == {
        "CACertificates": ["BBBB", OURS]
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{}", {"policies": {"Certificates": {"Install": ["/ca.pem"]}}}),
        (
            '{"policies": {"X": 1, "Certificates": {"Y": 2, "Install": ["/a"]}}}',
            {"policies": {"X": 1, "Certificates": {"Y": 2, "Install": ["/a", "/ca.pem"]}}},
        ),
        ("[1]", {"policies": {"Certificates": {"Install": ["/ca.pem"]}}}),
    ],
)
def test_firefox_keeps_its_policies(tmp_path, before, after):
    (tmp_path / "policies.json").write_text(before)
    assert json.loads(browsers.firefox_policy(f"{tmp_path}/policies.json", "/ca.pem")) == after


def test_firefoxes_system_policy_wins_over_the_programs_own(only, tmp_path):
    (tmp_path / "firefox").mkdir()
    (tmp_path / "policies.json").write_text("{}")
    only(firefoxes=[f"{tmp_path}/firefox", "/none"], system_policy=tmp_path / "policies.json")
    (addition,) = browsers.policies(DER, "/ca.pem", {})
    assert addition.path == f"{tmp_path}/policies.json"
    only(firefoxes=[f"{tmp_path}/firefox", "/none"])
    (addition,) = browsers.policies(DER, "/ca.pem", {})
    assert addition.path == f"{tmp_path}/firefox/distribution/policies.json"


def test_etc_is_left_writable_for_root(as_root):
    with pytest.raises(EnvironmentProblem, match="not overlaid for root") as caught:
        browsers.check(browsers.Addition("/etc", "chromium/policies/managed/x", b""))
    assert caught.value.cure == "mkdir -p /etc/chromium/policies/managed"


@pytest.mark.parametrize("rootless", [True, False])
@pytest.mark.live
def test_policies_appear(in_sandbox, scratch, only, rootless):
    def child():
        os.mkdir(f"{scratch}/private", 0o700)
        for name in ("chromium", "firefox"):
            os.mkdir(f"{scratch}/{name}")
        with open(f"{scratch}/chromium/old", "w") as file:
            file.write("old")
        with open(f"{scratch}/firefox/policies.json", "w") as file:
            file.write("{}")
        places = trust.Places((), browsers=True)
        capabilities.keep_only(capabilities.TESTS)
        report = trust.install(PEM, directory=f"{scratch}/private", places=places)
        with open(f"{scratch}/chromium/policies/managed/zz-netcapture.json") as file:
            chromium = json.load(file)
        with open(f"{scratch}/firefox/policies.json") as file:
            firefox = json.load(file)
        return report.failed, sorted(os.listdir(f"{scratch}/chromium")), chromium, firefox

    only(f"{scratch}/chromium", (), [scratch], f"{scratch}/firefox/policies.json")
    assert in_sandbox(child, rootless=rootless) == (
        (),
        ["old", "policies"],
        {"CACertificates": [OURS]},
        {"policies": {"Certificates": {"Install": [f"{scratch}/private/netcapture-ca.pem"]}}},
    )
