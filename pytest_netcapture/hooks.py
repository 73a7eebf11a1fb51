"""The hooks that a conftest.py or a plugin may implement, as pluggy knows them.

Registered in every run, on or off, so that a conftest.py which has them is not refused: nothing is
imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from pytest_netcapture.flows import AnyFlow, HttpFlow, HttpRequest


def pytest_netcapture_flow(flow: AnyFlow) -> None:
    """Look at each flow of a test when the test has ended, in order of appearance."""


@pytest.hookspec(firstresult=True)
def pytest_netcapture_before_record(flow: AnyFlow) -> AnyFlow | Literal[False] | None:
    """Change what is recorded, or leave it out, when the test has ended.

    Return None to keep the flow (which may have been changed in place), another flow to record that
    one instead, False to record nothing. What is returned is scrubbed before it is written.
    """


@pytest.hookspec(firstresult=True)
def pytest_netcapture_before_replay(flow: HttpFlow) -> HttpFlow | None:
    """Change what is played: `flow` is the recorded exchange whose turn it is.

    Return None to play it (it may have been changed in place), or another flow to play that one.
    The cassette stays as it is.
    """


@pytest.hookspec(firstresult=True)
def pytest_netcapture_match(request: HttpRequest, recorded: HttpFlow) -> bool | None:
    """Tell whether `recorded` answers `request`, of which no recording matches by itself.

    Asked of the recordings with the same method and host that were not played, in recorded order;
    the first for which True is returned is played.
    """
