"""Finding CA bundles: known names, existing files, once each."""

from __future__ import annotations

import os
import sys
import time

import certifi
import pytest

from pytest_netcapture.sandbox import bundles


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A system whose bundle has three names, and one hashed directory."""
    directory = tmp_path / "etc"
    directory.mkdir()
    (directory / "bundle.pem").write_text("bundle")
    (directory / "cert.pem").symlink_to("bundle.pem")
    (directory / "dangling.pem").symlink_to("gone")
    names = ("none.pem", "dangling.pem", "cert.pem", "bundle.pem")
    monkeypatch.setattr(bundles, "SYSTEM_BUNDLES", tuple(f"{directory}/{name}" for name in names))
    monkeypatch.setattr(bundles, "SYSTEM_DIRECTORIES", (str(directory),))
    monkeypatch.setattr(bundles, "PREFIX_BUNDLES", ())
    return os.path.realpath(directory)


def test_one_file_counts_once_under_all_its_names(system):
    assert bundles.find_bundles([], {}) == [f"{system}/bundle.pem"]
    assert bundles.system_bundle() == f"{system}/cert.pem"


def test_what_the_environment_names_comes_first(system, tmp_path):
    (tmp_path / "own.pem").touch()
    environ = {
        "PIP_CERT": str(tmp_path / "own.pem"),
        "CURL_CA_BUNDLE": "/dev/null",
        "SSL_CERT_FILE": "gone",
        "X": "/etc/passwd",
    }
    assert bundles.find_bundles([], environ) == [
        os.path.realpath(tmp_path / "own.pem"),
        f"{system}/bundle.pem",
    ]


@pytest.mark.parametrize("name", bundles.PYTHON_BUNDLES)
def test_bundles_of_python_packages(system, tmp_path, name):
    path = tmp_path / "site" / name
    path.parent.mkdir(parents=True)
    path.touch()
    found = bundles.find_bundles(["", str(tmp_path / "none.zip"), str(tmp_path / "site")], {})
    assert found == [f"{system}/bundle.pem", os.path.realpath(path)]


def test_certifi_is_found_here():
    assert os.path.realpath(certifi.where()) in bundles.find_bundles(sys.path, {})


def test_directories_of_variables(system, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    environ = {
        "SSL_CERT_DIR": f"{tmp_path}/a:{tmp_path}/none:{tmp_path}/b",
        "REQUESTS_CA_BUNDLE": f"{tmp_path}/a",
    }
    real = os.path.realpath(tmp_path)
    assert bundles.find_hashed_directories(environ) == [f"{real}/a", f"{real}/b", system]


def test_original_roots(system, tmp_path, monkeypatch):
    for name in ("own.pem", "certs/x.0", "site/certifi/cacert.pem"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    real = os.path.realpath(tmp_path)
    environ = {"SSL_CERT_FILE": f"{tmp_path}/own.pem", "SSL_CERT_DIR": f"{system}:{tmp_path}/certs"}
    monkeypatch.setattr(sys, "path", [f"{tmp_path}/site"])
    assert bundles.original_roots(environ) == [
        f"{real}/own.pem",
        f"{system}/bundle.pem",
        f"{real}/certs/x.0",
    ]
    monkeypatch.setattr(bundles, "SYSTEM_BUNDLES", ())
    assert bundles.original_roots({}) == [f"{real}/site/certifi/cacert.pem"]


def test_looking_for_bundles_is_quick():
    times = []
    for _ in range(5):
        start = time.perf_counter()
        bundles.find_bundles(sys.path, os.environ)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02
