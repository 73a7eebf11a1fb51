"""A store of trusted roots, made here."""

from __future__ import annotations

import pytest

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.sandbox import system_store
from pytest_netcapture.sandbox.system_store import Store


def test_a_certificate_comes_and_goes_and_the_bundles_are_made_each_time(tmp_path):
    log = tmp_path / "log"
    store = Store(str(tmp_path), ("sh", "-c", f"ls {tmp_path} | grep -c crt >>{log}; true"))
    system_store.add(store, b"certificate")
    assert (tmp_path / system_store.NAME).read_bytes() == b"certificate"
    assert system_store.remove(store)
    assert not system_store.remove(store)
    assert log.read_text().split() == ["1", "0"]


def test_what_fails_is_named(tmp_path):
    with pytest.raises(EnvironmentProblem, match="sh failed: no"):
        system_store.add(Store(str(tmp_path), ("sh", "-c", "echo no >&2; exit 1")), b"")
    with pytest.raises(EnvironmentProblem, match="No such file"):
        system_store.add(Store(str(tmp_path / "nowhere"), ("true",)), b"")


def test_a_machine_without_a_known_store_is_told(monkeypatch):
    monkeypatch.setattr(system_store, "STORES", (Store("/nowhere", ("true",)),))
    with pytest.raises(EnvironmentProblem, match="no store of trusted roots is known"):
        system_store.find()
