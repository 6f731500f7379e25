"""What a report shows, gathered once from the results: the page and the pictures read this."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from labelwise.benchmark.contact_sheet import Sheet, first_picks
from labelwise.benchmark.curves import Curve
from labelwise.benchmark.drawing import PLAIN, Look, looks
from labelwise.benchmark.efficiency import Efficiency
from labelwise.benchmark.findings import BASELINE, comparisons, savings
from labelwise.benchmark.results import TIMINGS, Results
from labelwise.benchmark.statistics import Comparison

if TYPE_CHECKING:
    from labelwise.pools import Data

MANY = 12
"""More strategies than this are sorted, and no longer drawn as a line each."""

BEST, WORST = 6, 2


@dataclass(frozen=True)
class View:
    """Everything the page and the pictures are made of.

    Attributes:
        results: of the simulation.
        rows: every strategy, compared with random where random was run; more than `MANY` go by
            falling area.
        curves: of accuracy, by strategy.
        featured: whose curves are drawn: all, or of more than `MANY` random, the best and the
            worst.
        looks: colors and marks, by strategy.
        savings: what has to be reached -> strategy -> label efficiency; may be empty.
        times: kind of work -> strategy -> mean seconds a round; NaN before the first round.
        shares: (C,) shares of the classes among all picks, by strategy with picks.
        sheet: what was picked first; None before the first round.
        full: accuracy with every label of the pool, or None.
    """

    results: Results
    rows: list[Comparison]
    curves: dict[str, Curve]
    featured: tuple[str, ...]
    looks: dict[str, Look]
    savings: dict[str, dict[str, Efficiency]]
    times: dict[str, dict[str, float]]
    shares: dict[str, NDArray[np.float64]]
    sheet: Sheet | None
    full: float | None


def make_view(results: Results, data: Data | None) -> View:
    """Gather a report's contents; ``data`` shows the items behind the ids."""
    rows = comparisons(results)
    featured = tuple(results.strategies)
    if len(rows) > MANY:
        rows = sorted(rows, key=_merit, reverse=True)
        names = [row.strategy for row in rows if row.strategy != BASELINE]
        drawn = {*names[:BEST], *names[-WORST:], BASELINE}
        featured = tuple(name for name in featured if name in drawn)
    return View(
        results=results,
        rows=rows,
        curves=results.curves("accuracy"),
        featured=featured,
        looks=looks(featured)
        | {row.strategy: PLAIN for row in rows if row.strategy not in featured},
        savings=savings(results, rows),
        times=_times(results),
        shares=_shares(results),
        sheet=first_picks(results, data),
        full=next((full.accuracy for full in results.full.values()), None),
    )


def _merit(row: Comparison) -> tuple[float, float]:
    """By area; by final accuracy where there is none yet; what has not run last."""
    worth = [value if math.isfinite(value) else -math.inf for value in (row.area, row.final)]
    return worth[0], worth[1]


def _times(results: Results) -> dict[str, dict[str, float]]:
    """Mean seconds a round, selecting and training; round 0 selects nothing and is left out."""
    strategies = np.array(results.table["strategy"].to_pylist(), dtype=object)
    rounds = np.array(results.table["round"].to_pylist(), dtype=np.int64)
    found: dict[str, dict[str, float]] = {}
    for heading, column in (("Selecting", TIMINGS[0]), ("Training", TIMINGS[1])):
        values = np.array(results.table[column].to_pylist(), dtype=np.float64)
        found[heading] = {
            name: float(values[there].mean()) if there.any() else math.nan
            for name in results.strategies
            for there in [(strategies == name) & (rounds > 0)]
        }
    return found


def _shares(results: Results) -> dict[str, NDArray[np.float64]]:
    """(C,) by strategy: the share of each class among everything it asked for."""
    totals = {name: np.zeros(len(results.plan.data.classes)) for name in results.strategies}
    columns = [results.table[name].to_pylist() for name in ("strategy", "round", "class_counts")]
    for name, round_, counts in zip(*columns, strict=True):
        if round_ > 0:
            totals[name] += np.asarray(counts, dtype=np.float64)
    return {name: total / total.sum() for name, total in totals.items() if total.sum() > 0}
