"""20 seeds of ``MLP()`` on the letter set: one after another, and as one group.

The two take turns on all cores. Wall seconds are what a user waits; seconds of processor time
depend less on what else the machine does. The aim is a ratio of at least 5 on two cores. The last
column is the largest difference of a test probability between a member and its lone fit. Without
``$LABELWISE_DATA`` the inputs are random numbers of the same shape.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labelwise.kernels import Rows
from labelwise.learners import MLP, Model
from labelwise.learners.many import Job, fit_many
from perf.common import letter, table


def run(quick: bool) -> list[dict[str, object]]:
    """A row per number of labels and dropout."""
    inputs, truth = letter() or _random()
    cases: list[tuple[int, dict[str, Any]]] = [(260, {}), (1000, {}), (260, {"dropout": 0.2})]
    seeds, repeats = (4, 1) if quick else (20, 3)
    return [
        _case(inputs, truth, labels, options, seeds, repeats)
        for labels, options in (cases[:1] if quick else cases)
    ]


def _case(
    inputs: Rows, truth: Tensor, labels: int, options: dict[str, Any], seeds: int, repeats: int
) -> dict[str, object]:
    learner = MLP(**options)
    jobs = []
    for seed in range(seeds):
        rows = torch.from_numpy(np.random.default_rng(seed).choice(10_000, labels, False))
        jobs.append(Job(rows, truth[rows], seed))

    def alone() -> list[Model]:
        return [
            learner.fit(inputs, job.rows, job.labels, classes=26, seed=job.seed) for job in jobs
        ]

    def together() -> list[Model]:
        found = fit_many(learner, inputs, jobs, classes=26)
        assert not found.apart, found.apart
        return found.models

    times: dict[Callable[[], list[Model]], list[tuple[float, float]]] = {alone: [], together: []}
    models: dict[Callable[[], list[Model]], list[Model]] = {}
    for _ in range(repeats):
        for call in (alone, together):
            start = time.perf_counter(), time.process_time()
            models[call] = call()
            times[call].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall = [statistics.median(t[0] for t in times[call]) for call in (alone, together)]
    busy = [statistics.median(t[1] for t in times[call]) for call in (alone, together)]
    test = torch.arange(10_000, 20_000)
    apart = [
        float((a.predict(inputs, test).probs - b.predict(inputs, test).probs).abs().max())
        for a, b in zip(models[alone], models[together])
    ]
    said = ", ".join(f"{name}={value}" for name, value in options.items())
    return {
        "what": f"{seeds} x MLP({said}), letter, {labels} labels",
        "alone": f"{wall[0]:.2f} s (busy {busy[0]:.2f} s)",
        "together": f"{wall[1]:.2f} s (busy {busy[1]:.2f} s)",
        "ratio": f"{wall[0] / wall[1]:.1f} (busy {busy[0] / busy[1]:.1f})",
        "apart": f"{max(apart):.1e}",
    }


def _random() -> tuple[Rows, Tensor]:
    """Of the letter set's shape."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 16, generator=generator)
    return Rows(x), (x @ torch.randn(16, 26, generator=generator)).argmax(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m perf.many", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    sys.stdout.write(table(run(parser.parse_args().quick)) + "\n")
