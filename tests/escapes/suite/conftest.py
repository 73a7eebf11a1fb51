"""Writes down what netcapture has seen, of each test and of the session, for the test outside."""

import atexit
import json
import os

import pytest

SEEN = {}


def told(flows):
    from pytest_netcapture import stacks

    return [
        {
            "protocol": flow.protocol,
            "host": flow.host,
            "port": flow.port,
            "process": flow.process.name,
            "own": flow.process.pid == os.getpid(),
            "line": [f.function for f in stacks.relevant(stacks.stack_for(flow.inode))][-1:],
        }
        for flow in flows
    ]


@pytest.fixture(autouse=True)
def _write_down(request):
    on = request.config.getoption("--netcapture")
    netcapture = request.getfixturevalue("netcapture") if on else None
    yield
    if netcapture is not None:
        SEEN[request.node.name] = told(netcapture.flows)


def pytest_configure(config):
    # After this file's are the handlers of the suite, and they run first.
    atexit.register(_write, config)


def _write(config):
    if os.environ.get("SEEN") and config.getoption("--netcapture"):
        from pytest_netcapture.messages import SESSION_SCOPE, FlowList, GetFlows
        from pytest_netcapture.plugin import ACTIVE

        session = config.pluginmanager.get_plugin(ACTIVE)._session
        SEEN["the session"] = told(session.channel.ask(GetFlows(SESSION_SCOPE), FlowList)[0].flows)
        with open(os.environ["SEEN"], "w") as file:
            json.dump(SEEN, file)
