"""`netcapture doctor` where capture works, works otherwise, and does not work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_netcapture.cli import doctor
from pytest_netcapture.redirect.base import Support
from pytest_netcapture.sandbox.facts import Facts
from pytest_netcapture.sandbox.probe import Finding

FORBIDDING = str(Path(__file__).parent.parent / "plugin" / "forbidding.py")
DOCTOR = [
    sys.executable,
    "-c",
    "import sys; sys.argv = ['netcapture', 'doctor', *sys.argv[1:]]; from pytest_netcapture.cli.main import main; main()",
]
NO_TPROXY = Support("tproxy", available=False, reason="the kernel refuses it", cure="modprobe x")
SECCOMP = Support("seccomp", available=True, notes=("a note",))


def ask(*args: str, way: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    before = [sys.executable, FORBIDDING, way] if way else []
    return subprocess.run(
        [*before, *DOCTOR, *args], capture_output=True, text=True, env=os.environ | variables
    )


def asked(way: str = "", **variables: str) -> dict:
    return json.loads(ask("--json", way=way, **variables).stdout)


@pytest.mark.live
def test_a_machine_on_which_these_tests_run_is_well() -> None:
    done = ask()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pytest --netcapture works here\n" in done.stdout
    assert "  ok   tproxy" in done.stdout
    assert "  ok   tun" in done.stdout or "tun: " in done.stdout
    assert "  ok   seccomp" in done.stdout
    found = asked()
    assert (found["works"], found["redirector"]) == (True, "tproxy")
    assert found["machine"]["kernel"].startswith("Linux version")


CAUSES = [
    ("filter", "EPERM (Operation not permitted): a seccomp filter of", "seccomp=unconfined"),
    ("limit", "user.max_user_namespaces is 0", "sudo sysctl -w user.max_user_namespaces=28633"),
    ("chroot", "runs in a chroot", "outside the chroot"),
    ("yama", "a seccomp filter of", "seccomp=unconfined"),
]


@pytest.mark.live
@pytest.mark.parametrize(("way", "cause", "cure"), CAUSES, ids=[c[0] for c in CAUSES])
def test_a_cause_is_named_with_its_cure_and_what_is_used_instead(
    way: str, cause: str, cure: str
) -> None:
    done = ask(way=way)
    assert done.returncode == 0, done.stdout + done.stderr
    assert cause in done.stdout
    assert cure in done.stdout
    assert "  no   tproxy: no " in done.stdout
    assert "works here, by seccomp instead of tproxy" in done.stdout
    found = asked(way)
    assert found["redirector"] == "seccomp"
    assert [r["available"] for r in found["redirectors"]] == [False, False, True]


NO_NFTABLES = "  no   tproxy: the kernel has no nftables"


@pytest.mark.live
def test_without_nftables_tun_takes_its_place() -> None:
    done = ask(way="nftables")
    assert done.returncode == 0, done.stdout + done.stderr
    assert NO_NFTABLES in done.stdout
    assert "  ok   tun\n" in done.stdout
    assert "works here, by tun instead of tproxy" in done.stdout
    assert asked("nftables")["redirector"] == "tun"


@pytest.mark.live
def test_without_a_tun_device_either_seccomp_does() -> None:
    done = ask(way="neither")
    assert done.returncode == 0, done.stdout + done.stderr
    assert NO_NFTABLES in done.stdout
    assert "  no   tun: cannot open /dev/net/tun: No such file or directory\n" in done.stdout
    assert "       cure: modprobe tun (as root, once); in a container: --device" in done.stdout
    assert "works here, by seccomp instead of tproxy" in done.stdout


@pytest.mark.live
@pytest.mark.parametrize("way", ["limit", "chroot"])
def test_what_files_show_is_listed_by_itself(way: str) -> None:
    causes = [hindrance["cause"] for hindrance in asked(way)["hindrances"]]
    wanted = {"limit": "user.max_user_namespaces is 0", "chroot": "this process runs in a chroot"}
    assert any(cause.startswith(wanted[way]) for cause in causes)


@pytest.mark.live
def test_what_yama_changes_is_said() -> None:
    assert "note: kernel.yama.ptrace_scope is 1" in ask(way="yama").stdout


@pytest.mark.live
def test_where_nothing_works_the_status_is_3() -> None:
    done = ask(way="nothing")
    assert done.returncode == 3, done.stdout
    assert "  no   seccomp: no filter can be installed: ENOSYS" in done.stdout
    assert "pytest --netcapture does not work here yet" in done.stdout
    found = asked("nothing")
    assert (found["works"], found["redirector"]) == (False, None)


@pytest.mark.live
def test_what_cannot_be_made_to_trust_is_named(tmp_path: Path) -> None:
    store = tmp_path / "cacerts"
    store.write_bytes(b"no key store")
    done = ask(JAVA_TOOL_OPTIONS=f"-Djavax.net.ssl.trustStore={store}")
    assert done.returncode == 0
    assert "  no   trust: " in done.stdout
    assert str(store) in done.stdout
    assert "docs/clients.md" in done.stdout


def diagnosis(*redirectors: Support, **facts: object) -> doctor.Diagnosis:
    return doctor.Diagnosis(Facts(**facts), [], [], list(redirectors))  # type: ignore[arg-type]


def test_the_first_that_works_is_taken() -> None:
    assert diagnosis(NO_TPROXY, SECCOMP).redirector == "seccomp"
    assert diagnosis(Support("tproxy", available=True), SECCOMP).redirector == "tproxy"
    assert diagnosis(NO_TPROXY).redirector == ""


def test_tproxy_needs_a_sandbox() -> None:
    works = Support("tproxy", available=True)
    missing = Finding("mounts", False, "refused", "do this")
    found = doctor._in_sandbox(works, missing)
    assert (found.available, found.reason, found.cure) == (False, "no mounts: refused", "do this")
    assert doctor._tproxy(doctor._in_sandbox(works, None), Facts()) is works


def test_a_module_that_wsl_lacks() -> None:
    facts = Facts(kernel="Linux version 5.15.90.1-microsoft-standard-WSL2")
    found = doctor._tproxy(NO_TPROXY, facts)
    assert "modprobe x" in found.cure
    assert "wsl --update" in found.cure


def test_a_reason_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding(name, False, "refused", "do this") for name in ("a", "b")]
    doctor._print(doctor.Diagnosis(Facts(), [], findings, [NO_TPROXY, SECCOMP]))
    text = capsys.readouterr().out
    assert text.count("do this") == 1
    assert "  no   b: for the same reason" in text
    assert "note: a note" in text
