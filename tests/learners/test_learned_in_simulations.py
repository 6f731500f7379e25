"""Strategies of what training leaves behind, through whole simulations."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from labelwise.benchmark import simulate
from labelwise.learners import MLP
from labelwise.pools import ArrayPool, Data


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32)
    return Data(
        pool=ArrayPool(x[:150], [f"a/{i}" for i in range(150)]),
        labels=y[:150],
        test=ArrayPool(x[150:250], [f"b/{i}" for i in range(100)]),
        test_labels=y[150:250],
        classes=[str(c) for c in range(10)],
        name="digits",
    )


@pytest.mark.parametrize(
    ("strategy", "objective"),
    [
        ("tod", "tod"),
        ("lpl", "learning_loss:width=8"),
        ("vaal", "vaal:hidden=16:latent=4"),
        ("waal", "waal"),
    ],
)
def test_objective_and_strategy_on_digits(strategy, objective, digits, tmp_path):
    learner = MLP(hidden=(16,), epochs=1, min_steps=15, objectives=f"cross_entropy+{objective}")
    results = simulate(
        digits,
        strategies=strategy,
        initial=20,
        batch=10,
        rounds=2,
        seeds=1,
        learner=learner,
        encoder="identity",
        cache=tmp_path / "cache",
        out=tmp_path / "run",
    )
    rounds = results.table.to_pylist()
    assert [each["labels"] for each in rounds] == [20, 30, 40]
    assert all(len(each["picked_scores"]) == 10 for each in rounds[1:])
    assert rounds[-1]["accuracy"] > 0.15
