"""The report of a simulation: one page that stands alone, and its pictures beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelwise.benchmark import figures
from labelwise.benchmark.contact_sheet import contact_sheet
from labelwise.benchmark.curves import Curve
from labelwise.benchmark.drawing import save_png
from labelwise.benchmark.findings import BASELINE
from labelwise.benchmark.journal import write_atomically
from labelwise.benchmark.page import Picture, render
from labelwise.benchmark.results import Results
from labelwise.benchmark.summary import summary
from labelwise.benchmark.view import View, make_view
from labelwise.errors import ResultsError

if TYPE_CHECKING:
    from labelwise.pools import Data

FOLDER = "report"
PAGE = "index.html"
SUMMARY = "summary.md"


def write_report(
    results: Results,
    folder: Path | str,
    *,
    data: Data | None = None,
    command: str | None = None,
) -> Path:
    """Write the report of a simulation, finished or not.

    The page needs nothing beside it: no network, no scripts, no other file. It follows the
    reader's light or dark setting and prints. What is missing (a baseline, a second seed,
    rounds not yet run) is said on it, and the pictures that need it are left out.

    Args:
        results: of `simulate`, or `Results.load` of a folder.
        folder: the report goes into ``folder/report``, which is created.
        data: what the simulation ran on; with it the page shows the items that were picked
            first, without it only their ids.
        command: the command line that made the results, to be shown.

    Returns:
        The page, ``folder/report/index.html``. Beside it: ``learning_curves.png`` and the
        other pictures, each also on the page, and ``summary.md``, the numbers as Markdown.

    Raises:
        ResultsError: the folder cannot be written.
        ResourceError: the disk is full; files are written whole or not at all, the page last.
    """
    view = make_view(results, data)
    pictures = _pictures(view)
    page = render(view, pictures, command).encode()
    text = summary(view, pictures, command).encode()
    target = Path(folder) / FOLDER
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultsError(f"cannot create {target}: {error.strerror or error}") from error
    for name, picture in pictures.items():
        write_atomically(target / f"{name}.png", partial(save_png, picture.figure))
    write_atomically(target / SUMMARY, lambda file: file.write(text))
    write_atomically(target / PAGE, lambda file: file.write(page))
    return target / PAGE


def _pictures(view: View) -> dict[str, Picture]:
    """The pictures that these results have the numbers for, by file name."""
    found: dict[str, Picture] = {}
    shown = _featured(_with_points(view.curves), view)
    compared = [row for row in view.rows if row.final_difference is not None]
    compared = [row for row in compared if row.final_difference and row.final_difference.n]
    if shown:
        found["learning_curves"] = Picture(
            figures.learning_curves(shown, view.looks, view.full),
            "Accuracy against labels paid for, one line a strategy; the numbers are in the table.",
        )
    if compared and len(view.curves[BASELINE].labels) > 1:
        drawn = [row.strategy for row in compared if row.strategy in shown]
        chosen = {name: shown[name] for name in [BASELINE, *drawn]}
        found["advantage"] = Picture(
            figures.advantage(chosen, view.looks, BASELINE),
            f"Difference to {BASELINE} at the same labels, with pointwise 95 % intervals.",
        )
    if compared:
        found["differences"] = Picture(
            figures.dots(compared, view.looks, BASELINE),
            "Final accuracy and area under the curve against random; numbers in the table.",
        )
    if view.savings:
        found["label_efficiency"] = Picture(
            figures.label_savings(view.savings, view.looks),
            "Labels random needs for one label of each strategy; numbers in the table.",
        )
    found |= _diagnostics(view)
    return found


def _diagnostics(view: View) -> dict[str, Picture]:
    """Class balance, seconds and the contact sheet."""
    found: dict[str, Picture] = {}
    balance = _with_points(_asked(view.results.curves("class_balance"), view.results))
    if balance and len(view.results.plan.data.classes) > 1:
        found["class_balance"] = Picture(
            figures.class_balance(
                _featured(balance, view),
                view.looks,
                _featured(view.shares, view),
                view.results.plan.data.classes,
            ),
            "Class balance of each round's picks, and each class's share of all picks.",
        )
    ran = [n for n in view.results.strategies if math.isfinite(view.times["Selecting"][n])]
    if ran:
        times = {what: {name: by[name] for name in ran} for what, by in view.times.items()}
        found["seconds"] = Picture(
            figures.seconds(times, view.looks), "Mean seconds a round; numbers in the table."
        )
    if view.sheet is not None and view.sheet.kind == "image":
        found["contact_sheet"] = Picture(
            contact_sheet(view.sheet, view.looks), "The first items that each strategy picked."
        )
    return found


def _featured(values: Mapping[str, Any], view: View) -> dict[str, Any]:
    """What a picture shows that has no room for every strategy."""
    return {name: value for name, value in values.items() if name in view.featured}


def _with_points(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """The curves that have at least one value."""
    return {name: curve for name, curve in curves.items() if np.isfinite(curve.values).any()}


def _asked(curves: Mapping[str, Curve], results: Results) -> dict[str, Curve]:
    """The curves without round 0, whose items no strategy asked for."""
    if results.plan.first_round > 0:
        return dict(curves)
    return {
        name: Curve(name, curve.labels[1:], curve.seeds, curve.values[:, 1:])
        for name, curve in curves.items()
        if len(curve.labels) > 1
    }
