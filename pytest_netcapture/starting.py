"""What a pytest process does before anything else when capture is on.

What talks to the engine (active.py and all that it imports) is imported while the engine starts.
"""

from __future__ import annotations

import sys

import pytest

from pytest_netcapture import controller
from pytest_netcapture.errors import EngineGone, EnvironmentProblem, UsageError
from pytest_netcapture.launch import launch
from pytest_netcapture.settings import Settings
from pytest_netcapture.sources import Sources


def start(config: pytest.Config) -> None:
    """Enter the sandbox, or prepare for workers that will; register the hooks."""
    try:
        sources = Sources(config, config.known_args_namespace)
        settings = sources.for_session()
        if controller.is_controller(config):
            controller.register(config, settings.redirector)
        else:
            _begin(config, sources, settings)
    except UsageError as error:
        raise pytest.UsageError(f"netcapture: {error}") from None
    except (EnvironmentProblem, EngineGone) as error:
        if controller.is_worker():
            raise  # the controller explains it
        sys.stderr.write(f"ERROR: netcapture cannot start: {error}\n")
        raise SystemExit(3) from None


def _begin(config: pytest.Config, sources: Sources, settings: Settings) -> None:
    launched = launch(settings.redirector)
    from pytest_netcapture import active
    from pytest_netcapture.session import Session

    active.register(config, sources, Session.start(settings, launched))
