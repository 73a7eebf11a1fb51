"""Each redirector does what is declared of it, and cannot do what is declared that it cannot."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import table
from behaviours import BEHAVIOURS, EXCEPTIONS
from harness import REDIRECTORS, attempt, probe

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "redirectors.md"


@pytest.fixture(scope="module")
def support():
    return {name: probe(name) for name in REDIRECTORS}


@pytest.mark.live
@pytest.mark.parametrize("name", REDIRECTORS)
@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=[b.name for b in BEHAVIOURS])
def test_does_as_is_declared(name, behaviour, support):
    if not support[name].available:
        needs = "real root" if name == "ebpf" and os.geteuid() else name
        pytest.skip(f"needs {needs}: {support[name].reason}")
    problem = attempt(name, behaviour)
    exception = EXCEPTIONS.get((name, behaviour.name))
    if exception is None:
        assert not problem, problem
    else:
        assert problem, f"it works after all, though it is declared: {exception}"


def test_only_what_there_is_has_exceptions():
    names = {behaviour.name for behaviour in BEHAVIOURS}
    assert {name for _, name in EXCEPTIONS} <= names
    assert {redirector for redirector, _ in EXCEPTIONS} <= set(REDIRECTORS)


def test_the_documentation_has_the_table():
    text = DOCUMENT.read_text()
    _, _, rest = text.partition(table.START + "\n")
    found, _, _ = rest.partition("\n" + table.END)
    assert found == table.from_declarations(), "python tests/conformance/table.py --declared"
