"""The better of ridge and logistic regression is the better of the two."""

import numpy as np
import pytest
import torch

from labelwise.kernels import Rows
from labelwise.learners import auto
from labelwise.learners.auto import Auto
from labelwise.learners.linear import Score, prepare
from labelwise.learners.logistic import fit_logistic
from labelwise.learners.ridge import fit_ridge


def few_sure_rows_far_out(n=300, d=6, seed=0):
    """A class boundary near zero, and rows of one class far out, which pull a least square."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    y = (x[:, 0] > 0.8).astype(np.int64)
    far = (y == 1) & (rng.random(n) < 0.5)
    x[far, 0] += 30
    return Rows(x), torch.arange(n), torch.from_numpy(y)


def small_clusters(n=120, d=400, seed=0):
    """More features than rows, each a weak sign of the class: least squares are at home."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 4
    x = rng.standard_normal((n, d)) + 0.28 * rng.standard_normal((4, d))[y]
    return Rows(x), torch.arange(n), torch.from_numpy(y)


@pytest.mark.parametrize(("data", "c"), [(few_sure_rows_far_out, 2), (small_clusters, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_the_winner_is_the_head_with_the_better_score(data, c, seed):
    given = data(seed=seed)
    model = Auto().fit(*given, classes=c, seed=seed)
    compared = model.report["compared"]
    head = model.report["head"]
    other = {"ridge": "logistic", "logistic": "ridge"}[head]
    assert compared[head]["rows"] == compared[other]["rows"] == len(given[1])
    best, rest = compared[head], compared[other]
    assert (best["accuracy"], -best["loss"]) >= (rest["accuracy"], -rest["loss"])
    problem = prepare(*given, c)
    fit = {"ridge": lambda p: fit_ridge(problem, seed, penalty=p),
           "logistic": lambda p: fit_logistic(problem, p)}[head]  # fmt: skip
    again = fit(model.report["penalty"])
    torch.testing.assert_close(model.head_weight, again.head_weight, atol=1e-4, rtol=1e-3)


def test_each_head_wins_where_it_should():
    assert Auto().fit(*few_sure_rows_far_out(), classes=2, seed=0).report["head"] == "logistic"
    wins = [
        Auto().fit(*small_clusters(seed=seed), classes=4, seed=0).report["head"]
        for seed in range(5)
    ]
    assert wins.count("ridge") >= 3


def test_equal_counts_go_to_the_lower_loss(monkeypatch):
    given = small_clusters()
    for better in ("ridge", "logistic"):
        losses = {"ridge": 0.5, "logistic": 0.5, better: 0.4}

        def chosen(head, losses=losses):
            score = Score(losses[head], 0.75, 10)
            return lambda problem, pairs, kernel: (0.1, {0.1: score})

        monkeypatch.setattr(auto, "choose_ridge", chosen("ridge"))
        monkeypatch.setattr(auto, "choose_penalty", chosen("logistic"))
        assert Auto().fit(*given, classes=4, seed=0).report["head"] == better


def test_with_nothing_to_hold_out_it_is_ridge():
    inputs, _, _ = small_clusters()
    model = Auto().fit(inputs, torch.arange(4), torch.arange(4), classes=4, seed=0)
    assert model.report["head"] == "ridge"
    assert "compared" not in model.report


def test_labels_of_other_rows_are_not_needed():
    inputs, rows, labels = small_clusters()
    x = inputs.tensor().clone()
    model = Auto().fit(Rows(x), rows[:60], labels[:60], classes=4, seed=0)
    x[60:] = 1e6
    again = Auto().fit(Rows(x), rows[:60], labels[:60], classes=4, seed=0)
    assert torch.equal(model.head_weight, again.head_weight)
