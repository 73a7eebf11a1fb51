"""Run h2spec through the engine to nginx: python tests/suites/h2spec.py

Builds it with Go from the module proxy (or takes the one on the PATH), and prints its list. Exit
status: h2spec's own. Needs nginx, and Go where h2spec is not installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "benchmarks"))  # for its server

MODULE = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"
SECONDS = "5"
"""How long h2spec waits for an answer."""


def build(folder: str) -> str:
    """Return the path of h2spec."""
    found = shutil.which("h2spec")
    if found:
        return found
    go = shutil.which("go") or "/usr/local/go/bin/go"
    environment = {**os.environ, "GOBIN": folder, "GOFLAGS": "-modcacherw"}
    subprocess.run([go, "install", MODULE], env=environment, check=True)
    return os.path.join(folder, "h2spec")


def main() -> int:
    from server import NAME, nginx

    with tempfile.TemporaryDirectory(prefix="h2spec-") as folder:
        os.chmod(folder, 0o755)  # nginx's worker may be another user
        program = build(folder)
        with nginx(os.path.join(folder, "nginx")) as server:
            path = server.file("index.html", 1024)
            command = [
                os.path.join(os.path.dirname(sys.executable), "netcapture"),
                "run",
                "--quiet",
            ]
            command += ["--map-host", f"{NAME}=127.0.0.1:{server.http2}"]
            command += ["--upstream-ca", server.ca, "--", program, "-h", NAME, "-p", "443"]
            command += ["-t", "-k", "-P", path, "-o", SECONDS]
            environment = {**os.environ, "NETCAPTURE_UPSTREAM": "loopback"}
            return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
