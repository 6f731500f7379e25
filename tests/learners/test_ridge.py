"""Ridge regression: its closed form, its left-out answers, its probabilities, in float64."""

import numpy as np
import pytest
import torch

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import linear, ridge
from labelwise.learners.linear import (
    descend,
    factored_inverse,
    folds,
    gram,
    prepare,
    score,
    second_moment,
    temperature,
)
from labelwise.learners.ridge import Ridge, fit_ridge


def problem(n, d, c=3, seed=0, scales=True):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, c, n)
    x = rng.standard_normal((n, d)) + 2 * rng.standard_normal((c, d))[y] + 5
    if scales:
        x *= np.geomspace(0.1, 10, d)
    return Rows(x), torch.arange(n), torch.from_numpy(y)


def by_definition(x, targets, penalty):
    """Weights and intercept of the least squares with a penalty, from a bordered system."""
    n, d = x.shape
    wide = torch.cat([x, torch.ones(n, 1, dtype=x.dtype)], 1)
    border = penalty * torch.eye(d + 1, dtype=x.dtype)
    border[d, d] = 0
    found = torch.linalg.solve(wide.T @ wide + border, wide.T @ targets)
    return found[:d], found[d]


@pytest.mark.parametrize("shape", [(30, 80), (80, 30), (40, 40), (5, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_weights_and_left_out_answers_are_their_definition(shape, seed):
    given = prepare(*problem(*shape, seed=seed), 3)
    solver = ridge._Dual(given, 0, None) if given.dual else ridge._Primal(given, 0)
    solution = solver.at(0.05)
    x, targets = given.x.double(), given.targets.double()
    weight, bias = by_definition(x, targets, 0.05)
    torch.testing.assert_close(solution.weight.T.double(), weight, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(solution.bias.double(), bias, atol=1e-4, rtol=1e-3)
    for row in range(len(x)):
        rest = torch.arange(len(x)) != row
        w, b = by_definition(x[rest], targets[rest], 0.05)
        left_out = solution.left_out[row].double()
        torch.testing.assert_close(left_out, x[row] @ w + b, atol=1e-3, rtol=1e-3)


def test_both_forms_agree():
    given = prepare(*problem(50, 50, scales=False), 3)
    dual, primal = ridge._Dual(given, 0, None).at(0.1), ridge._Primal(given, 0).at(0.1)
    torch.testing.assert_close(dual.weight, primal.weight, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(dual.left_out, primal.left_out, atol=1e-4, rtol=1e-3)


def test_of_many_rows_some_are_left_out(monkeypatch):
    monkeypatch.setattr(ridge, "LEFT_OUT", 16)
    for shape in ((40, 90), (90, 40)):
        given = prepare(*problem(*shape), 3)
        make = ridge._Dual if given.dual else ridge._Primal
        some = make(given, 5, None).at(0.1) if given.dual else make(given, 5).at(0.1)
        assert len(some.rows) == 16
        monkeypatch.setattr(ridge, "LEFT_OUT", 1000)
        every = make(given, 5, None).at(0.1) if given.dual else make(given, 5).at(0.1)
        torch.testing.assert_close(some.left_out, every.left_out[some.rows])
        monkeypatch.setattr(ridge, "LEFT_OUT", 16)


@pytest.mark.parametrize("shape", [(30, 80), (80, 30)])
def test_held_out_answers_are_those_of_a_fit_without_them(shape):
    given = prepare(*problem(*shape), 3)
    held = torch.tensor([1, 5, 6, 20])
    kept = torch.tensor([row for row in range(shape[0]) if row not in held])
    kernel = gram(given.x) if given.dual else None
    answers = ridge._HeldOut(given, kept, held, kernel).answers(0.2)
    x = given.x.double()
    w, b = by_definition(x[kept], given.targets[kept].double(), 0.2)
    torch.testing.assert_close(answers.double(), x[held] @ w + b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("shape", [(60, 200), (200, 20)])
def test_the_penalty_chosen_is_the_best_of_those_tried(shape):
    model = Ridge().fit(*problem(*shape), classes=3, seed=0)
    tried = model.report["left_out"]
    assert len(tried) >= 2
    assert tried[model.report["penalty"]]["loss"] == min(each["loss"] for each in tried.values())
    fixed = Ridge(penalty=model.report["penalty"]).fit(*problem(*shape), classes=3, seed=0)
    assert torch.equal(model.head_weight, fixed.head_weight)


@pytest.mark.parametrize("shape", [(60, 200), (200, 20)])
def test_logits_are_the_answers_times_the_factor_that_fits_the_left_out_ones(shape):
    given = prepare(*problem(*shape), 3)
    model = fit_ridge(given, 0, penalty=0.1)
    solution = (ridge._Dual(given, 0, None) if given.dual else ridge._Primal(given, 0)).at(0.1)
    factor = temperature(solution.left_out, given.y[solution.rows])
    assert abs(factor - 1) > 0.1
    answers = given.x @ solution.weight.T + solution.bias
    logits = model.predict(problem(*shape)[0]).logits
    wanted = factor * (answers - answers.mean(1, keepdim=True))
    torch.testing.assert_close(logits, wanted, atol=1e-3, rtol=1e-3)


def test_a_kernel_given_is_used():
    given = prepare(*problem(20, 30), 3)
    kernel = gram(given.x)
    same = fit_ridge(given, 0, kernel=kernel, penalty=0.1)
    torch.testing.assert_close(same.head_weight, fit_ridge(given, 0, penalty=0.1).head_weight)
    other = fit_ridge(given, 0, kernel=kernel * 2, penalty=0.1)
    assert not torch.allclose(same.head_weight, other.head_weight)


def test_features_are_standardized_and_constant_ones_stay_small():
    inputs = Rows(torch.tensor([[1.0, 3.0, 7.0], [3.0, 3.0, 7.0], [5.0, 3.0, 8.0]]))
    given = prepare(inputs, torch.arange(3), torch.tensor([0, 1, 1]), 2)
    assert given.x.square().sum(1).mean() < 1.001
    torch.testing.assert_close(given.x[:, 1], torch.zeros(3))
    # Variances 8/3, 0 and 2/9, drawn to their mean 26/27 by ten rows' worth.
    variance = (3 * torch.tensor([8 / 3, 0, 2 / 9]) + 10 * 26 / 27) / 13
    torch.testing.assert_close(given.scale.float(), (3 * variance).sqrt())


def test_temperature_is_the_best_factor():
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.integers(0, 4, 300))
    scores = torch.nn.functional.one_hot(y, 4) + torch.from_numpy(rng.normal(0, 1, (300, 4)))
    factor = temperature(scores, y)
    losses = {f: score(scores * f, y).loss for f in (factor * 0.9, factor, factor * 1.1)}
    assert min(losses, key=losses.get) == factor
    assert temperature(10 * scores, y) == pytest.approx(factor / 10, rel=1e-3)


def test_temperature_has_an_answer_for_perfect_and_for_empty_scores():
    y = torch.tensor([0, 1, 2])
    perfect = temperature(torch.eye(3), y)
    # Targets of 3/4 + 1/12 = 5/6 for the true class: exp(f) / (exp(f) + 2) = 5/6.
    assert perfect == pytest.approx(np.log(10), rel=1e-4)
    assert temperature(torch.zeros(3, 3), y) == 1.0
    assert temperature(-torch.eye(3), y) == pytest.approx(1e-3, rel=1)


def test_descend_walks_to_the_minimum_and_keeps_its_bounds():
    def bowl(center):
        return lambda value: linear.Score(abs(np.log10(value / center)), 0.0, 1)

    best, tried = descend(bowl(1e-2), 1.0, low=1e-4, high=1e4)
    assert best == pytest.approx(1e-2)
    assert len(tried) == 6
    assert descend(bowl(1e2), 1.0, low=1e-4, high=1e4)[0] == pytest.approx(1e2)
    assert descend(bowl(1.0), 1.0, low=1e-4, high=1e4)[0] == 1.0
    assert descend(bowl(1e-6), 1.0, low=0.09, high=1e4)[0] == pytest.approx(0.1)
    level = descend(lambda value: linear.Score(float("nan"), 0.0, 1), 1.0, low=0.1, high=10)
    assert level[0] == 1.0


def test_folds_hold_out_each_row_once_and_never_a_whole_class():
    y = torch.tensor([0] * 40 + [1] * 9 + [2] + [3] * 2)
    pairs = folds(y, 7)
    assert len(pairs) == 5
    held = torch.cat([part for _, part in pairs])
    assert sorted(held.tolist()) == [row for row in range(52) if row != 49]
    for kept, part in pairs:
        assert set(kept.tolist()) | set(part.tolist()) == set(range(52))
        assert len(torch.unique(y[kept])) == 4
        assert (y[part] == 0).sum() == 8
        assert 1 <= (y[part] == 1).sum() <= 2
    assert torch.equal(folds(y, 7)[2][1], pairs[2][1])
    assert not torch.equal(folds(y, 8)[2][1], pairs[2][1])
    assert folds(torch.arange(5), 0) == []
    assert len(folds(torch.arange(2002) % 3, 0)) == 1


def test_matrices_in_blocks():
    x = torch.randn(1300, 700, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gram(x), x @ x.T, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(second_moment(x), x.T @ x, atol=1e-2, rtol=1e-4)
    matrix = (x @ x.T).double() / 700 + torch.eye(1300).double()
    inverse = factored_inverse(torch.linalg.cholesky(matrix))
    torch.testing.assert_close(inverse @ matrix, torch.eye(1300).double())


@pytest.mark.parametrize("bad", [0, -1.0, float("nan")])
def test_a_penalty_must_be_positive(bad):
    with pytest.raises(InputError, match="penalty must be positive"):
        Ridge(penalty=bad)


def test_a_penalty_below_the_precision_is_refused():
    x = torch.ones(200, 300) * torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="penalty must be large enough for float32"):
        Ridge(penalty=1e-12).fit(
            Rows(x), torch.arange(200), torch.arange(200) % 2, classes=2, seed=0
        )
