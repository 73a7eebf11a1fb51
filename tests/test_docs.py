"""The documentation holds together: links lead somewhere, and so do the places that errors name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pytest_netcapture

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = Path(pytest_netcapture.__file__).parent
PAGES = sorted([*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").glob("*.md")])
_CODE = re.compile(r"^```.*?^```|^    .*?$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_SLUG = re.compile(r"""["']((?:docs/)?[a-z-]+(?:\.md)?#[a-z0-9-]+)["']""")


def anchors(page: Path) -> set[str]:
    """The anchors that forges give to headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = (re.sub(r"[^\w\- ]", "", h.lower()) for h in _HEADING.findall(text))
    return {h.strip().replace(" ", "-") for h in headings}


def slugs() -> set[tuple[str, str]]:
    """Where the code names a place in the documentation, and which."""
    rooms = (PACKAGE, *(PACKAGE / name for name in ("sandbox", "redirect", "cassettes")))
    paths = {path for room in rooms for path in room.rglob("*.py")}  # rglob follows no links
    return {
        (path.relative_to(PACKAGE).as_posix(), slug)
        for path in paths
        for slug in _SLUG.findall(path.read_text())
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(CHECKOUT).as_posix())
def test_links_lead_somewhere(page):
    dead = []
    for link in _LINK.findall(_CODE.sub("", page.read_text())):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_errors_name_places_that_exist():
    found = sorted(slugs())
    assert len(found) >= 5, "the expression no longer finds the slugs"
    dead = []
    for place, slug in found:
        name, _, anchor = slug.removeprefix("docs/").partition("#")
        page = CHECKOUT / "docs" / f"{name.removesuffix('.md')}.md"
        if not page.exists() or anchor not in anchors(page):
            dead.append(f"{place}: {slug}")
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(CHECKOUT).as_posix())
def test_python_in_pages_compiles(page):
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    ):
        compile(code, f"{page.name}, block {number}", "exec")


def test_pages_name_only_options_that_exist():
    from pytest_netcapture.options import OPTIONS

    known = {option.flag for option in OPTIONS} | {"--netcapture"}
    for page in PAGES:
        named = set(re.findall(r"--netcapture[a-z0-9-]*", page.read_text()))
        assert named <= known, page.name
