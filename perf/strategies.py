"""Every strategy at 50,000 x 512, 1,000 picks, with 10 and with 100 classes.

The pool is a Gaussian mixture with a class a clump and the logits of a head fitted to it roughly,
1,000 of its rows are labeled, 10 draws are the logits with noise, and 100 labeled rows stand for
the query or private set of strategies that take one. Those that look into the model get a
perceptron with 256 hidden units; what a learner's objectives would say of the rows is made up, and
the round is the second of ten. A call is a process of its own through ``labelwise.select``, with
libraries loaded by a small call before; MB is the peak of anonymous memory beyond the evidence.

``python -m perf.strategies docs/results/strategies.md`` measures what the page lacks and brings
its other columns up to date; ``--again NAME ...`` measures those strategies anew.
``python -m perf strategies`` prints the table of all.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from labelwise.strategies import Strategy, call_needs, list_strategies
from perf.common import machine, table

CLASSES = (10, 100)
SIZE = (50_000, 1000)
HIDDEN = 256
LIMIT = 600
SLOW = 60
"""Seconds past which the page says why and what the bound is."""

BOUNDS: dict[str, str] = {
    "active_ft": "300 steps of gradient, each with all similarities of rows and parameters: "
    "300 x 2 N n D = 1.5e13 float32 operations in products, about 40 s at the 400 GFLOP/s that "
    "two cores reach, and 300 N n = 1.5e10 comparisons. Fewer `iterations` take less in "
    "proportion.",
    "bait": "2,000 picks forward, half of them taken back, each with the Fisher matrix of all "
    "rows: with 10 classes 1.7e13 float64 operations in products, 270 s at the 62 GFLOP/s of "
    "two cores. With 100 classes the four matrices of (99 D)^2 numbers take 82 GB. A shortlist "
    "by `candidates`, or narrower embeddings, serves.",
    "batch_bald": "The joint entropy of a candidate with sampled labelings of the picks so "
    "far takes a logarithm for each labeling and class: about 64 x C for each of the candidates "
    "that may still win, 3e10 over 1,000 picks with 10 classes and ten times that with 100.",
    "epig": "With 100 classes the joint distributions of 50,000 rows and 100 targets are N T "
    "C^2 = 5e10 numbers, each of which needs its logarithm: 85 s is 0.6e9 a second.",
    "grad_match": "A pick moves all weights, so gains that rounding blurs are found anew by "
    "two passes over N x C residuals and embeddings: 1,000 x 2 x 2 N C D = 1e13 operations in "
    "products with 100 classes, 25 s at 400 GFLOP/s, and 1,000 fits of up to 1,000 weights in "
    "float64.",
    "similar": "Facility location, its default, sees every pair: 2 N^2 D = 2.6e12 operations "
    "in products, 7 s, and computes gains that a pick changed anew, since 512 MiB hold 5 % of "
    'the pairs. `memory=` lets it keep more, `method="stochastic"` looks at fewer.',
}
"""Of strategies that take longer, or do not run at that size: why, and the arithmetic."""

TESTS = Path(__file__).parent.parent / "tests" / "strategies"

_JOB = """
import json, sys, time
import numpy as np
import torch
import labelwise as lw
from labelwise.errors import LabelwiseError
from labelwise.strategies import get_strategy
from perf.common import PeakMemory
from perf.strategies import evidence
name, size, classes, picks = sys.argv[1], *map(int, sys.argv[2:5])
found = get_strategy(name)
def ask(size, picks):
    given = evidence(found, size, classes)
    with PeakMemory() as peak:
        start = time.perf_counter()
        lw.select(name, picks, **given)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "megabytes": peak.megabytes}
try:
    ask(min(size, 1500), 20)
    print(json.dumps(ask(size, picks)))
except LabelwiseError as error:
    print(json.dumps({"error": str(error)}))
"""


def evidence(strategy: Strategy, size: int, classes: int, width: int = 512) -> dict[str, object]:
    """What a strategy may ask for, of a pool of clumps; nothing that it has no use for."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((classes, width), dtype=np.float32)
    truth = rng.integers(0, classes, size)
    x = centers[truth] + 3 * rng.standard_normal((size, width), dtype=np.float32)
    weight = centers / width**0.5
    logits = x @ weight.T
    labeled = rng.permutation(size)[: size // 50]

    def probs(values: np.ndarray) -> np.ndarray:
        rise = np.exp(values - values.max(-1, keepdims=True))
        return rise / rise.sum(-1, keepdims=True)

    def draws(count: int, values: np.ndarray) -> np.ndarray:
        noise = rng.standard_normal((count, *values.shape), dtype=np.float32)
        return probs(values + 0.5 * noise)

    some = labeled[:100]
    hidden = rng.standard_normal((HIDDEN, width), dtype=np.float32) / width**0.5
    units = np.maximum(x @ hidden.T, 0)
    head = np.linalg.lstsq(units[labeled], logits[labeled], rcond=None)[0].T
    layers = [torch.from_numpy(layer) for layer in (hidden, head.copy())]
    deep = "activations" in strategy.needs
    known = {
        "logits": lambda: logits,
        "probs": lambda: probs(logits),
        "embeddings": lambda: x,
        "draws": lambda: draws(10, logits),
        "target_draws": lambda: draws(10, logits[some]),
        "head_weight": lambda: head if deep else weight,
        "inputs": lambda: x,
        "model": lambda: lambda block: torch.relu(block @ layers[0].T) @ layers[1].T,
        "activations": lambda: units,
        "hidden_weights": lambda: [hidden],
        "head_bias": lambda: np.zeros(classes, dtype=np.float32),
        "query_probs": lambda: probs(logits[some]),
        "query_embeddings": lambda: x[some],
        "query_labels": lambda: truth[some],
        "annotations": lambda: np.c_[labeled, labeled % 7, truth[labeled]],
        "previous_probs": lambda: draws(1, logits)[0],
        "predicted_loss": lambda: rng.standard_normal(size, dtype=np.float32),
        "critic": lambda: rng.standard_normal(size, dtype=np.float32),
        "latent_discriminator": lambda: rng.random(size, dtype=np.float32),
        "distinctiveness": lambda: rng.random(size, dtype=np.float32),
        "pretext_loss": lambda: rng.standard_exponential(size, dtype=np.float32),
        "round": lambda: 1,
        "rounds": lambda: 10,
    }
    needs = call_needs(strategy, {})  # those of its arms too
    wanted = [*needs, *(name for name in strategy.optional if name in known)]
    given: dict[str, object] = {name: known[name]() for name in wanted if name in known}
    given["candidates"] = np.arange(size)
    if {"labeled", "labels"} & {*needs, *strategy.optional}:
        given |= {"labeled": labeled, "labels": truth[labeled]}
    return given


def formula_test(name: str) -> str:
    """The test file that pins a strategy's formula: that of its name, or one that names it.

    A variant that no test names in full, since its name is put together there, has the test of
    the strategy it is a variant of.
    """
    own = TESTS / f"test_{name}.py"
    if own.exists():
        return own.name
    named = re.compile(rf"\b{name}\b")
    for file in sorted(TESTS.glob("test_*.py")):
        if named.search(file.stem.replace("_and_", " ").replace("test_", "")):
            return file.name
    scored = f"{name}_scores("
    files = sorted(TESTS.glob("test_*.py"), key=lambda file: scored not in file.read_text())
    naming = [file.name for file in files if named.search(file.read_text())]
    naming += [
        file.name for file in files if name.startswith(f"{file.stem.removeprefix('test_')}_")
    ]
    return naming[0]


def measure(name: str, classes: int, size: int, picks: int) -> tuple[str, str]:
    """Seconds and MB as cells; why not, where it does not run."""
    command = [sys.executable, "-c", _JOB, name, *map(str, (size, classes, picks))]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"over {LIMIT}", ""
    if ran.returncode:
        return "failed: " + ran.stderr.strip().splitlines()[-1][:120].replace("|", "/"), ""
    got = json.loads(ran.stdout.splitlines()[-1])
    if "error" in got:
        return "refused: " + got["error"].replace("|", "/"), ""
    return f"{got['seconds']:.3g}", f"{got['megabytes']:,.0f}"


def facts(strategy: Strategy) -> dict[str, object]:
    """What the page says of a strategy beside the measurements."""
    return {
        "strategy": f"`{strategy.name}`",
        "source": strategy.cite,
        "test": f"`{formula_test(strategy.name)}`",
    }


def page_strategies() -> list[Strategy]:
    """Those of this package that need no oracle."""
    return [
        one
        for one in list_strategies()
        if one.function.__module__.startswith("labelwise.") and not one.simulation_only
    ]


def measured(one: Strategy, cells: dict[str, str], size: int, picks: int) -> dict[str, object]:
    """The row of a strategy; what ``cells`` has is not measured again."""
    row = facts(one)
    for classes in CLASSES:
        seconds, megabytes = f"s, {classes} classes", f"MB, {classes} classes"
        if cells.get(seconds):
            row |= {seconds: cells[seconds], megabytes: cells.get(megabytes, "")}
        else:
            row[seconds], row[megabytes] = measure(one.name, classes, size, picks)
            print(one.name, classes, row[seconds], row[megabytes], file=sys.stderr, flush=True)
    return row | {"time and memory": one.costs}


def is_slow(row: Mapping[str, object]) -> bool:
    """Whether a row of the page needs its reason in `BOUNDS`."""
    cells = [str(row[f"s, {classes} classes"]) for classes in CLASSES]
    return any(not cell.replace(".", "").isdigit() or float(cell) > SLOW for cell in cells)


def reasons(rows: Sequence[Mapping[str, object]]) -> str:
    """A line on each strategy that is slow or did not run."""
    slow = [str(row["strategy"]) for row in rows if is_slow(row)]
    lines = [f"- {name}: {BOUNDS.get(name.strip('`'), '')}" for name in slow]
    return f"\n## Over {SLOW} seconds, or not at all\n\n" + "\n".join(lines) + "\n" if lines else ""


def run(quick: bool = False) -> list[dict[str, object]]:
    """A row per strategy."""
    size, picks = (3000, 30) if quick else SIZE
    return [measured(one, {}, size, picks) for one in page_strategies()]


def read_page(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a page written earlier, by strategy."""
    if not path.exists():
        return {}
    lines = [line for line in path.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    if not cells:
        return {}
    head = [name.strip() for name in cells[0]]
    return {row[0].strip("`"): dict(zip(head, row)) for row in cells[1:] if row[0] != "---"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.strategies", description=__doc__)
    parser.add_argument("page", type=Path, help="docs/results/strategies.md")
    parser.add_argument("--again", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="leave out others")
    given = parser.parse_args()
    known = read_page(given.page)
    for name in given.again:
        known.pop(name, None)
    about = (__doc__ or "").split("``python -m perf.strategies")[0].strip()
    head = (
        f"# Every strategy: source, test, time and memory\n\n{about}\n\n"
        "Made by `python -m perf.strategies docs/results/strategies.md`, a strategy at a time, on "
        f"{machine()}.\nTests lie in `tests/strategies`.\n\n"
    )
    rows: list[dict[str, object]] = []
    for one in page_strategies():
        if given.only and one.name not in [*given.only, *known]:
            continue
        rows.append(measured(one, known.get(one.name) or {}, *SIZE))
        later = [dict(row) for name, row in known.items() if f"`{name}`" > rows[-1]["strategy"]]
        so_far = f"Measured so far: {len(rows) + len(later)} of {len(page_strategies())}.\n\n"
        given.page.write_text(f"{head}{so_far}{table([*rows, *later])}\n")  # to be resumed
    if len(rows) == len(page_strategies()):
        given.page.write_text(f"{head}{table(rows)}\n{reasons(rows)}")


if __name__ == "__main__":
    main()
