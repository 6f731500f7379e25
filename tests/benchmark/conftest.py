"""Results of a simulation that never ran: every number chosen by the test."""

from pathlib import Path

import numpy as np
import pytest

from labelwise.benchmark.plan import DataRecord, Plan, StrategyEntry
from labelwise.benchmark.results import FullData, Results, from_records

CLASSES = ("cat", "dog", "ship", "truck")
GAINS = {"random": 0.0, "margin": 0.03, "badge": 0.034, "k_center": 0.004, "typiclust": -0.02}


def make_results(
    strategies=("random", "margin", "badge", "k_center"),
    *,
    seeds=5,
    rounds=6,
    initial=100,
    classes=CLASSES,
    ids=None,
    full=True,
    keep=None,
    gains=GAINS,
    noise=0.004,
    folder=Path("results"),
    **plan,
) -> Results:
    """A table with saturating curves: each strategy random's plus its gain, and paired noise.

    ``ids``: names of the items, drawn from at random. ``keep``: (strategy, seed, round) -> bool.
    """
    generator = np.random.default_rng(7)
    ids = [f"item/{row}" for row in range(2000)] if ids is None else list(ids)
    made = Plan(
        version="0.0",
        data=DataRecord(
            name=plan.pop("name", "pets"),
            fingerprint="f" * 32,
            items=len(ids),
            test_items=500,
            classes=list(classes),
        ),
        encoder={"name": "identity"},
        learner={"name": "logistic", "penalty": 1.0},
        strategies=[StrategyEntry(name=name) for name in strategies],
        initial=initial,
        batch=100,
        rounds=rounds,
        seeds=list(range(seeds)),
        **plan,
    )
    luck = generator.normal(0, 0.01, seeds)
    records = []
    for name in strategies:
        for seed in range(seeds):
            for round_ in range(made.first_round, rounds + 1):
                labels = made.labels_at(round_)
                gain = gains.get(name, 0.01) * min(1.0, 2 * round_ / max(rounds, 1))
                accuracy = 0.9 - 0.5 * np.exp(-labels / 300) + gain + luck[seed]
                accuracy += generator.normal(0, noise) if round_ else 0.0
                counts = generator.multinomial(100, np.full(len(classes), 1 / len(classes)))
                record = {
                    "kind": "round",
                    "strategy": name,
                    "seed": seed,
                    "round": round_,
                    "initial": initial,
                    "labels": labels,
                    "accuracy": float(accuracy),
                    "macro_accuracy": float(accuracy),
                    "class_balance": float(generator.uniform(0.8, 1)),
                    "class_counts": counts.tolist(),
                    "select_seconds": 0.01 * len(name),
                    "train_seconds": 0.002 * labels,
                    "evaluate_seconds": 0.01,
                    "picked_ids": [ids[row] for row in generator.integers(len(ids), size=20)],
                    "picked_scores": None if name == "random" else [1.0] * 20,
                    "learner": "logistic",
                }
                if keep is None or keep(name, seed, round_):
                    records.append(record)
    results = from_records(folder, made, records)
    results.sessions.append(
        {
            "versions": {"labelwise": "0.0", "python": "3.11"},
            "machine": {
                "system": "Linux",
                "architecture": "x86_64",
                "cores": 2,
                "threads": 2,
                "gpu": None,
            },
        }
    )
    if full:
        results.full["logistic"] = FullData(2000, 0.93, 0.93, 4.0, 0)
    return results


@pytest.fixture(name="synthetic_results", scope="session")
def _synthetic_results():
    """`make_results`, for tests that choose its arguments."""
    return make_results
