"""Bundles that packages bring along are found by what packages list."""

from __future__ import annotations

import time

import pytest

from pytest_netcapture.sandbox import packaged

MANY = "-----BEGIN CERTIFICATE-----\n" * packaged.FEWEST


@pytest.fixture
def nothing_else(monkeypatch):
    """No gems, no Perl but what the environment names."""
    for name in ("GEM_HOLDERS", "GEM_DIRECTORIES", "PERL_HOLDERS", "PERL_DIRECTORIES"):
        monkeypatch.setattr(packaged, name, ())
    monkeypatch.setattr(packaged, "PROJECT_BUNDLES", ())


@pytest.fixture
def install(tmp_path):
    """`install({path: content})`: a package of these files, with its RECORD."""
    (tmp_path / "package-1.dist-info").mkdir()

    def install(files):
        record = ""
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
            record += f"{name},sha256=x,{len(content)}\n"
        (tmp_path / "package-1.dist-info/RECORD").write_text(record)

    return install


def found(site, environ=None):
    return list(packaged.packaged_bundles([str(site)], environ or {}))


def test_bundles_in_records(nothing_else, install, tmp_path):
    wanted = ("package/my_cacerts.pem", "package/data/ca-bundle.crt", "other/Roots.pem")
    install(dict.fromkeys(wanted, MANY) | {"package/key.pem": MANY, "package/cacert.py": MANY})
    assert sorted(found(tmp_path)) == sorted(f"{tmp_path}/{name}" for name in wanted)


def test_a_few_certificates_are_no_bundle(nothing_else, install, tmp_path):
    install({"package/tests/cacert.pem": "-----BEGIN CERTIFICATE-----\n" * 2})
    assert found(tmp_path) == []


def test_a_record_that_names_what_is_gone(nothing_else, install, tmp_path):
    install({"package/cacert.pem": MANY})
    (tmp_path / "package/cacert.pem").unlink()
    assert found(tmp_path) == []


def test_gems_and_perl_modules(nothing_else, tmp_path):
    (tmp_path / "home/.gem/ruby/3.1.0/gems/excon-1.0").mkdir(parents=True)
    (tmp_path / "gems/httpclient-2.8.3").mkdir(parents=True)
    (tmp_path / "gems/rake-13").mkdir()
    environ = {
        "GEM_HOME": str(tmp_path),
        "HOME": f"{tmp_path}/home",
        "PERL5LIB": f"{tmp_path}/perl",
    }
    assert found(tmp_path / "none", environ) == [
        f"{tmp_path}/gems/httpclient-2.8.3/lib/httpclient/cacert.pem",
        f"{tmp_path}/home/.gem/ruby/3.1.0/gems/excon-1.0/data/cacert.pem",
        f"{tmp_path}/perl/Mozilla/CA/cacert.pem",
        f"{tmp_path}/home/perl5/lib/perl5/Mozilla/CA/cacert.pem",
    ]


def test_other_pythons_of_the_path(tmp_path):
    for prefix in ("venv", "base"):
        (tmp_path / prefix / "bin").mkdir(parents=True)
        (tmp_path / prefix / "lib/python3.12").mkdir(parents=True)
    (tmp_path / "base/bin/python3.12").touch()
    (tmp_path / "venv/bin/python3").symlink_to("../../base/bin/python3.12")
    assert packaged.other_site_packages({"PATH": f"{tmp_path}/venv/bin:none"}) == [
        f"{tmp_path}/venv/lib/python3.12/site-packages",
        f"{tmp_path}/base/lib/python3.12/site-packages",
    ]


def test_records_are_read_quickly(nothing_else, tmp_path):
    lines = "".join(f"package/module_{n}.py,sha256={'x' * 43},1000\n" for n in range(500))
    for number in range(100):
        directory = tmp_path / f"package_{number}-1.dist-info"
        directory.mkdir()
        (directory / "RECORD").write_text(lines + "package/data.pem,sha256=x,10\n")
    times = []
    for _ in range(3):
        start = time.perf_counter()
        found(tmp_path)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05
