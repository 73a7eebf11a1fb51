"""A suite that needs a database, without one: python tests/suites/offline.py

SQLAlchemy-Utils, from its sdist: those of its tests that use PostgreSQL are run against a real server,
then recorded, then played with the server stopped, one after the other and by two workers. What is
printed: the outcomes and the time of each. Left out is one module whose statements differ from run to
run by themselves (they list the members of a set of objects), and one that makes databases.

Exit status: 0, or 1 if an outcome differs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests" / "services"))

from real_servers import PASSWORD, postgresql  # noqa: E402 (it lies in another folder)

SUITE = "sqlalchemy-utils==0.43.0"
NEEDS = ("sqlalchemy>=2", "psycopg2-binary", "flexmock", "arrow", "intervals", "pytest-xdist")
HOST = "db.example.com"
_LEFT_OUT = ("test_database", "test_select_correlated_expression", "test_m2m_m2m")
_OTHER_DATABASES = "not ysql and not MySql and not MySQL"
_COUNTS = re.compile(r"\d+ (?:passed|failed|errors?)")


class Suite:
    def __init__(self, folder: Path) -> None:
        self.python = str(folder / "venv" / "bin" / "python")
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        self._pip("install", "--editable", str(CHECKOUT), *NEEDS)
        where = ("--dest", str(folder))
        self._pip("download", "--no-deps", "--no-binary", SUITE.partition("=")[0], SUITE, *where)
        (archive,) = folder.glob("*.tar.gz")
        shutil.unpack_archive(archive, folder / "unpacked")
        (self.source,) = (folder / "unpacked").iterdir()
        found = self.source.joinpath("tests").rglob("test_*.py")
        self.files = sorted(
            str(path)
            for path in found
            if "postgresql_dsn" in path.read_text() and path.stem not in _LEFT_OUT
        )

    def _pip(self, *words: str) -> None:
        subprocess.run([self.python, "-m", "pip", *words, "--quiet"], check=True)

    def run(self, title: str, host: str, password: str, *options: str) -> list[str]:
        """Run the tests; print the time, and return the counts."""
        prefix = "SQLALCHEMY_UTILS_TEST_"
        given = {"DB": "shop", "POSTGRESQL_USER": "app", "POSTGRESQL_HOST": host}
        environ = os.environ | {prefix + name: value for name, value in given.items()}
        environ |= {f"{prefix}POSTGRESQL_PASSWORD": password, "PYTHONPATH": str(self.source)}
        command = [self.python, "-m", "pytest", "-q", "-W", "ignore", "-k", _OTHER_DATABASES]
        began = time.monotonic()
        done = subprocess.run(
            [*command, *options, *self.files],
            cwd=self.source,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        last = done.stdout.splitlines()[-1] if done.stdout else done.stderr
        print(f"{title}: {time.monotonic() - began:.1f} s, {last}", flush=True)
        return _COUNTS.findall(last)


def main() -> int:
    capture = ("--netcapture", "--netcapture-auto-cassette")
    with tempfile.TemporaryDirectory(prefix="suite-") as folder:
        suite = Suite(Path(folder))
        with postgresql() as server:
            at = f"127.0.0.1:{server.port}"
            plain = suite.run("with a database", at, PASSWORD)
            mapping = f"--netcapture-map-host={HOST}:5432={at}"
            recorded = suite.run("recorded", HOST, PASSWORD, *capture, mapping)
        played = [
            suite.run(title, HOST, "no-password", *capture, "--netcapture-record-mode=none", *more)
            for title, more in (("played", ()), ("played by two workers", ("-n", "2")))
        ]
    return int(any(one != plain for one in (recorded, *played)))


if __name__ == "__main__":
    sys.exit(main())
