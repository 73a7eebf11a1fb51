"""The probe: what it says where it works, and where something is missing."""

import os

import pytest
from redirect_lab import isolated, unshare

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect import kernel as k
from pytest_netcapture.redirect import netlink, probing, ruleset, tproxy
from pytest_netcapture.redirect.base import Support


def test_tells_something_and_changes_nothing():
    before = (
        os.readlink("/proc/self/ns/net"),
        os.readlink("/proc/self/ns/user"),
        os.listdir("/proc/self/fd"),
    )
    support = tproxy.probe()
    assert isinstance(support, Support)
    assert support.name == "tproxy"
    assert support.available or (support.reason and support.cure)
    assert before == (
        os.readlink("/proc/self/ns/net"),
        os.readlink("/proc/self/ns/user"),
        os.listdir("/proc/self/fd"),
    )


@isolated
def test_works_in_a_thread_with_privilege():
    assert probing._try_in_thread("tproxy").available


def test_never_raises(monkeypatch):
    monkeypatch.setattr(probing, "_try_in_thread", lambda _name: 1 / 0)
    support = tproxy.probe()
    assert not support.available
    assert "ZeroDivisionError" in support.reason


def refuse(monkeypatch, module):
    """Let the kernel lack a module."""

    def transact(protocol, request):
        if protocol != k.NETLINK_NETFILTER:
            return []
        [batch] = [b for b in batches if b.data == request]
        return [(step, 2) for step, (_, needs) in batch.parts.items() if needs == module]

    batches = [
        ruleset.batch(way, ipv6=True) for way in (ruleset.NATIVE, ruleset.COMPAT, ruleset.NO_GATE)
    ]
    monkeypatch.setattr(netlink, "transact", transact)


@pytest.mark.parametrize("module", ["nf_tables", "nft_tproxy", "nft_socket", "nft_reject_inet"])
def test_names_the_module_that_is_missing(monkeypatch, module):
    refuse(monkeypatch, module)
    with pytest.raises(EnvironmentProblem) as caught:
        tproxy.install(ruleset.NATIVE, ipv6=True)
    assert "ENOENT" in caught.value.message
    assert f"modprobe {module}" in caught.value.cure


def test_takes_the_next_way_to_the_queue(monkeypatch):
    refuse(monkeypatch, ruleset.QUEUE_MODULES[ruleset.NATIVE])
    assert tproxy.install(ruleset.NATIVE, ipv6=True) == ruleset.COMPAT
    refuse(monkeypatch, ruleset.QUEUE_MODULES[ruleset.COMPAT])
    assert tproxy.install(ruleset.COMPAT, ipv6=True) == ruleset.NO_GATE


@pytest.mark.live
@isolated
def test_every_rule_is_accepted_without_gate_and_without_ipv6():
    for ipv6 in (True, False):
        unshare(k.CLONE_NEWNET)
        assert (
            netlink.transact(k.NETLINK_NETFILTER, ruleset.batch(ruleset.NO_GATE, ipv6=ipv6).data)
            == []
        )
