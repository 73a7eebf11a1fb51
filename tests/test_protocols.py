"""docs/protocols.md says what tests show, no more and no less."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for protocols

import protocols


def test_the_table_is_what_the_marks_promise() -> None:
    """Each marked test passes, or fails by itself; so the ticks are real."""
    wanted = protocols.table(protocols.marks())
    assert protocols.committed() == wanted, "run python tests/protocols.py"


def test_a_protocol_has_no_tick_that_nobody_shows() -> None:
    one = protocols.Shown("a", "HTTP/3", ("recorded",), ("quic-go",), ())
    (line,) = [line for line in protocols.table([one]).splitlines() if line.startswith("| HTTP/3 ")]
    assert line == "| HTTP/3 |  |  | ✓ |  | quic-go |  |"


@pytest.mark.parametrize(
    "mark", ['"Gopher", "recorded"', '"HTTP/3", "shown"', '"HTTP/3", client=[]']
)
def test_a_mark_that_makes_no_sense(
    mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = tmp_path / "tests" / "test_x.py"
    test.parent.mkdir()
    test.write_text(f"@pytest.mark.shows({mark})\ndef test_it(): pass\n")
    monkeypatch.setattr(protocols, "TESTS", test.parent)
    with pytest.raises(ValueError, match=r"tests/test_x\.py::test_it"):
        protocols.marks()


def test_the_worked_example_works() -> None:
    """Its layer and the tests of it, as they stand in the page."""
    sys.path.insert(0, str(Path(__file__).parent / "engine" / "layers"))
    blocks = re.findall(
        r"^```python\n(.*?)^```", protocols.PAGE.read_text(), re.DOTALL | re.MULTILINE
    )
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()
