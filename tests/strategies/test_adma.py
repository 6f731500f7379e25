"""ADMA: how a pretrained network transforms rows, and the mix with uncertainty."""

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch import nn

import labelwise as lw
from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.kernels.kendall import kendall_tau
from labelwise.learners.source import (
    POOLED,
    SourceLayers,
    distinctiveness,
    source_centers,
    source_layers,
)
from labelwise.strategies.adma import adma_scores


@pytest.mark.parametrize("length", [2, 3, 9, 16, 17, 33, 70])
@pytest.mark.parametrize("values", [3, 1000])
def test_kendall_is_scipys(length, values):
    """Few values make many ties, in one list and in both."""
    rng = np.random.default_rng(length)
    x, y = rng.integers(0, values, (2, 40, length)).astype(float)
    y[:10] = x[:10] + (values == 3) * rng.integers(0, 2, (10, length))
    expected = [kendalltau(*pair).statistic for pair in zip(x, y)]
    found = kendall_tau(torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_allclose(found, np.nan_to_num(expected), atol=1e-12)


def test_kendall_of_a_constant_or_a_single_entry_is_zero():
    ones = torch.ones(2, 4)
    assert kendall_tau(ones, torch.arange(8.0).reshape(2, 4)).tolist() == [0, 0]
    assert kendall_tau(ones[:, :1], ones[:, :1]).tolist() == [0, 0]


def make_layers(rows, classes=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    early = torch.randn(rows, 5, generator=generator)
    late = torch.randn(rows, 4, generator=generator)
    return SourceLayers(early, late, torch.randn(rows, classes, generator=generator).softmax(1))


def by_definition(pool, centers):
    """One row and one class at a time, in float64 from differences."""

    def pattern(early, late):
        return [
            float((early - a).square().sum() - (late - b).square().sum())
            for a, b in zip(centers.early.double(), centers.late.double())
        ]

    own = np.array([pattern(*row) for row in zip(centers.early.double(), centers.late.double())])
    found = []
    for early, late, weights in zip(*(part.double() for part in pool)):
        expected = sum(float(w) * own[k] for k, w in enumerate(weights))
        found.append((1 - kendalltau(pattern(early, late), expected).statistic) / 2)
    return np.array(found)


def test_distinctiveness_is_its_definition():
    pool, centers = make_layers(300), make_layers(6, seed=1)
    scores = distinctiveness(pool, centers)
    assert scores.dtype == torch.float64
    assert scores.std() > 0.1
    np.testing.assert_allclose(scores, by_definition(pool, centers), atol=1e-12)


def test_a_center_taken_for_itself_is_not_distinct():
    centers = make_layers(6)
    sure = centers._replace(probs=torch.eye(6))
    assert distinctiveness(sure, centers).max() < 1e-15
    pool = make_layers(20, seed=2)
    turned = [SourceLayers(each.late, each.early, each.probs) for each in (pool, centers)]
    assert torch.equal(distinctiveness(*turned), distinctiveness(pool, centers))


def test_distinctiveness_refuses_what_does_not_fit():
    pool, centers = make_layers(5), make_layers(6)
    with pytest.raises(InputError, match=r"early of the centers must be \(6, 5\).*got \(5, 5\)"):
        distinctiveness(pool, make_layers(5))
    pool.late[3, 1] = torch.nan
    with pytest.raises(InputError, match="late of the pool must be finite, but row 3 is not"):
        distinctiveness(pool, centers)


def convolutional(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 40, 3), nn.Dropout(0.9), nn.ReLU(), nn.Flatten(), nn.Linear(40 * 64, classes)
    )


def test_layers_of_a_network_are_read_in_one_pass_and_pooled():
    network = convolutional().train()
    inputs = torch.randn(7, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    found = source_layers(network, Rows(inputs), early="0", late="4")
    network.eval()
    maps = network[0](inputs)
    side = int((POOLED / 40) ** 0.5)
    assert maps[0].numel() > POOLED
    torch.testing.assert_close(
        found.early, nn.functional.adaptive_avg_pool2d(maps, side).flatten(1)
    )
    torch.testing.assert_close(found.late, network(inputs))
    torch.testing.assert_close(found.probs, network(inputs).softmax(1))
    tokens = nn.Sequential(nn.Unflatten(1, (1, 4000)), nn.Identity(), nn.Flatten())
    tokens.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    seen = source_layers(tokens, Rows(torch.ones(2, 4000)), early="0", late="1")
    assert seen.early.shape == (2, 4000)


def test_a_network_is_left_as_it_was_and_unknown_layers_are_named():
    network = convolutional().train()
    inputs = Rows(torch.zeros(2, 1, 10, 10))
    source_layers(network, inputs, early="0", late="0")
    assert network.training
    assert not network[0]._forward_hooks
    with pytest.raises(InputError, match="no module 'layer4'; it has 0, 1"):
        source_layers(network, inputs, early="layer4", late="4")
    network.register_module("idle", nn.Linear(1, 1))
    network.forward = lambda x: network[4](network[3](network[0](x)))
    with pytest.raises(InputError, match="never calls its module 'idle'"):
        source_layers(network, inputs, early="0", late="idle")
    assert not network[0]._forward_hooks


def test_centers_are_the_most_typical_rows():
    features = torch.tensor([[0.0, 0], [9, 9], [1, 0], [5, 0], [9, 8]])
    assert source_centers(features, torch.tensor([0, 1, 0, 0, 1]), 2).tolist() == [2, 1]
    with pytest.raises(InputError, match="class 2 has none"):
        source_centers(features, torch.tensor([0, 1, 0, 0, 1]), 3)


def make_evidence(size=40, classes=3):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(classes), size)
    return {"distinctiveness": rng.uniform(size=size), "probs": probs}


def naive(distinctiveness, probs, weight):
    scores = []
    for unusual, row in zip(distinctiveness, probs):
        entropy = -sum(p * np.log(p) for p in row) / np.log(len(row))
        scores.append((1 - weight) * unusual + weight * entropy)
    return np.array(scores)


def test_scores_by_hand():
    evidence = make_evidence()
    for weight in (0.0, 0.3, 1.0):
        np.testing.assert_allclose(
            adma_scores(*evidence.values(), weight), naive(*evidence.values(), weight), rtol=1e-12
        )
    with pytest.raises(InputError, match=r"weight must be in \[0, 1\]"):
        adma_scores(*evidence.values(), 1.1)


@pytest.mark.parametrize(
    ("told", "weight"),
    [
        ({}, 0.0),
        ({"round": 0, "rounds": 4}, 0.0),
        ({"round": 3, "rounds": 4}, 0.75),
        ({"round": 3}, 0.3),
        ({"round": 2, "rounds": 4, "rate": 0.2}, 0.4),
        ({"round": 2, "rate": 0.8}, 1.0),
    ],
)
def test_uncertainty_counts_more_from_round_to_round(told, weight):
    evidence = make_evidence()
    picks = lw.select("adma", 5, **evidence, **told)
    expected = naive(*evidence.values(), weight)
    assert picks.rows.tolist() == np.argsort(-expected)[:5].tolist()
    np.testing.assert_allclose(picks.scores, np.sort(expected)[::-1][:5], rtol=1e-9)


def test_adma_refuses_a_rate_below_zero_and_evidence_out_of_range():
    evidence = make_evidence()
    with pytest.raises(InputError, match="rate must be a number >= 0"):
        lw.select("adma", 5, **evidence, rate=-1)
    evidence["distinctiveness"][7] = 1.5
    with pytest.raises(InputError, match=r"distinctiveness must be in \[0, 1\], but row 7"):
        lw.select("adma", 5, **evidence)


def test_a_single_class_is_never_uncertain():
    picks = lw.select(
        "adma", 1, distinctiveness=[0.2, 0.6], probs=[[1.0], [1.0]], round=1, rate=0.5
    )
    assert picks.rows.tolist() == [1]
    assert picks.scores.tolist() == [0.3]
