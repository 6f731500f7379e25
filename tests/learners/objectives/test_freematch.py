"""FreeMatch: averages, thresholds and fairness by a float64 twin."""

import numpy as np
import pytest
import torch

from labelwise.errors import InputError
from labelwise.learners.objectives.freematch import FreeMatch, unfairness


def random_probs(seed, count=9, classes=4):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(count, classes, generator=generator)).softmax(1)


def test_thresholds_by_definition(setting):
    objective = FreeMatch(decay=0.9)
    objective.prepare(setting(4))
    overall, shares = 0.25, np.full(4, 0.25)
    predicted = np.full(4, 0.25)
    for seed in range(30):
        probs = random_probs(seed)
        found = objective.sure(probs, torch.arange(9)).tolist()
        p = probs.double().numpy()
        overall = 0.9 * overall + 0.1 * p.max(1).mean()
        shares = 0.9 * shares + 0.1 * p.mean(0)
        predicted = 0.9 * predicted + 0.1 * np.bincount(p.argmax(1), minlength=4) / 9
        thresholds = overall * shares / shares.max()
        assert found == [row.max() >= thresholds[row.argmax()] for row in p]
        np.testing.assert_allclose(objective.thresholds(), thresholds, rtol=1e-5)
        np.testing.assert_allclose(objective.predicted, predicted, rtol=1e-5)
    assert overall > 0.5


def test_thresholds_are_clamped_after_they_are_scaled(setting):
    """As in the authors' code: no class comes below the lowest, however rare it is."""
    objective = FreeMatch(clamp=(0.9, 0.95))
    objective.prepare(setting(4))
    assert objective.thresholds().tolist() == pytest.approx([0.9] * 4)
    objective.confidence.fill_(0.99)
    objective.distribution.copy_(torch.tensor([0.4, 0.37, 0.15, 0.08]))
    expected = [0.95, 0.99 * 0.37 / 0.4, 0.9, 0.9]
    assert objective.thresholds().tolist() == pytest.approx(expected)
    objective.clamp = None
    expected = [0.99 * share / 0.4 for share in (0.4, 0.37, 0.15, 0.08)]
    assert objective.thresholds().tolist() == pytest.approx(expected)


def test_fairness_by_definition_and_as_the_authors_code_up_to_a_constant():
    """Classes that nobody is predicted as add log(1e-12) there, and no gradient."""
    distribution = torch.tensor([0.4, 0.3, 0.2, 0.1])
    predicted = torch.tensor([0.5, 0.25, 0.15, 0.1])
    logits = torch.tensor(
        [[3.0, 0, 0, 1], [0, 2, 0, 0], [2, 0, 1, 0], [0, 0, 0, 4]], requires_grad=True
    )
    sure = torch.tensor([True, True, True, False])
    value = unfairness(logits.softmax(1), sure, distribution, predicted)
    (gradient,) = torch.autograd.grad(value, logits)

    twin = logits.detach().double().requires_grad_()
    kept = twin.softmax(1)[:3]
    expected = distribution.double() / predicted.double()
    expected = expected / expected.sum()
    histogram = torch.tensor([2 / 3, 1 / 3, 0, 0]).double()
    scale = torch.where(histogram > 0, 1 / histogram, 0)
    said = kept.mean(0) * scale
    said = said / said.sum()
    whole = (expected * (said + 1e-12).log()).sum()
    constant = float((expected[2:] * np.log(1e-12)).sum())
    assert value.item() == pytest.approx(whole.item() - constant, rel=1e-5)
    (reference,) = torch.autograd.grad(whole, twin)
    torch.testing.assert_close(gradient.double(), reference, rtol=1e-4, atol=1e-7)
    assert gradient[3].tolist() == [0, 0, 0, 0]


def test_nobody_sure_is_no_loss_and_no_gradient():
    logits = torch.zeros(3, 4, requires_grad=True)
    even = torch.full((4,), 0.25)
    value = unfairness(logits.softmax(1), torch.zeros(3, dtype=torch.bool), even, even)
    value.backward()
    assert value == 0
    assert not logits.grad.any()
    gone = torch.tensor([1.0, 0.0, 0.0, 0.0])  # an average that rounded to nothing
    assert torch.isfinite(unfairness(torch.eye(4), torch.ones(4, dtype=torch.bool), even, gone))


def test_the_loss_is_consistency_plus_fairness(view, setting):
    weak, strong = random_probs(0).log(), random_probs(1).log()
    losses = []
    for fairness in (0.0, 0.5):
        objective = FreeMatch(fairness=fairness, decay=0.5)
        objective.prepare(setting(4))
        losses.append(objective(view([[0.0] * 4], labels=[0]), view(weak, strong=strong)).item())
    probs, sure = random_probs(1), random_probs(0).amax(1) >= 0
    objective = FreeMatch(decay=0.5)
    objective.prepare(setting(4))
    sure = objective.sure(random_probs(0), torch.arange(9))
    uneven = unfairness(probs, sure, objective.distribution, objective.predicted).item()
    assert 0 < sure.sum() < 9
    assert losses[1] - losses[0] == pytest.approx(0.5 * uneven, rel=1e-4)
    chosen = probs[range(9), random_probs(0).argmax(1)].log()
    assert losses[0] == pytest.approx(-(chosen * sure).sum().item() / 9, rel=1e-4)


def test_options_out_of_range():
    with pytest.raises(InputError, match=r"clamp must be two bounds, lowest first, in \[0, 1\]"):
        FreeMatch(clamp=(0.9, 0.5))
    with pytest.raises(InputError, match=r"decay must be in \[0, 1\), got 1"):
        FreeMatch(decay=1)
