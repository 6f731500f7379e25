"""The committed tables say what the code says."""

import runpy
from pathlib import Path

import pytest
from perf.strategies import BOUNDS, CLASSES, TESTS, facts, is_slow, page_strategies, read_page

RESULTS = Path(__file__).parent.parent / "docs" / "results"
PAGE = RESULTS / "strategies.md"


@pytest.fixture(scope="module")
def page():
    return read_page(PAGE)


def test_every_strategy_has_its_row_and_no_other_has(page):
    assert list(page) == [one.name for one in page_strategies()]


@pytest.mark.parametrize("one", page_strategies(), ids=lambda one: one.name)
def test_a_row_is_current(page, one):
    """Run ``python -m perf.strategies docs/results/strategies.md`` where it is not."""
    row = page[one.name]
    assert {name: row[name] for name in facts(one)} == facts(one)
    assert row["time and memory"] == one.costs
    assert all(row[f"s, {classes} classes"] for classes in CLASSES)
    assert (one.name in BOUNDS) == is_slow(row)
    assert BOUNDS.get(one.name, "") in PAGE.read_text()


@pytest.mark.parametrize("one", page_strategies(), ids=lambda one: one.name)
def test_the_test_that_pins_a_formula_is_there(one):
    path = TESTS / str(facts(one)["test"]).strip("`")
    assert one.name in path.read_text()


def test_the_table_of_the_catalogue_is_what_its_pages_say():
    """Run ``python docs/results/catalogue.py`` where it is not."""
    joined = runpy.run_path(str(RESULTS / "catalogue.py"))
    assert (RESULTS / "catalogue.md").read_text(encoding="utf-8") == joined["page"]()
