"""Run other people's suites without and with --netcapture: python tests/suites/compare.py [NAME ...]

For each project of projects.py: a virtual environment, the sdist of the pinned version, its test
requirements and this package; then its suite, in turn without and with capture, each run in an
offline world of its own (world.py). What is printed: the difference of the two lists of outcomes,
which should be empty; tests that are flaky without us; counts, and the ratio of the times.

Exit status: 0, or 1 if a suite differs or could not be run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import results
import world
from projects import PROJECTS, Project

CHECKOUT = Path(__file__).resolve().parents[2]
CAPTURE = "--netcapture"
_PLAIN, _CAPTURED = "plain", "captured"
_SHOWN = 50


class Unprepared(Exception):
    """A suite could not be set up."""


@dataclass
class Runs:
    """The runs of one kind, of one suite."""

    results: list[dict[str, results.Result]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def main() -> int:
    given = _arguments()
    failed = []
    rows = []
    for name in given.names or PROJECTS:
        project = PROJECTS[name]
        print(f"── {name} {project.version} ({project.kind}), {project.part}", flush=True)
        suite = Suite(project, given.work / name, given.option)
        try:
            suite.prepare()
            row, same = suite.compare(given.runs)
        except (Unprepared, OSError, subprocess.CalledProcessError) as error:
            row, same = f"{name}: {error}", False
        rows.append(row)
        if not same:
            failed.append(name)
    print("\n".join(["", *rows]))
    if failed:
        print(f"different, or not run: {', '.join(failed)}")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    work = Path(tempfile.gettempdir()) / f"suites-{os.getuid()}"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PROJECTS)}")
    parser.add_argument("--runs", type=int, default=2, help="how often each way (default: 2)")
    parser.add_argument("--work", type=Path, default=work, help=f"folder (default: {work})")
    parser.add_argument("--option", action="append", default=[], help="one more for captured runs")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in PROJECTS]
    if unknown:
        parser.error(f"no such project: {', '.join(unknown)}; known are {', '.join(PROJECTS)}")
    return given


class Suite:
    """One project, set up below one folder."""

    def __init__(self, project: Project, folder: Path, options: list[str]) -> None:
        self.project = project
        self.folder = folder
        self.options = options
        self.source = folder / "source"
        self.bin = folder / "venv" / "bin"

    # ── setting up ───────────────────────────────────────────────────────────────────────────

    def prepare(self) -> None:
        """Install what the suite needs, unless that has been done."""
        key = hashlib.sha256(f"{self.project}{sys.version}".encode()).hexdigest()
        stamp = self.folder / "prepared"
        if not stamp.exists() or stamp.read_text() != key:
            self._set_up()
            stamp.write_text(key)
        self._pip("install", "--editable", str(CHECKOUT))

    def _set_up(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", str(self.bin.parent)], check=True)
        self._pip("install", "--upgrade", "pip>=25.1")
        self._fetch()
        self._install()
        if self.project.conftest:
            (self.source / "conftest.py").write_text(self.project.conftest)

    def _fetch(self) -> None:
        project = self.project
        wanted = ["--no-deps", "--no-binary", project.name, f"{project.name}=={project.version}"]
        self._pip("download", *wanted, "--dest", str(self.folder))
        (archive,) = self.folder.glob("*.tar.gz")
        shutil.unpack_archive(archive, self.folder / "unpacked")
        (root,) = (self.folder / "unpacked").iterdir()
        root.rename(self.source)

    def _install(self) -> None:
        extras = f"[{self.project.extras}]" if self.project.extras else ""
        file = self.source / "pyproject.toml"
        groups = [word for name in self.project.groups for word in ("--group", f"{file}:{name}")]
        theirs = ["--editable", f"{self.source}{extras}", *self.project.needs]
        self._pip("install", *theirs, *groups, "pytest-reportlog")

    def _pip(self, *words: str) -> None:
        command = [str(self.bin / "python"), "-m", "pip", *words, "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unprepared(f"pip {words[0]}: {done.stderr.strip()[-1500:]}")

    # ── running ──────────────────────────────────────────────────────────────────────────────

    def compare(self, times: int) -> tuple[str, bool]:
        """Run the suite `times` each way, in turn; return a row of the table, and if all is well."""
        runs = {_PLAIN: Runs(), _CAPTURED: Runs()}
        for number in range(1, times + 1):
            for kind, made in runs.items():
                self._run(kind, number, made)
        return report(self.project, runs[_PLAIN], runs[_CAPTURED])

    def _run(self, kind: str, number: int, made: Runs) -> None:
        label = f"{kind}-{number}"
        log = self.folder / f"{label}.log"
        lines = self.folder / f"{label}.jsonl"
        lines.unlink(missing_ok=True)
        words = ["-p", "no:cacheprovider", f"--report-log={lines}", *self.project.arguments]
        if kind == _CAPTURED:
            words += [CAPTURE, *self.options]
        with tempfile.TemporaryDirectory(prefix="world-") as folder:
            os.chmod(folder, 0o755)  # a server may be another user
            outcome = world.run(
                world.Order(
                    command=[str(self.bin / "pytest"), *words],
                    directory=str(self.source),
                    environment=self._environment(Path(folder)),
                    log=str(log),
                    result=str(self.folder / f"{label}.json"),
                    limit=self.project.limit,
                    servers=list(self.project.servers),
                ),
                Path(folder),
            )
        made.results.append(results.read(lines))
        made.seconds.append(outcome.seconds)
        made.statuses.append(outcome.status)
        made.notes.append(_receipt(log))
        counts = _counted(results.count(made.results[-1].values()))
        ended = "" if outcome.finished else f", ended after {self.project.limit} s"
        print(
            f"   {label}: {counts}; status {outcome.status}, {outcome.seconds:.1f} s{ended}",
            flush=True,
        )

    def _environment(self, folder: Path) -> dict[str, str]:
        """Return what every run has: nothing of the caller's but the path."""
        home = folder / "home"
        home.mkdir()
        return {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "USER": world.user(),
            **self.project.variables,
        }


def report(project: Project, plain: Runs, captured: Runs) -> tuple[str, bool]:
    """Print what differs; return a row of the table, and whether nothing does."""
    found = results.compare(plain.results, captured.results)
    if not found.counts["passed"]:
        raise Unprepared("no test passes without capture: see its log")
    for name, (without, with_capture) in list(found.differences.items())[:_SHOWN]:
        print(f"   DIFFERENT {name}: {_told(without)} without, {_told(with_capture)} with")
        for message in sorted({result.message for result in with_capture} - {""}):
            print(f"      {message}")
    if len(found.differences) > _SHOWN:
        print(f"   and {len(found.differences) - _SHOWN} more")
    for name, outcomes in found.flaky.items():
        print(f"   flaky without capture: {name}: {', '.join(outcomes)}")
    statuses = set(captured.statuses) <= set(plain.statuses)
    if not statuses:
        print(f"   DIFFERENT exit status: {plain.statuses} without, {captured.statuses} with")
    for note in filter(None, captured.notes):
        print(f"   {note}")
    ratio = median(captured.seconds) / median(plain.seconds)
    row = [
        f"{project.name} {project.version}",
        project.kind,
        project.part,
        _counted(found.counts),
        f"{len(found.differences)} different",
        f"{len(found.flaky)} flaky",
        f"{median(plain.seconds):.1f} s",
        f"{ratio:.2f}",
    ]
    return f"| {' | '.join(row)} |", statuses and not found.differences


def _told(outcomes: list[results.Result]) -> str:
    return ", ".join(result.outcome for result in outcomes)


def _counted(counts: results.Counter[str]) -> str:
    return ", ".join(f"{number:,} {outcome}" for outcome, number in counts.most_common()) or "none"


def _receipt(log: Path) -> str:
    """Return what the run says of its traffic."""
    lines = log.read_text(errors="replace").splitlines()
    said = [line for line in lines if line.startswith("netcapture:") and " flow" in line]
    return said[-1] if said else ""


if __name__ == "__main__":
    began = time.monotonic()
    status = main()
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(status)
