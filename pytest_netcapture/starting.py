"""What a pytest process does before anything else when capture is on.

What talks to the engine (active.py and all that it imports) is imported while the engine starts.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pytest_netcapture import controller
from pytest_netcapture.errors import EngineGone, EnvironmentProblem, UsageError
from pytest_netcapture.launch import launch
from pytest_netcapture.settings import Settings
from pytest_netcapture.sources import Sources

if TYPE_CHECKING:
    from pytest_netcapture.chaos.plugin import ChaosRun


def start(config: pytest.Config) -> None:
    """Enter the sandbox, or prepare for workers that will; register the hooks."""
    try:
        sources = Sources(config, config.known_args_namespace)
        settings = sources.for_session()
        chaos = _chaos_run(config, sources)
        if (report := sources.report()) and not controller.is_worker():
            from pytest_netcapture.report.writing import ReportWriter

            config.pluginmanager.register(ReportWriter(report), "netcapture-report")
        if controller.is_controller(config):
            controller.register(config, settings.redirector)
        else:
            _begin(config, sources, settings, chaos)
    except UsageError as error:
        raise pytest.UsageError(f"netcapture: {error}") from None
    except (EnvironmentProblem, EngineGone) as error:
        if controller.is_worker():
            raise  # the controller explains it
        sys.stderr.write(f"ERROR: netcapture cannot start: {error}\n")
        raise SystemExit(3) from None


def _begin(
    config: pytest.Config, sources: Sources, settings: Settings, chaos: ChaosRun | None
) -> None:
    launched = launch(settings.redirector)
    from pytest_netcapture import active
    from pytest_netcapture.session import Session

    active.register(config, sources, Session.start(settings, launched), chaos)


def _chaos_run(config: pytest.Config, sources: Sources) -> ChaosRun | None:
    """Register what a chaos run needs here, if it is one; return what runs its tests."""
    if not sources.chaos_for().kinds:
        return None
    from pytest_netcapture.chaos.matrix import Matrix
    from pytest_netcapture.chaos.plugin import ChaosRun

    plugins = config.pluginmanager
    if not controller.is_worker():
        plugins.register(Matrix(sources.chaos_report()), "netcapture-chaos-matrix")
    if controller.is_controller(config):
        return None
    run = ChaosRun(config)
    plugins.register(run, "netcapture-chaos")
    return run
