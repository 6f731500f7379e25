"""Logistic regression: scikit-learn's optimum, by either form, in float64."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import logistic
from labelwise.learners.linear import folds, gram, prepare
from labelwise.learners.logistic import Logistic
from labelwise.learners.logistic_solver import optimum, whitened


def problem(n, d, c=4, seed=0, rank=None):
    """Centered float64 features of rows with squared length near 1, and classes."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, rank or d, generator=g, dtype=torch.float64)
    if rank:
        x = x @ torch.randn(rank, d, generator=g, dtype=torch.float64)
    x = x - x.mean(0)
    x = x / x.square().sum(1).mean().sqrt()
    noise = torch.randn(n, c, generator=g, dtype=torch.float64)
    y = (x @ torch.randn(d, c, generator=g, dtype=torch.float64) * 3 + noise).argmax(1)
    y[:c] = torch.arange(c)
    return x, y


def objective(x, y, weight, bias, penalty):
    loss = functional.cross_entropy(x @ weight.T + bias, y, reduction="sum")
    return float(loss + penalty / 2 * weight.square().sum())


@pytest.mark.parametrize("form", ["features", "rows"])
@pytest.mark.parametrize(
    ("n", "d", "c", "penalty"), [(200, 20, 4, 0.5), (60, 100, 4, 0.1), (150, 30, 2, 0.05)]
)
def test_the_optimum_is_that_of_scikit_learn(form, n, d, c, penalty):
    from sklearn.linear_model import LogisticRegression

    x, y = problem(n, d, c)
    kernel = gram(x) if form == "rows" else None
    targets = functional.one_hot(y, c).double()
    found = optimum(whitened(x, penalty, kernel), targets, penalty, tolerance=1e-8)
    # With two classes scikit-learn penalizes one difference w: |w|^2 is 2 (|w/2|^2 + |w/2|^2).
    strength = 1 / penalty if c > 2 else 2 / penalty
    theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=20_000)
    theirs.fit(x.numpy(), y.numpy())
    weight, bias = torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_)
    if c == 2:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    torch.testing.assert_close(found.weight, weight, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        found.bias - found.bias.mean(), bias - bias.mean(), atol=1e-5, rtol=1e-4
    )
    ours = objective(x, y, found.weight, found.bias, penalty)
    assert ours <= objective(x, y, weight, bias, penalty) * (1 + 1e-10)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n", "d", "rank"), [(40, 90, None), (120, 60, None), (120, 200, 15)])
def test_the_gradient_vanishes_at_the_optimum(seed, n, d, rank):
    x, y = problem(n, d, seed=seed, rank=rank)
    targets = functional.one_hot(y, 4).double()
    for kernel in (None, gram(x)):
        found = optimum(whitened(x, 0.01, kernel), targets, 0.01, tolerance=1e-9)
        residual = (x @ found.weight.T + found.bias).softmax(1) - targets
        gradient = residual.T @ x + 0.01 * found.weight
        assert gradient.norm() < 1e-6 * (targets.T @ x).norm()
        assert residual.sum(0).abs().max() < 1e-6
        assert found.steps < 200


@pytest.mark.parametrize("form", ["features", "rows"])
def test_one_space_serves_other_penalties_and_other_starts(form):
    x, y = problem(80, 50)
    kernel = gram(x) if form == "rows" else None
    targets = functional.one_hot(y, 4).double()
    alone = optimum(whitened(x, 0.03, kernel), targets, 0.03, tolerance=1e-9)
    space = whitened(x, 0.1, kernel)
    cold = optimum(space, targets, 0.03, tolerance=1e-9)
    torch.testing.assert_close(cold.weight, alone.weight, atol=1e-6, rtol=1e-6)
    start = optimum(space, targets, 0.04, tolerance=1e-9).state
    warm = optimum(space, targets, 0.03, tolerance=1e-9, start=start)
    torch.testing.assert_close(warm.weight, alone.weight, atol=1e-6, rtol=1e-6)
    assert warm.steps < cold.steps


def test_single_precision_and_deficient_rank_end_near_the_optimum():
    x, y = problem(300, 400, rank=40)
    targets = functional.one_hot(y, 4)
    for penalty in (0.3, 0.01):
        exact = optimum(whitened(x, penalty), targets.double(), penalty, tolerance=1e-9)
        single = x.float()
        space = whitened(single, penalty, gram(single))
        rough = optimum(space, targets.float(), penalty)
        error = (rough.weight - exact.weight).norm() / exact.weight.norm()
        assert error < 2e-3
        assert rough.steps < 120


def test_separable_rows_have_an_optimum():
    x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    found = optimum(whitened(x, 1e-3), torch.eye(2, dtype=torch.float64), 1e-3, tolerance=1e-10)
    # By symmetry W = (-w, w); 2 sigmoid(-2 w) = 1e-3 w.
    w = float(found.weight[1, 0])
    assert 2 / (1 + np.exp(2 * w)) == pytest.approx(1e-3 * w, rel=1e-6)


def test_the_model_is_the_optimum_in_the_inputs_own_space():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(np.arange(90) % 3)
    x = rng.standard_normal((90, 12)) + rng.standard_normal((3, 12))[labels]
    inputs = Rows(x * np.geomspace(0.1, 10, 12) + 4)
    model = Logistic(penalty=0.2, tolerance=1e-6).fit(
        inputs, torch.arange(90), labels, classes=3, seed=0
    )
    given = prepare(inputs, torch.arange(90), labels, 3)
    exact = optimum(whitened(given.x.double(), 0.2), given.targets.double(), 0.2, tolerance=1e-10)
    wanted = (given.x.double() @ exact.weight.T + exact.bias).softmax(1).float()
    torch.testing.assert_close(model.predict(inputs).probs, wanted, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("d", [8, 150])
def test_the_penalty_chosen_is_the_best_of_those_tried(d):
    x, y = problem(100, d)
    model = Logistic().fit(Rows(x), torch.arange(100), y, classes=4, seed=3)
    tried = model.report["held_out"]
    assert len(tried) >= 2
    assert tried[model.report["penalty"]]["loss"] == min(each["loss"] for each in tried.values())
    assert all(each["rows"] == 100 for each in tried.values())
    assert tried[model.report["penalty"]]["loss"] < 0.95 * np.log(4)  # those fits were fits


def test_each_penalty_starts_from_the_last_ones_weights(monkeypatch):
    starts = []

    def spy(*args, start, **options):
        starts.append(start is not None)
        return optimum(*args, start=start, **options)

    monkeypatch.setattr(logistic, "optimum", spy)
    x, y = problem(100, 8)
    given = prepare(Rows(x), torch.arange(100), y, 4)
    _, tried = logistic.choose_penalty(given, folds(given.y, 0), None)
    assert starts == [False] * 5 + [True] * 5 * (len(tried) - 1)


def test_options_must_be_positive():
    with pytest.raises(InputError, match="penalty must be positive, got 0"):
        Logistic(penalty=0)
    with pytest.raises(InputError, match=r"tolerance must be positive, got -1\.0"):
        Logistic(tolerance=-1.0)
