"""DAMI against Jacobians, and k-center on them."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import MLP, Network, make_learner, model_evidence
from labelwise.strategies import select
from labelwise.strategies.dami import local_functions


def perceptron(widths, seed=0):
    """A network of ReLU units in float64 and its weights, first to last."""
    stream = torch.Generator().manual_seed(seed)
    layers = [nn.Linear(a, b, dtype=torch.float64) for a, b in pairwise(widths)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.normal_(0, 1, generator=stream)
            layer.bias.normal_(0, 1, generator=stream)

    def run(x):
        hidden = []
        for layer in layers[:-1]:
            x = layer(x).relu()
            hidden.append(x)
        return layers[-1](x), hidden

    return run, [layer.weight.detach() for layer in layers]


def jacobians(run, x, center=False):
    found = torch.stack(
        [torch.autograd.functional.jacobian(lambda v: run(v[None])[0][0], row) for row in x]
    )
    return (found - found.mean(1, keepdim=True) if center else found).flatten(1)


def farthest(points, labeled, n):
    """k-center greedy, one row at a time."""
    far = torch.cdist(points, points[labeled]).amin(1)
    picks = []
    for _ in range(n):
        far[[*labeled, *picks]] = -1
        picks.append(int(far.argmax()))
        far = torch.minimum(far, torch.cdist(points, points[picks[-1:]])[:, 0])
    return picks


def same(given, picks, expected):
    """Whether the same units are on, pick for pick: which of such rows is asked for is chance."""
    on = given["activations"] > 0
    return torch.equal(on[torch.as_tensor(picks.rows)], on[expected])


def evidence(run, weights, x):
    logits, hidden = run(x)
    return {
        "activations": torch.cat(hidden, 1).detach(),
        "hidden_weights": weights[:-1],
        "head_weight": weights[-1],
        "logits": logits.detach(),
    }


SHAPES = [(5, 7, 3), (4, 6, 2), (3, 8, 6, 4), (9, 5, 4, 6, 2), (6, 3, 5, 8)]


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("widths", SHAPES)
def test_points_are_as_far_apart_as_jacobians(widths, center):
    run, weights = perceptron(widths)
    x = torch.randn(30, widths[0], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    given = evidence(run, weights, x)
    points = local_functions(given["activations"], weights[:-1], weights[-1], center).tensor()
    expected = jacobians(run, x, center)
    np.testing.assert_allclose(
        torch.cdist(points.double(), points.double()), torch.cdist(expected, expected), atol=1e-4
    )
    assert points.shape[1] <= (widths[1] if len(widths) == 3 else widths[0] * widths[-1])


@pytest.mark.parametrize("widths", SHAPES)
def test_dami_is_k_center_on_local_functions(widths):
    run, weights = perceptron(widths, seed=3)
    x = torch.randn(80, widths[0], dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    given = evidence(run, weights, x)
    picks = select("dami", 6, labeled=[4, 9, 33], **given)
    assert same(given, picks, farthest(jacobians(run, x), [4, 9, 33], 6))


def test_rows_with_the_same_units_on_are_one_point():
    run, weights = perceptron((3, 4, 2))
    x = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = evidence(run, weights, x)
    patterns = {tuple(row) for row in (given["activations"] > 0).tolist()}
    assert 2 < len(patterns) < 16
    picks = select("dami", 20, labeled=[0], **given)
    assert (picks.scores[: len(patterns) - 1] > 0).all()
    assert (picks.scores[len(patterns) - 1 :] == 0).all()
    on = [tuple(row) for row in (given["activations"][picks.rows] > 0).tolist()]
    assert len(set(on[: len(patterns) - 1])) == len(patterns) - 1
    others = {tuple(select("dami", 3, labeled=[0], seed=seed, **given)) for seed in range(6)}
    assert len(others) > 1


@pytest.mark.parametrize("widths", [(5, 7, 3), (3, 8, 6, 4)])
@pytest.mark.parametrize("unit", [1e-170, 1e200])
def test_a_layer_in_a_unit_of_its_own(widths, unit):
    """What a small and a large layer do together is neither small nor large."""
    run, weights = perceptron(widths)
    x = torch.randn(40, widths[0], dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    given = evidence(run, weights, x)
    picks = select("dami", 6, labeled=[0], **given)
    given["hidden_weights"] = [weights[0] * unit, *weights[1:-1]]
    given["head_weight"] = weights[-1] / unit
    assert select("dami", 6, labeled=[0], **given).rows.tolist() == picks.rows.tolist()
    if unit > 1:
        given["head_weight"] = weights[-1]
        with pytest.raises(InputError, match="local functions: row 0 is longer than"):
            select("dami", 6, labeled=[0], **given)


def test_only_how_classes_differ_counts_where_asked():
    run, weights = perceptron((5, 7, 3))
    x = torch.randn(60, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    given = evidence(run, weights, x)
    moved = {**given, "head_weight": weights[-1] + torch.randn(7, dtype=torch.float64)}
    a, b = (select("dami", 9, labeled=[0], center=True, **g) for g in (given, moved))
    assert a.rows.tolist() == b.rows.tolist()
    assert same(given, a, farthest(jacobians(run, x, center=True), [0], 9))
    plain = select("dami", 9, labeled=[0], **given)
    assert same(given, plain, farthest(jacobians(run, x), [0], 9))
    assert not same(given, a, plain.rows)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"hidden_weights": []}, "hidden_weights must be a list of matrices"),
        (
            {"hidden_weights": [np.ones((4, 3)), np.ones((2, 5))]},
            r"\[1\] must be a matrix \(units, 4\)",
        ),
        ({"hidden_weights": [np.full((4, 3), np.nan)]}, r"hidden_weights\[0\] must be finite"),
        ({"hidden_weights": [np.ones((5, 3))]}, "a column for each of the 5 hidden units, got 4"),
        ({"head_weight": np.ones((2, 5))}, "the 4 units of the last hidden layer, got 5"),
    ],
)
def test_what_it_refuses(wrong, match):
    given = {
        "activations": np.ones((9, 4)),
        "hidden_weights": [np.ones((4, 3))],
        "head_weight": np.ones((2, 4)),
    }
    with pytest.raises(InputError, match=match):
        select("dami", 2, **(given | wrong))


@pytest.mark.parametrize("hidden", [(8,), (8, 6)])
def test_the_mlp_learner_offers_what_it_asks_for(hidden):
    x = Rows(torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1)
    rows = torch.arange(30)
    learner = MLP(hidden=hidden, dropout=0.1, epochs=3, min_steps=0)
    model = learner.fit(x, rows, rows % 3, classes=3, seed=0)
    given = model_evidence(model, x, seed=0)
    picks = select("dami", 8, labeled=rows.numpy(), providers=given)
    scaled = model.network.standardize(x.tensor()).double()
    network = model.network.double()

    def run(v):
        return network.head(network.body(v)), None

    units = {"activations": model.activations(x)}
    assert same(units, picks, farthest(jacobians(run, scaled), rows.tolist(), 8))


def test_networks_of_other_kinds_offer_no_layers():
    x, rows = Rows(torch.randn(20, 4)), torch.arange(12)

    def fitted(layers):
        learner = Network(lambda *_: nn.Sequential(*layers()), name="test", epochs=1, min_steps=0)
        return learner.fit(x, rows, rows % 2, classes=2, seed=0)

    plain = fitted(lambda: (nn.Linear(4, 3), nn.ReLU(), nn.Dropout(0.1), nn.Linear(3, 2)))
    assert [tuple(w.shape) for w in plain.hidden_weights] == [(3, 4)]
    assert plain.activations(x).shape == (20, 3)
    smooth = fitted(lambda: (nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)))
    assert smooth.hidden_weights is None
    with pytest.raises(InputError, match=r"Linear and ReLU in turn, such as MLP\(\)"):
        smooth.activations(x)
    assert fitted(lambda: (nn.Linear(4, 2),)).hidden_weights is None
    doubled = fitted(lambda: (nn.Linear(4, 3), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)))
    assert doubled.hidden_weights is None
    linear = make_learner("logistic").fit(x, rows, rows % 2, classes=2, seed=0)
    names = {found.__name__ for found in model_evidence(linear, x, seed=0)}
    assert {"inputs", "model"} <= names
    assert not {"activations", "hidden_weights"} & names
