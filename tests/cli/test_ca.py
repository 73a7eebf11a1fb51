"""`netcapture ca`: in a mount namespace, where the machine's store is another one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

CODE = "from pytest_netcapture.cli.main import main; main()"
CA = [sys.executable, "-c", CODE, "ca"]
STORE = "/usr/local/share/ca-certificates"
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
PRIVATE = """
set -e
mount --make-rprivate /
for one in /etc/ssl /usr/local/share/ca-certificates; do
    mkdir -p "$0$one"
    cp -a "$one/." "$0$one"
    mount --bind "$0$one" "$one"
done
exec "$@"
"""


@pytest.fixture
def private(tmp_path):
    """Commands run with copies of the store's directories in their places."""
    if os.geteuid():
        pytest.skip("needs real root")
    if not os.path.isdir(STORE) or not shutil.which("update-ca-certificates"):
        pytest.skip("not in CI: not Debian's store")
    environ = os.environ | {"XDG_DATA_HOME": str(tmp_path / "data")}

    def run(*command):
        inside = ["unshare", "--mount", "sh", "-c", PRIVATE, str(tmp_path / "root"), *command]
        return subprocess.run(inside, capture_output=True, text=True, env=environ, timeout=120)

    return run


def script(*commands):
    return ["sh", "-c", " && ".join(commands)]


ASK = f"{sys.executable} -c '{CODE}' ca"
COUNT = f"grep -c 'BEGIN CERT' {BUNDLE}"


@pytest.mark.live
def test_it_is_trusted_until_it_is_uninstalled(private):
    before = int(subprocess.run(["sh", "-c", COUNT], capture_output=True).stdout)
    done = private(
        *script(
            f"{ASK} install --yes >/dev/null",
            COUNT,
            f"{ASK} show | openssl verify -CAfile {BUNDLE}",
            f"{ASK} uninstall",
            COUNT,
            f"ls {STORE}/netcapture-local.crt 2>&1 || true",
            f"{ASK} uninstall",
        )
    )
    assert done.returncode == 0, done.stderr
    first, verified, removed, after, gone, nothing = done.stdout.splitlines()
    assert int(first) == before + 1
    assert verified == "stdin: OK"
    assert (removed, int(after)) == ("Removed.", before)
    assert "No such file" in gone
    assert nothing == "There was none."


@pytest.mark.live
def test_without_consent_nothing_is_done(private, tmp_path):
    done = private(*script(f"{ASK} install </dev/null", "true"))
    assert done.returncode == 130
    assert "can then imitate any server to this machine" in done.stdout
    assert not (tmp_path / "data").exists()


@pytest.mark.live
def test_a_second_one_is_refused(private):
    done = private(*script(f"{ASK} install --yes >/dev/null", f"{ASK} install --yes"))
    assert done.returncode == 2
    assert "there is one already" in done.stderr


@pytest.mark.live
def test_a_key_that_others_could_read_is_not_used(private, tmp_path):
    key = tmp_path / "data" / "netcapture" / "ca.pem"
    done = private(*script(f"{ASK} install --yes >/dev/null", f"chmod 644 {key}", f"{ASK} show"))
    assert done.returncode == 3
    assert "may be known to others: its mode is -rw-r--r--" in done.stderr


def test_without_one_there_is_nothing_to_show(tmp_path):
    environ = os.environ | {"XDG_DATA_HOME": str(tmp_path)}
    done = subprocess.run([*CA, "show"], capture_output=True, text=True, env=environ)
    assert done.returncode == 2
    assert "sudo netcapture ca install" in done.stderr
