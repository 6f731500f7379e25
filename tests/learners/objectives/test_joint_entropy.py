"""Joint entropy: its value and gradient by the formula, and that it makes a network sure."""

import pytest
import torch

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import MLP, make_objective
from labelwise.learners.objectives.joint_entropy import JointEntropy, mean_entropy


def test_the_gradient_is_that_of_the_formula():
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(7, 4, generator=generator)).requires_grad_()
    value = mean_entropy(logits)
    value.backward()
    p = logits.detach().double().softmax(1)
    entropy = -(p * p.log()).sum(1, keepdim=True)
    torch.testing.assert_close(value.detach().double(), entropy.mean(), rtol=1e-5, atol=1e-6)
    expected = -p * (p.log() + entropy) / 7
    torch.testing.assert_close(logits.grad.double(), expected, rtol=1e-4, atol=1e-6)


def test_a_probability_that_rounds_to_nothing_has_entropy_and_gradient_zero():
    logits = torch.tensor([[500.0, -500.0, 0.0]], requires_grad=True)
    value = mean_entropy(logits)
    value.backward()
    assert value == 0
    assert logits.grad.tolist() == [[0.0, 0.0, 0.0]]


def test_the_weight_grows_during_the_warmup(view, step):
    objective = JointEntropy(weight=0.5, warmup=0.4)
    labeled, unlabeled = view([[0.0, 0.0]], labels=[0]), view([[1.0, 1.0]])
    losses = [objective(labeled, unlabeled, step(n)).item() for n in (0, 10, 40, 99)]
    full = 0.5 * torch.tensor(2.0).log().item()
    assert losses == pytest.approx([0, full / 4, full, full])
    sure = view([[9.0, -9.0]], labels=[0])  # it is of the unlabeled rows alone
    assert objective(sure, unlabeled, step(99)).item() == pytest.approx(full)
    plain = JointEntropy(weight=0.5)
    assert plain(labeled, unlabeled, step(0)).item() == pytest.approx(full)


def blobs():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    centers = 1.5 * torch.randn(4, 6, generator=generator)
    return Rows(centers[labels] + torch.randn(400, 6, generator=generator)), labels


def test_unlabeled_entropy_falls_by_a_fifth_and_more():
    inputs, labels = blobs()
    rows, others = torch.arange(40), torch.arange(40, 400)

    def entropy(objectives):
        learner = MLP(hidden=(32,), min_steps=150, epochs=1, objectives=objectives)
        model = learner.fit(inputs, rows, labels[rows], classes=4, seed=0)
        out = model.predict(inputs, others)
        right = (out.probs.argmax(1) == labels[others]).float().mean().item()
        return mean_entropy(out.logits).item(), right

    plain, right = entropy("cross_entropy:smoothing=0.1")
    joint, still_right = entropy("cross_entropy:smoothing=0.1+joint_entropy:weight=0.3")
    assert plain > 0.1
    assert joint <= 0.8 * plain
    assert still_right > right - 0.05


def test_options_out_of_range():
    with pytest.raises(InputError, match="weight must be at least 0 and finite, got -1"):
        JointEntropy(weight=-1)
    with pytest.raises(InputError, match=r"warmup must be in \[0, 1\], got 2"):
        make_objective("joint_entropy", warmup=2)
