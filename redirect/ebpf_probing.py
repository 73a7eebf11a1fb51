"""Finds out whether chosen processes can be captured here: loads all of it, and attaches nothing.

Changes nothing and never raises. Attaching takes no other privilege than loading does.
Tests: test_ebpf_probing.py.
"""

from __future__ import annotations

from pytest_netcapture.errors import EnvironmentProblem
from pytest_netcapture.redirect.base import Support
from pytest_netcapture.redirect.ebpf import check_processes
from pytest_netcapture.redirect.ebpf_programs import Programs, read_offsets
from pytest_netcapture.redirect.seccomp_routes import has_ipv6

NAME = "ebpf"
_NO_IPV6 = "there is no ::1 here: IPv6 is not captured"


def probe() -> Support:
    """Try it. Takes 0.3 s."""
    try:
        check_processes()
        Programs.load().close()
        read_offsets()
    except EnvironmentProblem as problem:
        return Support(NAME, available=False, reason=problem.message, cure=problem.cure)
    except Exception as error:
        return Support(NAME, available=False, reason=f"the probe failed: {error!r}")
    return Support(NAME, available=True, notes=() if has_ipv6() else (_NO_IPV6,))
