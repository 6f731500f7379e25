"""Every strategy on real data: the letter set, and CIFAR-10 as the offline encoder sees it.

A perceptron with one hidden layer of 128 and dropout 0.2, which can answer every strategy: draws,
activations, input gradients. 5 seeds, 5 rounds, 100 or 500 labels a round and as many before the
first. CIFAR-10 is encoded with few filters, 900 columns; of its pool ``--rows`` can be drawn, and
``--epochs`` shortens training where there are many labels (600 steps are made at the least).

``python -m perf.catalogue letter 100 runs/letter-100`` simulates and resumes like ``labelwise
simulate``; ``python docs/results/publish.py runs/letter-100 letter-100`` makes the page.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from labelwise.benchmark import simulate
from labelwise.benchmark.report import write_report
from labelwise.learners import make_encoder, make_learner
from labelwise.pools import open_data
from perf.common import command_line, plan_options, print_event, some_rows
from perf.strategies import page_strategies

LEFT_OUT = {"activelab", "random"}
"""activelab needs several annotators; random comes first, as the baseline."""

TOO_SLOW = {"letter": {"bait"}}
"""BAIT's float64 products at 26 classes and 128 units: 3 minutes for a query of 100 on one thread,
an hour and a half for a page; 6 hours with 500."""

VARIANTS = {"similar": ("similar:function=fl", "similar:function=gc", "similar:function=logdet")}
"""What stands for a strategy whose default needs evidence that these data do not have."""


def catalogue(data: str, without: Sequence[str] = ()) -> list[str]:
    """All strategies that these data can try, random first."""
    left_out = LEFT_OUT | TOO_SLOW.get(data, set()) | set(without)
    names = [one.name for one in page_strategies() if one.name not in left_out]
    listed = (VARIANTS.get(name, (name,)) for name in names)
    return ["random", *(name for some in listed for name in some), "balanced_random"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.catalogue", description=__doc__)
    parser.add_argument("data", help="letter or cifar10, under $LABELWISE_DATA")
    parser.add_argument("batch", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--without", default="", help="strategies to leave out, with commas")
    parser.add_argument("--epochs", type=int, default=60)
    plan_options(parser)
    given = parser.parse_args()
    data = open_data(given.data)
    if given.rows is not None:
        data = some_rows(data, given.rows)
    results = simulate(
        data,
        strategies=",".join(catalogue(given.data, given.without.split(","))),
        initial=given.batch,
        batch=given.batch,
        rounds=given.rounds,
        seeds=given.seeds,
        out=given.out,
        encoder=make_encoder("patches-fast", filters=100) if data.kind == "image" else None,
        learner=make_learner("mlp", hidden=(128,), dropout=0.2, epochs=given.epochs),
        full=False,
        progress=print_event,
    )
    command = command_line("perf.catalogue")
    print(write_report(results, given.out, data=data, command=command))


if __name__ == "__main__":
    main()
