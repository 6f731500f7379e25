"""Heads on frozen features: one fit of 5,000 x 7,200, and many of 5,000 x 512.

The features are those of the offline encoder on CIFAR-10 where ``$LABELWISE_DATA`` holds it, else
random ones. The aims: the better of ridge and logistic regression by validation in at most 4 s,
and logistic fits at least twice as fast as scikit-learn's at the same penalty and an objective at
least as low. The two take turns. Times are wall seconds, medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from labelwise.kernels import Rows, torch_stream
from labelwise.learners.auto import Auto
from labelwise.learners.linear import LinearModel, Problem, prepare
from labelwise.learners.logistic import Logistic
from labelwise.learners.logistic_solver import optimum, whitened
from labelwise.learners.patches import PatchEncoder
from labelwise.learners.ridge import Ridge
from perf.common import machine, median_seconds, table
from perf.encode import cifar10

NARROW = 512
PENALTY = 0.1


def run(quick: bool = False) -> list[dict[str, object]]:
    """Rows of single fits, of repeated fits beside scikit-learn's, and of prediction."""
    count = 1_000 if quick else 5_000
    features, labels = _features(count)
    inputs, rows = Rows(features), torch.arange(count)
    found = []
    for learner in (Auto(), Ridge(), Logistic(), Ridge(penalty=0.1), Logistic(penalty=PENALTY)):
        seconds, report = _fit(learner, inputs, rows, labels, 1 if quick else 3)
        options = "" if getattr(learner, "penalty", None) is None else f", penalty {PENALTY}"
        found.append(
            {
                "what": f"{learner.name}{options}, {count:,} x {features.shape[1]:,}",
                "seconds": seconds,
                "aim": 4.0 if learner.name == "auto" and not quick else "",
                "note": f"{report['head']}, penalty {report['penalty']:.3g}",
            }
        )
    found += _many(inputs, labels, 3 if quick else 20)
    found.append(_prediction(features, labels, 6_000 if quick else 60_000))
    return found


def _features(count: int) -> tuple[np.ndarray, Tensor]:
    """(count, 7200) float16 and labels (count,)."""
    images, labels, _, _ = cifar10(count * 6 // 5)
    images = images[:count]
    if labels is None:
        labels = torch.randint(10, (count,), generator=torch_stream(0, "labels"))
    encoder = PatchEncoder(samples=50_000).fit(images, seed=0)
    return encoder.encode(images), labels[:count]


def _fit(
    learner: Auto | Ridge | Logistic, inputs: Rows, rows: Tensor, labels: Tensor, repeats: int
) -> tuple[float, dict[str, object]]:
    models: list[LinearModel] = []

    def call() -> None:
        models.append(learner.fit(inputs, rows, labels, classes=10, seed=0))

    return median_seconds(call, repeats), models[-1].report


def _many(inputs: Rows, labels: Tensor, fits: int) -> list[dict[str, object]]:
    """Logistic fits of 512 random projections of the features, ours and scikit-learn's in turn."""
    x = inputs.tensor().float()
    ours, theirs, excess = [], [], []
    for fit in range(fits):
        weights = torch.randn(x.shape[1], NARROW, generator=torch_stream(fit, "projection"))
        problem = prepare(Rows(x @ weights), torch.arange(len(x)), labels, 10)
        first, seconds = _timed(lambda problem=problem: _ours(problem))
        ours.append(seconds)
        second, seconds = _timed(lambda problem=problem: _theirs(problem))
        theirs.append(seconds)
        excess.append(_objective(problem, *first) / _objective(problem, *second) - 1)
    what = f"{fits} logistic fits, {len(x):,} x {NARROW}, penalty {PENALTY}"
    ratio = statistics.median(b / a for a, b in zip(ours, theirs))
    return [
        {
            "what": what,
            "seconds": sum(ours),
            "aim": "2x",
            "note": f"{ratio:.1f} times as fast; objective at most {max(excess):+.1e} of theirs",
        },
        {"what": f"the same, scikit-learn {sklearn.__version__}", "seconds": sum(theirs)},
    ]


def _timed(
    call: Callable[[], tuple[Tensor, Tensor]],
) -> tuple[tuple[Tensor, Tensor], float]:
    start = time.perf_counter()
    found = call()
    return found, time.perf_counter() - start


def _ours(problem: Problem) -> tuple[Tensor, Tensor]:
    found = optimum(whitened(problem.x, PENALTY), problem.targets, PENALTY, tolerance=1e-4)
    return found.weight, found.bias


def _theirs(problem: Problem) -> tuple[Tensor, Tensor]:
    model = LogisticRegression(C=1 / PENALTY, max_iter=5_000)
    model.fit(problem.x.numpy(), problem.y.numpy())
    return torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)


def _objective(problem: Problem, weight: Tensor, bias: Tensor) -> float:
    logits = problem.x.double() @ weight.double().T + bias.double()
    loss = functional.cross_entropy(logits, problem.y, reduction="sum")
    return float(loss + PENALTY / 2 * weight.double().square().sum())


def _prediction(features: np.ndarray, labels: Tensor, count: int) -> dict[str, object]:
    """Prediction over a float16 file in the page cache."""
    inputs, rows = Rows(features), torch.arange(1_000)
    model = Ridge(penalty=0.3).fit(inputs, rows, labels[rows], classes=10, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        shape = (count, features.shape[1])
        file = np.lib.format.open_memmap(path, "w+", features.dtype, shape)
        for start in range(0, count, len(features)):
            file[start : start + len(features)] = features[: count - start]
        del file
        mapped = Rows(path)
        seconds = median_seconds(lambda: model.predict(mapped), 3)
    name = f"predict, a float16 file of {count:,} x {features.shape[1]:,}"
    return {"what": name, "seconds": seconds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    sys.stdout.write(f"{machine()}\n{table(run(parser.parse_args().quick))}\n")
