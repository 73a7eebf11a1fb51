"""The twenty-nine ways out, as tests; three of them by where they are taken, not by what with."""

import atexit
import json
import os

import probes
import pytest

DOORS = json.loads(os.environ["DOORS"])
"""Where each probe goes: {name: [host, port]}."""

PLACES = ("at_import", "session_fixture", "at_exit")

probes.swallow(probes.urllib_, *DOORS["at_import"])
atexit.register(probes.swallow, probes.urllib_, *DOORS["at_exit"])


@pytest.fixture(scope="session")
def opened():
    probes.swallow(probes.urllib_, *DOORS["session_fixture"])


def test_session_fixture(opened):
    pass


@pytest.mark.parametrize("name", [name for name in DOORS if name not in PLACES])
def test_probe(name):
    probes.swallow(getattr(probes, name), *DOORS[name])
