"""The report in one Markdown page, for a repository, a pull request or a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from labelwise.benchmark.findings import findings
from labelwise.benchmark.page import (
    comparison_row,
    facts,
    provenance,
    savings_table,
    seconds_table,
)
from labelwise.benchmark.view import View

FEW_CLASSES = 12
"""Up to this many classes have a column each."""

_HEADINGS = {
    "strategy": "strategy",
    "final": "final accuracy, %",
    "final_difference": "less random's, points",
    "area": "AUBC, %",
    "area_difference": "less random's, points",
    "p": "p (Holm)",
    "verdict": "verdict",
    "seeds": "seeds",
}


def summary(view: View, pictures: Iterable[str], command: str | None) -> str:
    """The numbers of a report as Markdown, the pictures as links to files beside it.

    Args:
        view: what to show.
        pictures: names of the report's pictures, ``.png`` files beside the page.
        command: the command line that made the results, or None.

    Returns:
        The page; names in it are escaped, so that none can break a table.
    """
    plan = view.results.plan
    shown = set(pictures)
    parts = [f"# {_plain(plan.data.name)}"]
    parts.append(_bullets(finding.text for finding in findings(view.results, view.rows)))
    if "learning_curves" in shown:
        parts.append("![Accuracy against labels paid for](learning_curves.png)")
    rows = [comparison_row(row, view) for row in view.rows]
    parts.append(
        _table(list(_HEADINGS.values()), ([row[key] for key in _HEADINGS] for row in rows))
    )
    parts.append(
        "Intervals are paired by seed, 95 %; AUBC is the area under accuracy against labels, "
        "divided by the labels' range; p is of the paired t test on the primary endpoint, "
        f"the {'area' if plan.primary == 'area' else 'final accuracy'}, corrected by Holm."
    )
    if "differences" in shown:
        parts.append("![Differences from random](differences.png)")
    savings = savings_table(view)
    if savings["headings"]:
        parts.append("## Labels that random needs for one label of each strategy")
        rest = ([name, *values] for name, values in savings["rows"])
        parts.append(_table(["strategy", *savings["headings"]], rest))
    classes = plan.data.classes
    if view.shares and len(classes) <= FEW_CLASSES:
        parts.append("## Share of each class among a strategy's picks, %")
        shares = ([name, *(f"{100 * part:.1f}" for part in of)] for name, of in view.shares.items())
        parts.append(_table(["strategy", *classes], shares))
    parts.append("## Time a round")
    parts.append(_table(["strategy", "selecting", "training"], seconds_table(view)))
    parts.append("## How it was made")
    lines = [f"{name}: {value}" for name, value in facts(view)]
    for name, value in provenance(view.results, None):
        lines.append(f"{name}: {value}")
    if command:
        parts.append(f"    {command}")
    parts.append(_bullets([*lines, *view.results.notes]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(_plain(str(cell)) for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Text that Markdown takes as it is: no new cells, lines, tags or links."""
    text = " ".join(text.split())
    for mark in "\\|<>[]*_`":
        text = text.replace(mark, "\\" + mark)
    return text
