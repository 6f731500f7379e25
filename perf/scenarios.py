"""Two pools made of CIFAR-10: do strategies for them do what their papers claim?

- ``tail``: class sizes fall from 5,000 to 50, 100 to 1; the test set is balanced.
- ``ood``: 7 classes are the task, the other 3, 30 % of the rows, are out of distribution: they
  cost a label and teach nothing. ``--rows`` draws some of the pool: facility location compares
  all pairs.

Features are those of the fast offline encoder with few filters, 900 columns, under a ridge head.

``python -m perf.scenarios tail runs/tail`` simulates and resumes like ``labelwise simulate``;
``python docs/results/publish.py runs/tail cifar10-tail`` puts the page beside the others.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from labelwise.benchmark import simulate
from labelwise.benchmark.report import write_report
from labelwise.learners import make_encoder
from labelwise.pools import Data, open_data
from perf.common import command_line, plan_options, print_event, some_rows

OOD = ("0", "3", "9")  # airplane, cat, truck
STRATEGIES = {
    "tail": "random,margin,badge,base,k_center,galaxy,direct,"
    "similar:function=flqmi:query_classes=5+6+7+8+9,"
    "similar:function=gcmi:query_classes=5+6+7+8+9,balanced_random",
    "ood": "random,entropy,margin,badge,base,k_center,poal,galaxy,direct,similar:function=flcg,"
    "similar:function=gccg,similar:function=logdetcg,"
    "similar:function=logdetcmi:query_classes=0+1+2+3+4+5+6",
}


def long_tail(data: Data, ratio: float = 100.0, seed: int = 0) -> Data:
    """The classes cut down to sizes that fall geometrically, the last ``ratio`` times smaller."""
    rng = np.random.default_rng(seed)
    count = np.bincount(data.labels)
    share = ratio ** -(np.arange(len(count)) / (len(count) - 1))
    rows = [
        rng.permutation(np.flatnonzero(data.labels == c))[: round(count.min() * share[c])]
        for c in range(len(count))
    ]
    return data.subset(np.sort(np.concatenate(rows)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.scenarios", description=__doc__)
    parser.add_argument("pool", choices=("tail", "ood"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", default="cifar10", help="a set under $LABELWISE_DATA")
    parser.add_argument("--strategies")
    parser.add_argument("--ood", default=",".join(OOD))
    parser.add_argument("--batch", type=int, default=100)
    plan_options(parser)
    given = parser.parse_args()
    data = open_data(given.data)
    if given.pool == "tail":
        data = long_tail(data)
    if given.rows is not None:
        data = some_rows(data, given.rows)
    results = simulate(
        data,
        strategies=given.strategies or STRATEGIES[given.pool],
        initial=given.batch,
        batch=given.batch,
        rounds=given.rounds,
        seeds=given.seeds,
        out=given.out,
        encoder=make_encoder("patches-fast", filters=100),
        learner="ridge",
        ood=given.ood.split(",") if given.pool == "ood" else (),
        full=False,
        progress=print_event,
    )
    command = command_line("perf.scenarios")
    print(write_report(results, given.out, data=data, command=command))


if __name__ == "__main__":
    main()
