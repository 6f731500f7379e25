"""The report's page: the view's numbers as text, set into the template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from labelwise.benchmark.drawing import inline_svg
from labelwise.benchmark.figures import duration
from labelwise.benchmark.findings import (
    BASELINE,
    differs,
    findings,
    interval,
    p_value,
    percent,
    points,
    saving,
)
from labelwise.benchmark.results import TIMINGS, Results
from labelwise.benchmark.statistics import Comparison, Paired
from labelwise.benchmark.view import BEST, WORST, View


@dataclass(frozen=True)
class Picture:
    """A figure, and what a screen reader says instead of it."""

    figure: Any
    alt: str


def render(view: View, pictures: Mapping[str, Picture], command: str | None) -> str:
    """The whole page as HTML; every name in it is escaped, whatever it holds.

    Args:
        view: what to show.
        pictures: by name; the contact sheet is left to the page's own images.
        command: the command line that made the results, or None.
    """
    import jinja2
    from markupsafe import Markup

    source = resources.files("labelwise.benchmark").joinpath("templates", "report.html")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # matplotlib escapes the text it writes, and inline_svg parses and writes it once more.
    drawn = {
        name: Markup(inline_svg(picture.figure, name, picture.alt))
        for name, picture in pictures.items()
        if name != "contact_sheet"
    }
    return environment.from_string(source.read_text(encoding="utf-8")).render(
        plan=view.results.plan,
        results=view.results,
        findings=findings(view.results, view.rows),
        looks=view.looks,
        pictures=drawn,
        table=[comparison_row(row, view) for row in view.rows],
        has_baseline=any(row.final_difference is not None for row in view.rows),
        primary="area under the curve" if view.results.plan.primary == "area" else "final accuracy",
        savings=savings_table(view),
        seconds=seconds_table(view),
        sheet=view.sheet,
        facts=facts(view),
        provenance=provenance(view.results, command),
        sessions=view.results.sessions,
        notes=view.results.notes,
    )


def comparison_row(row: Comparison, view: View) -> dict[str, Any]:
    """One line of the main table."""

    def difference(pair: Paired | None) -> str:
        return "" if pair is None else f"{points(pair.mean)} {interval(pair)}".strip()

    verdict = "baseline" if row.strategy == BASELINE else ""
    if row.p_holm is not None and row.final_difference is not None:
        pair = row.area_difference if view.results.plan.primary == "area" else None
        mean = (pair or row.final_difference).mean
        verdict = "not told apart" if not differs(row) else "better" if mean > 0 else "worse"
        if math.isnan(row.p_holm):
            verdict = "no test"
    return {
        "strategy": row.strategy,
        "final": percent(row.final, row.final_std),
        "final_difference": difference(row.final_difference),
        "area": percent(row.area, row.area_std),
        "area_difference": difference(row.area_difference),
        "p": p_value(row.p_holm),
        "verdict": verdict,
        "seeds": row.seeds if row.final_difference is None else row.final_difference.n,
    }


def savings_table(view: View) -> dict[str, Any]:
    """Label efficiency: a heading for each accuracy to reach, a row for each strategy."""
    return {
        "headings": list(view.savings),
        "rows": [
            (name, [saving(by_name[name]) for by_name in view.savings.values()])
            for name in next(iter(view.savings.values()), {})
        ],
    }


def seconds_table(view: View) -> list[tuple[str, str, str]]:
    """Strategy, time selecting and time training, a round."""
    return [
        (
            name,
            duration(view.times["Selecting"][name]),
            duration(view.times["Training"][name]),
        )
        for name in view.results.strategies
    ]


def facts(view: View) -> list[tuple[str, str]]:
    """The numbers a reader wants before any picture."""
    plan = view.results.plan
    known = [row for row in view.rows if math.isfinite(row.final)]
    facts = [
        ("items in the pool", f"{plan.data.items:,}"),
        ("test items", f"{plan.data.test_items:,}"),
        ("labels, first to last", f"{plan.initial:,} → {plan.labels_at(plan.rounds):,}"),
        ("seeds", f"{len(plan.seeds)}"),
    ]
    if known:
        best = max(known, key=lambda row: row.final)
        facts.append((f"best final accuracy: {best.strategy}", f"{percent(best.final)}%"))
    if left := len(view.rows) - len(view.featured):
        facts.append(("drawn as lines", f"the {BEST} best, the {WORST} worst, not {left} more"))
    if view.full is not None:
        facts.append(("accuracy with all labels", f"{percent(view.full)}%"))
    return facts


def provenance(results: Results, command: str | None) -> list[tuple[str, str]]:
    """How the results were made, line by line."""
    plan = results.plan
    work = {name: float(sum(results.table[name].to_pylist())) for name in TIMINGS}
    work["full"] = sum(full.train_seconds for full in results.full.values())
    encoding = results.encoding_seconds
    total = sum(work.values()) + (encoding or 0.0)
    parts = [
        f"selecting {duration(work[TIMINGS[0]])}",
        f"training {duration(work[TIMINGS[1]] + work['full'])}",
        f"evaluating {duration(work[TIMINGS[2]])}",
    ]
    if encoding is not None:
        parts.insert(0, f"encoding {duration(encoding) if encoding else 'cached'}")
    lines = [("command", command)] if command else []
    return [
        *lines,
        ("time", f"{duration(total)} of work: {', '.join(parts)}"),
        ("data", f"{plan.data.name}, fingerprint {plan.data.fingerprint}"),
        ("encoder", _signature(plan.encoder)),
        ("learner", _signature(plan.learner)),
        ("seeds", ", ".join(map(str, plan.seeds))),
        ("budget", f"{plan.initial} {plan.initial_set} + {plan.rounds} x {plan.batch} labels"),
    ]


def _signature(signature: Mapping[str, Any]) -> str:
    """A signature as ``name (key value, ...)``."""
    name = signature.get("name", "")
    rest: Sequence[str] = [f"{key} {value}" for key, value in signature.items() if key != "name"]
    return f"{name} ({', '.join(rest)})" if rest else str(name)
