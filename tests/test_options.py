"""Where options come from and which one wins; end to end in tests/plugin/test_modes.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pytest_netcapture import markers, options
from pytest_netcapture.cassette_names import Owners, cassette_path
from pytest_netcapture.errors import UsageError
from pytest_netcapture.settings import REDIRECTORS, RecordMode, Repeat, Settings
from pytest_netcapture.sources import Sources


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


QUIET = [f"-pno:{name}" for name in ("hypothesispytest", "asyncio", "anyio", "cov", "randomly")]


def only_item(pytester: pytest.Pytester, config: pytest.Config, path: Path) -> pytest.Item:
    sys.modules.pop("test_it", None)  # the file has changed; pytester puts back what was there
    module = pytester.getnode(config, path)
    return next(iter(module.session.genitems(module)))


def settings_of(
    pytester: pytest.Pytester,
    marks: str = "",
    *args: str,
    ini: str = "",
    fixture: dict[str, object] | None = None,
) -> Settings:
    """Return the settings of one test, marked so, in a run with `args` and lines of ini."""
    pytester.makeini(f"[pytest]\n{ini}\n")
    path = pytester.makepyfile(
        test_it=f"import pytest\n{marks}\nclass TestIt:\n    def test_it(self): pass\n"
    )
    config = pytester.parseconfigure(*QUIET, *args)
    item = only_item(pytester, config, path)
    given = markers.fixture_options(fixture) if fixture is not None else None
    return Sources(config).for_item(item, given)


def test_choices_are_those_of_settings() -> None:
    choices = {option.key: option.choices for option in options.OPTIONS if option.choices}
    assert choices == {
        "record_mode": tuple(mode.value for mode in RecordMode),
        "redirector": REDIRECTORS,
        "loopback": ("leave", "capture"),
        "http3": ("capture", "refuse"),
        "keep": ("never", "failed", "always"),
        "replay_speed": ("full", "recorded"),
    }


def test_defaults(pytester: pytest.Pytester) -> None:
    assert settings_of(pytester) == Settings()


def test_every_option_reaches_the_settings(pytester: pytest.Pytester) -> None:
    (pytester.path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    found = settings_of(
        pytester,
        "",
        "--netcapture-block",
        "--netcapture-allow=*.internal",
        "--netcapture-allow=10.0.0.0/8",
        "--netcapture-passthrough=pinned.example.com",
        "--netcapture-map-host=a.example.com:443=127.0.0.1:8443",
        "--netcapture-loopback=capture",
        "--netcapture-upstream-ca=ca.pem",
        "--netcapture-redirector=tproxy",
        "--netcapture-strict",
        "--netcapture-auto-cassette",
        "--netcapture-cassette-dir=tapes",
        "--netcapture-record-mode=all",
    )
    assert found.block
    assert found.strict
    assert found.capture_loopback
    assert found.redirector == "tproxy"
    assert [one.text for one in found.allow] == ["*.internal", "10.0.0.0/8"]
    assert [one.text for one in found.passthrough] == ["pinned.example.com"]
    assert [str(one) for one in found.map_host] == ["a.example.com:443=127.0.0.1:8443"]
    assert found.upstream_ca == (str(pytester.path / "ca.pem"),)
    assert found.cassette is not None
    assert found.cassette.mode is RecordMode.ALL
    assert found.cassette.path == str(pytester.path / "tapes/test_it/TestIt.test_it.cassette")


SOURCES = {
    "line": ("--netcapture-record-mode=all",),
    "near": "@pytest.mark.cassette(record_mode='rewrite')",
    "far": "pytestmark = pytest.mark.netcapture(record_mode='new_episodes')",
    "fixture": {"record_mode": "none"},
    "ini": "netcapture_record_mode = once",
}
WINS = {
    "line": RecordMode.ALL,
    "near": RecordMode.REWRITE,
    "far": RecordMode.NEW_EPISODES,
    "fixture": RecordMode.NONE,
    "ini": RecordMode.ONCE,
}


@pytest.mark.parametrize("first", range(len(SOURCES)), ids=list(SOURCES))
def test_the_nearest_source_wins(pytester: pytest.Pytester, first: int) -> None:
    """All sources from the `first` on are there; the `first` is what counts."""
    there = list(SOURCES)[first:]
    marks = "\n".join(str(SOURCES[name]) for name in ("far", "near") if name in there)
    found = settings_of(
        pytester,
        marks,
        "--netcapture-auto-cassette",
        *(SOURCES["line"] if "line" in there else ()),
        ini=str(SOURCES["ini"]) if "ini" in there else "",
        fixture={"record_mode": "none"} if "fixture" in there else None,
    )
    assert found.cassette is not None
    assert found.cassette.mode is WINS[there[0]]


def test_lists_are_the_command_lines_and_the_nearest_others(pytester: pytest.Pytester) -> None:
    def allowed(*args: str, **given: object) -> list[str]:
        return [one.text for one in settings_of(pytester, *args, **given).allow]  # type: ignore[arg-type]

    mark = "@pytest.mark.netcapture(allow=['mark'])"
    ini = "netcapture_allow =\n    ini1\n    ini2"
    assert allowed("", ini=ini) == ["ini1", "ini2"]
    assert allowed("", "--netcapture-allow=line", ini=ini) == ["line", "ini1", "ini2"]
    assert allowed(mark, "--netcapture-allow=line", ini=ini) == ["line", "mark"]
    assert allowed("", fixture={"allow": "fixture"}, ini=ini) == ["fixture"]
    assert allowed(mark, fixture={"allow": "fixture"}, ini=ini) == ["mark"]


def test_a_flag_can_be_taken_back(pytester: pytest.Pytester) -> None:
    mark = "@pytest.mark.netcapture(block=False)"
    assert settings_of(pytester, "", ini="netcapture_block = true").block
    assert not settings_of(pytester, mark, ini="netcapture_block = true").block
    assert not settings_of(pytester, "", ini="netcapture_block = no").block
    assert not settings_of(pytester, "", ini="netcapture_block = 1", fixture={"block": False}).block
    assert settings_of(pytester, mark, "--netcapture-block").block


@pytest.mark.parametrize(
    ("value", "mode"),
    [("true", "none"), ("1", "none"), ("", "once"), ("0", "once"), ("false", "once")],
)
def test_ci_decides_when_nobody_else_does(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, value: str, mode: str
) -> None:
    monkeypatch.setenv("CI", value)
    found = settings_of(pytester, "@pytest.mark.cassette")
    assert found.cassette is not None
    assert found.cassette.mode.value == mode


def test_what_the_cassette_marker_says(pytester: pytest.Pytester) -> None:
    found = settings_of(
        pytester,
        "pytestmark = pytest.mark.cassette('far', repeat='any', match_on=['method'])\n"
        "@pytest.mark.cassette('near', max_age='2h', filters={'headers': 'x-s', 'json': ['pin']})",
        fixture={"repeat": "last", "max_age": 3},
    )
    use = found.cassette
    assert use is not None
    assert use.path == str(pytester.path / "cassettes/near.cassette")
    assert use.repeat is Repeat.ANY
    assert use.match_on == ("method",)
    assert use.max_age == 7200
    assert use.filters.headers == ("x-s",)
    assert use.filters.json == ("pin",)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30d", 30 * 86400), (30, 30 * 86400), ("12h", 43200), ("2w", 14 * 86400), ("5s", 5)],
)
def test_ages(text: object, seconds: int) -> None:
    assert markers.age(text, "") == seconds


def test_relative_paths(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line's are the user's, the ini file's the project's; neither is the test's."""
    folder = pytester.mkdir("started_here")
    pytester.makeini("[pytest]\nnetcapture_cassette_dir = project\n")
    path = pytester.makepyfile(test_it="def test_it(): pass")

    def place(*args: str) -> str:
        monkeypatch.chdir(folder)
        config = pytester.parseconfigure(
            f"--rootdir={pytester.path}", "-c", "../tox.ini", *QUIET, *args
        )
        monkeypatch.chdir("/")
        item = only_item(pytester, config, path)
        use = Sources(config).for_item(item).cassette
        assert use is not None
        return str(Path(use.path).parent.parent)

    assert place("--netcapture-auto-cassette") == str(pytester.path / "project")
    given = place("--netcapture-auto-cassette", "--netcapture-cassette-dir=mine")
    assert given == str(folder / "mine")
    assert place("--netcapture-auto-cassette", "--netcapture-cassette-dir=/abs") == "/abs"


def test_misspelt_options() -> None:
    assert options.misspelt(["-k", "x", "--netcapture", "--netcapture-block", "--other"]) == ""
    assert options.misspelt(["--netcapture-map-host=a=b"]) == ""
    assert "did you mean --netcapture-map-host?" in options.misspelt(["--netcapture-maphost=a=b"])
    assert "is not an option" in options.misspelt(["--netcapture-zzzzzz"])


def test_owners_of_default_names() -> None:
    owners = Owners()
    owners.claim("/c/a", "t::a")
    owners.claim("/c/a", "t::a")
    owners.claim("/c/b", "t::b")
    with pytest.raises(UsageError, match="t::a and t::c would both write /c/a"):
        owners.claim("/c/a", "t::c")


@pytest.mark.parametrize("name", ["x" * 300, "é" * 300, "😀" * 100, "a/b\\c:d*e?f\"g<h>i|j%k'l\n"])
def test_default_names_are_what_file_systems_take(pytester: pytest.Pytester, name: str) -> None:
    path = pytester.makepyfile(test_it="def test_it(): pass")
    item = only_item(pytester, pytester.parseconfigure(*QUIET), path)
    item.name = f"test_it[{name}]"
    path = cassette_path(item, None, str(pytester.path))
    os.makedirs(os.path.dirname(path))
    Path(path + ".txt").touch()
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path) + ".txt"]
    item.name += "x"
    assert cassette_path(item, None, str(pytester.path)) != path
