"""The list of deliberate breaks is true: each can be applied, its tests exist, and the documents say the same."""

import re
from pathlib import Path

import pytest

from breaks import ROOT, Break, breaks

TESTS = Path(__file__).parent
BREAKS = breaks()
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def missing(test: str) -> bool:
    """Whether there is no such test: a file below `tests/`, or a file and a function in it."""
    file, _, function = test.partition("[")[0].partition("::")
    if not (TESTS / file).is_file():
        return True
    return bool(function) and f"\ndef {function}(" not in (TESTS / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("one", BREAKS, ids=lambda one: one.name)
def test_each_break_can_be_applied(one: Break) -> None:
    """What it replaces is in its file exactly once, is replaced by something else, and its tests exist."""
    assert (ROOT / one.file).read_text(encoding="utf-8").count(one.old) == 1
    assert one.old != one.new
    assert one.tests
    assert [test for test in one.tests if missing(test)] == []


def test_no_break_is_listed_twice() -> None:
    """Names are distinct, and so are the changes."""
    assert len({one.name for one in BREAKS}) == len(BREAKS)
    assert len({(one.file, one.old, one.new) for one in BREAKS}) == len(BREAKS)


def test_the_page_lists_the_breaks() -> None:
    """docs/reliability.md shows the list as it is."""
    section = PAGE.partition("\n## How it was broken on purpose\n")[2].partition("\n## ")[0]
    shown = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert shown == [one.row() for one in BREAKS]


@pytest.mark.parametrize("page", ["reliability.md", "architecture.md"])
def test_every_test_that_the_page_names_exists(page: str) -> None:
    """A promise without the test that it names would be kept by nobody."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:core/|sandbox/)?test_\w+\.py(?:::\w+)?)`", text)
    assert len(named) > 20
    assert [test for test in named if missing(test)] == []


def test_every_promise_names_its_test() -> None:
    """Each row of the table of promises ends with tests that exist."""
    table = PAGE.partition("\n| promise | test |\n")[2].partition("\n\n")[0].splitlines()[1:]
    assert len(table) > 10
    for row in table:
        tests = re.findall(r"`([\w/]+\.py(?:::\w+)?)`", row.rpartition(" | ")[2])
        assert tests, row
        assert [test for test in tests if missing(test)] == [], row
