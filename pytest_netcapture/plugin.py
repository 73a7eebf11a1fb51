"""pytest's hooks, thin: each is a few lines that call the session.

Without `--netcapture` only the options, the markers and one fixture are registered, and nothing
but options.py is imported; starting.py starts all else: active.py, or controller.py under
pytest-xdist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_netcapture import hooks, options

if TYPE_CHECKING:
    from pytest_netcapture.capture import Netcapture

ACTIVE = "netcapture-active"
_CASSETTE = (
    "cassette(name=None, *, record_mode=None, match_on=None, filters=None, repeat='once', "
    "max_age=None): record to and replay from a cassette (needs --netcapture)"
)
_NETCAPTURE = (
    "netcapture(**options): any --netcapture-... option for one test, class or module, as "
    "netcapture(block=True, allow=['*.internal']) (needs --netcapture)"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hooks)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    wrong = options.misspelt(args)
    if wrong:
        raise pytest.UsageError(wrong)
    known = early_config.known_args_namespace
    only_tells = known.help or known.version or known.markers
    if options.enabled(early_config, known) and not only_tells:
        from pytest_netcapture import starting

        starting.start(early_config)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _CASSETTE)
    config.addinivalue_line("markers", _NETCAPTURE)


def pytest_report_header(config: pytest.Config) -> str | None:
    idle = [] if options.enabled(config) else options.without_effect(config)
    return f"netcapture: off, so {', '.join(idle)} does nothing: add --netcapture" if idle else None


@pytest.fixture
def netcapture(request: pytest.FixtureRequest) -> Netcapture:
    """Look at what this test sends over the network, make claims about it, direct it."""
    plugin = request.config.pluginmanager.get_plugin(ACTIVE)
    if plugin is None:
        pytest.fail(
            f"{request.node.nodeid} uses the netcapture fixture, but capture is off\n"
            "  cure: run pytest --netcapture, or put 'netcapture = true' into the ini file",
            pytrace=False,
        )
    fixture: Netcapture = plugin.fixture_for(request)
    return fixture
