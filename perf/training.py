"""The training loop against a bare hand-written one, and fits of the letter MLP.

The bare loop is what a person would write: the same network, optimizer and minibatches, and
nothing else. The two take turns on one thread, in seconds of processor time, so that a busy machine
plays a small part. The target is a ratio of at most 1.3.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelwise.kernels import Rows, derive
from labelwise.learners import MLP
from perf.common import letter, table


def run(quick: bool) -> list[dict[str, object]]:
    """A row per optimizer, and one per number of labels where the letter set is found."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such steps are too small to share
    rows = _overhead(quick)
    found = letter()
    if found is not None:
        rows += _letter(*found, quick)
    torch.set_num_threads(threads)
    return rows


def _overhead(quick: bool) -> list[dict[str, object]]:
    generator = torch.Generator().manual_seed(0)
    inputs = Rows(torch.randn(1024, 16, generator=generator))
    labels = torch.randint(26, (1024,), generator=generator)
    rows = torch.arange(1024)
    found: list[dict[str, object]] = []
    for optimizer, rate in (("adam", 1e-3), ("sgd", 0.1)):
        learner = MLP(
            epochs=10 if quick else 20,
            min_steps=0,
            optimizer=optimizer,
            learning_rate=rate,
            schedule="constant",
        )
        ours, bare = [], []
        for seed in range(5 if quick else 15):
            network = learner.build(inputs, 26, derive(seed, "weights"))
            start = time.process_time()
            steps = _bare(network, inputs.tensor(), labels, optimizer, rate, learner.recipe.epochs)
            bare.append((time.process_time() - start) / steps)
            start = time.process_time()
            model = learner.fit(inputs, rows, labels, classes=26, seed=seed)
            assert model.history is not None
            ours.append((time.process_time() - start) / model.history.steps)
        found.append(
            {
                "what": f"a step of MLP 16-256-26, minibatch 64, {optimizer}",
                "labelwise": f"{1e6 * statistics.median(ours):.0f} us",
                "bare torch": f"{1e6 * statistics.median(bare):.0f} us",
                "ratio": round(statistics.median(a / b for a, b in zip(ours, bare)), 2),
            }
        )
    return found


def _bare(
    network: nn.Module, x: Tensor, labels: Tensor, optimizer: str, rate: float, epochs: int
) -> int:
    """The loop that ours replaces; returns how many steps it made."""
    if optimizer == "adam":
        update: torch.optim.Optimizer = torch.optim.Adam(network.parameters(), lr=rate, fused=True)
    else:
        update = torch.optim.SGD(
            network.parameters(), lr=rate, momentum=0.9, nesterov=True, fused=True
        )
    network.train()
    steps = 0
    for _ in range(epochs):
        for at in torch.randperm(len(x)).split(64):
            loss = F.cross_entropy(network(x[at]), labels[at])
            update.zero_grad()
            loss.backward()
            update.step()
            steps += 1
    return steps


def _letter(inputs: Rows, truth: Tensor, quick: bool) -> list[dict[str, object]]:
    test = torch.arange(10_000, 20_000)
    found: list[dict[str, object]] = []
    for count in (260, 1000) if quick else (260, 1000, 2600):
        seconds, right = [], []
        for seed in range(2 if quick else 5):
            rows = torch.from_numpy(np.random.default_rng(seed).choice(10_000, count, False))
            start = time.perf_counter()
            model = MLP().fit(inputs, rows, truth[rows], classes=26, seed=seed)
            seconds.append(time.perf_counter() - start)
            predicted = model.predict(inputs, test).probs.argmax(1)
            right.append(float((predicted == truth[test]).float().mean()))
        found.append(
            {
                "what": f"MLP() on letter, {count} labels",
                "labelwise": f"{statistics.median(seconds):.2f} s a fit",
                "bare torch": "",
                "ratio": f"accuracy {100 * statistics.mean(right):.1f} %",
            }
        )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m perf.training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    sys.stdout.write(table(run(parser.parse_args().quick)) + "\n")
