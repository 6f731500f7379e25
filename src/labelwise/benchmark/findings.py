"""What a simulation's numbers say, in sentences and rows: the same for the page and the terminal.

Every sentence is made from the numbers and says no more than they do. A difference is called one
only where the paired test survives Holm's correction; where random is best, it says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from labelwise.benchmark.efficiency import Efficiency, label_efficiency
from labelwise.benchmark.results import Results
from labelwise.benchmark.statistics import Comparison, Paired, compare, detectable_effect
from labelwise.strategies import list_strategies

BASELINE = "random"
ALPHA = 0.05
MINUS = "−"


NAMED = 8
"""So many strategies a sentence lists; the rest is in the table."""


def comparisons(results: Results) -> list[Comparison]:
    """Every strategy of a run, against random where random was run, in the plan's order."""
    curves = results.curves("accuracy")
    if BASELINE in curves:
        return compare(curves, baseline=BASELINE, primary=results.plan.primary)
    # Compared with itself a strategy has its own numbers and no differences.
    return [compare({name: curve}, baseline=name)[0] for name, curve in curves.items()]


def savings(results: Results, rows: Sequence[Comparison]) -> dict[str, dict[str, Efficiency]]:
    """Label efficiency against random, at random's accuracy half-way and at the end.

    Args:
        results: of a simulation.
        rows: its `comparisons`, which hold the efficiency at the end.

    Returns:
        What has to be reached -> strategy -> efficiency; empty without random, or without
        two points and a seed that every strategy shares with it.
    """
    curves = results.curves("accuracy")
    at_end = {row.strategy: row.efficiency for row in rows if row.efficiency is not None}
    if BASELINE not in curves or len(at_end) < max(1, len(curves) - 1):
        return {}
    baseline = curves[BASELINE]
    last = len(baseline.labels) - 1
    if not last:
        return {}
    found: dict[str, dict[str, Efficiency]] = {}
    if (half := (last + 1) // 2) < last:
        target = float(baseline.values[baseline.complete(), half].mean())
        found[_reach(baseline.labels[half])] = {
            name: label_efficiency(curves[name], baseline, target) for name in at_end
        }
    return found | {_reach(baseline.labels[last]): at_end}


def _reach(labels: float) -> str:
    return f"To {BASELINE}'s accuracy at {labels:,.0f} labels"


def differs(row: Comparison) -> bool:
    """Whether a strategy differs from the baseline on the primary endpoint, after Holm."""
    return row.p_holm is not None and row.p_holm < ALPHA


def primary(row: Comparison, results: Results) -> Paired | None:
    """The paired difference on the endpoint that the plan declared."""
    if results.plan.primary == "area" and row.area_difference is not None:
        return row.area_difference
    return row.final_difference


@dataclass(frozen=True)
class Finding:
    """One sentence about the results; ``tone`` is ``"good"``, ``"bad"``, ``"plain"`` or
    ``"caution"``."""

    text: str
    tone: str = "plain"


def findings(results: Results, rows: Sequence[Comparison]) -> list[Finding]:
    """What the results say, the answer first, then its limits."""
    said = [*_unfinished(results, rows)]
    others = [row for row in rows if row.final_difference is not None]
    known = [row for row in rows if math.isfinite(row.final)]
    if others:
        said = [*_verdict(results, rows, others), *_power(results, others), *said]
    elif BASELINE not in results.strategies:
        said.append(
            Finding(
                f"There is no {BASELINE} baseline in this run, so nothing says whether any of "
                f"this pays off: add {BASELINE} to the strategies.",
                "caution",
            )
        )
    if len(results.plan.seeds) == 1:
        said.append(
            Finding(
                "One seed shows neither spread nor chance: any difference here may be luck. "
                "Run at least 5 seeds before believing one.",
                "caution",
            )
        )
    said += [*_against_full(results, known), *_upper_references(results)]
    return said or [Finding("One strategy, nothing to compare it with.")]


def _verdict(
    results: Results, rows: Sequence[Comparison], others: Sequence[Comparison]
) -> list[Finding]:
    """Better, worse, undecided; and random first when it is."""
    measure = "area under the curve" if results.plan.primary == "area" else "final accuracy"
    tested = [(row, pair) for row in others if (pair := primary(row, results)) is not None]
    tested = [(row, pair) for row, pair in tested if math.isfinite(pair.mean)]
    if not tested:
        return []
    tested.sort(key=lambda item: -item[1].mean)
    good = [item for item in tested if differs(item[0]) and item[1].mean > 0]
    bad = [item for item in tested[::-1] if differs(item[0]) and item[1].mean < 0]
    open_ = [item for item in tested if not differs(item[0])]
    said = []
    if tested[0][1].mean <= 0:
        said.append(
            Finding(
                f"Random wins here: no strategy has a higher mean {measure} than {BASELINE}.", "bad"
            )
        )
    elif not good:
        said.append(Finding(f"Nothing is shown to beat {BASELINE} here on {measure}.", "bad"))
    if good:
        verb = "beat" if len(good) > 1 else "beats"
        said.append(
            Finding(f"{_names(good)} {verb} {BASELINE} on {measure}: {_list(good)}.", "good")
        )
    if bad:
        verb = "are" if len(bad) > 1 else "is"
        said.append(Finding(f"{_names(bad)} {verb} worse than {BASELINE}: {_list(bad)}.", "bad"))
    if open_ and any(math.isfinite(pair.low) for _, pair in open_):
        said.append(
            Finding(
                f"{_names(open_)} cannot be told from {BASELINE}: {_list(open_)}. "
                "That is no proof of equality."
            )
        )
    return said


def _power(results: Results, others: Sequence[Comparison]) -> list[Finding]:
    """How large a difference these seeds could have shown."""
    pairs = [pair for row in others if (pair := primary(row, results)) is not None]
    pairs = [pair for pair in pairs if pair.n > 1]
    if not pairs:
        return []
    seeds = min(pair.n for pair in pairs)
    sizes = [100 * pair.detectable for pair in pairs]
    low, high = f"{min(sizes):.1f}", f"{max(sizes):.1f}"
    size = low if low == high else f"{low} to {high}"  # by strategy: their spreads differ
    tests = len(pairs)
    corrected = f", before Holm's correction for {tests} comparisons" if tests > 1 else ""
    return [
        Finding(
            f"Smallest effect that {seeds} paired seeds can show: {size} points "
            f"({detectable_effect(seeds):.2f} standard deviations of the differences; two-sided "
            f"5%{corrected}). Smaller ones stay hidden."
        )
    ]


def _unfinished(results: Results, rows: Sequence[Comparison]) -> list[Finding]:
    plan = results.plan
    cells = len(plan.strategies) * len(plan.seeds) * plan.points
    if len(results.table) == cells:
        return []
    short = [row.strategy for row in rows if row.seeds < len(plan.seeds)]
    return [
        Finding(
            f"Unfinished: {len(results.table)} of {cells} rounds are in. Incomplete: "
            f"{_enumerated(short)}; only seeds finished by both sides of a pair are compared. "
            "Run the same command again to go on.",
            "caution",
        )
    ]


def _against_full(results: Results, known: Sequence[Comparison]) -> list[Finding]:
    """The best final accuracy as a share of what all labels give."""
    if not results.full or not known:
        return []
    full = next(iter(results.full.values()))
    best = max(known, key=lambda row: row.final)
    labels = results.plan.labels_at(results.plan.rounds)
    share = labels / full.labels
    return [
        Finding(
            f"All {full.labels:,} labels of the pool give {100 * full.accuracy:.1f}%; "
            f"{best.strategy} gets {100 * best.final:.1f}% with {labels:,} of them "
            f"({100 * share:.{0 if share >= 0.1 else 1}f}%)."
        )
    ]


def _upper_references(results: Results) -> list[Finding]:
    oracle = {strategy.name for strategy in list_strategies() if strategy.simulation_only}
    oracles = [
        entry.label
        for entry in results.plan.strategies
        if entry.source is None and entry.name in oracle
    ]
    return [
        Finding(
            f"{name} picks by the true labels: an upper reference, not a strategy one could use.",
            "caution",
        )
        for name in oracles
    ]


def _names(items: Sequence[tuple[Comparison, Paired]]) -> str:
    return _enumerated([row.strategy for row, _ in items])


def _enumerated(names: Sequence[str]) -> str:
    if len(names) > NAMED:
        names = [*names[:NAMED], f"{len(names) - NAMED} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _list(items: Sequence[tuple[Comparison, Paired]]) -> str:
    """The differences, each with its strategy where there are several."""
    shown = [
        f"{row.strategy if len(items) > 1 else ''} {points(pair.mean)} {interval(pair)}".strip()
        for row, pair in items[:NAMED]
    ]
    unit = "points (95% intervals)" if interval(items[0][1]) else "points"
    rest = ", the others in the table" if len(items) > NAMED else ""
    return f"{', '.join(shown)} {unit}{rest}"


def points(value: float) -> str:
    """A difference of accuracies in percentage points, with its sign.

    >>> points(0.0123), points(-0.004), points(float("nan"))
    ('+1.2', '−0.4', '–')
    """
    if not math.isfinite(value):
        return "–"
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", MINUS)


def interval(pair: Paired) -> str:
    """The interval of a difference in points; empty where there is none."""
    if not (math.isfinite(pair.low) and math.isfinite(pair.high)):
        return ""
    return f"[{points(pair.low)}, {points(pair.high)}]"


def percent(value: float, spread: float = math.nan) -> str:
    """An accuracy in percent, with its standard deviation over seeds where there is one.

    >>> percent(0.8312, 0.0049), percent(float("nan"))
    ('83.1 ± 0.5', '–')
    """
    if not math.isfinite(value):
        return "–"
    return f"{100 * value:.1f}" + (f" ± {100 * spread:.1f}" if math.isfinite(spread) else "")


def saving(efficiency: Efficiency | None) -> str:
    """A label efficiency with its interval, or the bound that is known of it."""
    if efficiency is None or efficiency.reached == "neither":
        return "–"
    sign = {"strategy": "≥ ", "baseline": "≤ "}.get(efficiency.reached, "")
    text = f"{sign}{efficiency.ratio:.2f} ×"
    if efficiency.reached == "baseline" and efficiency.high == 0:
        return f"{text}, never reached"
    if math.isnan(efficiency.low):
        return text
    high = "∞" if math.isinf(efficiency.high) else f"{efficiency.high:.2f}"
    return f"{text} [{efficiency.low:.2f}, {high}]"


def p_value(p: float | None) -> str:
    """A corrected p value, never as an impossible zero."""
    if p is None or math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def as_json(value: Any) -> Any:
    """Plain data of dataclasses, lists and numbers: what JSON has no word for becomes null.

    >>> as_json({"a": float("nan"), "b": [1.5]})
    {'a': None, 'b': [1.5]}
    """
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
