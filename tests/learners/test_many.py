"""Fits of one group are the lone fits, to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import MLP, CrossEntropy, Network, NetworkModel, make_learner
from labelwise.learners import many as module
from labelwise.learners.many import Job, fit_many, reason_apart
from labelwise.learners.network import NetworkLearner
from labelwise.learners.stacked_fit import cross_entropy

TOLERANCE = 1e-4
"""Of weights and probabilities, after the few dozen steps of these fits."""


@pytest.fixture(scope="module")
def pool() -> tuple[Rows, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 6, generator=generator)
    return Rows(x), (x[:, :3] + 0.5 * torch.randn(120, 3, generator=generator)).argmax(1)


def jobs_of(labels: Tensor, counts: tuple[int, ...]) -> list[Job]:
    jobs = []
    for seed, count in enumerate(counts):
        rows = torch.randperm(120, generator=torch.Generator().manual_seed(seed))[:count]
        jobs.append(Job(rows, labels[rows], seed))
    return jobs


def chain(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Sequential(nn.Linear(shape[0], 9, bias=False), nn.ReLU(), nn.Dropout(0.3)),
        nn.Identity(),
        nn.Linear(9, classes),
    )


def mlp(**options: Any) -> MLP:
    """Small and short, with uneven minibatches: 41 labels are parts of 14, 14 and 13."""
    fixed = {"hidden": (8,), "epochs": 6, "min_steps": 20, "minibatch": 16}
    return MLP(**{**fixed, **options})


WEIGHTED = CrossEntropy(smoothing=0.1, class_weights="balanced")
CASES = {
    "plain": mlp(),
    "linear": mlp(hidden=()),
    "dropout": mlp(hidden=(8, 5), dropout=0.4),
    "sgd": mlp(optimizer="sgd", learning_rate=0.05, schedule="one_cycle", weight_decay=0.01),
    "plain sgd": mlp(optimizer="sgd", momentum=0.0, learning_rate=0.05, schedule="constant"),
    "adamw": mlp(optimizer="adamw", weight_decay=0.1, clip=0.3),
    "adam decay": mlp(weight_decay=0.1),
    "average": mlp(average=0.9, validation=0.2),
    "weighted": mlp(objectives=[WEIGHTED]),
    "smoothed": mlp(objectives=[CrossEntropy(smoothing=0.2)]),
    "classes": mlp(objectives=[CrossEntropy(class_weights=[1.0, 5.0, 0.2])]),
    "validation": mlp(validation=0.25, patience=2, epochs=40, learning_rate=0.05),
    "target": mlp(target_accuracy=0.85, epochs=60, learning_rate=0.02),
    "network": Network(chain, name="chain", minibatch=16, epochs=6, min_steps=20),
}


def lone(learner: NetworkLearner, inputs: Rows, job: Job) -> NetworkModel:
    return learner.fit(inputs, job.rows, job.labels, classes=3, seed=job.seed)


@pytest.mark.parametrize("counts", [(41, 41, 41), (1, 41, 17, 90, 41)])
@pytest.mark.parametrize("case", CASES)
def test_a_member_is_its_lone_fit(
    case: str, counts: tuple[int, ...], pool: tuple[Rows, Tensor]
) -> None:
    inputs, labels = pool
    learner = CASES[case]
    if learner.recipe.validation and 1 in counts:
        counts = counts[1:]  # a single label cannot be split
    jobs = jobs_of(labels, counts)
    models, apart = fit_many(learner, inputs, jobs, classes=3)
    assert apart == ""
    for job, model in zip(jobs, models, strict=True):
        expected = lone(learner, inputs, job)
        assert isinstance(model, NetworkModel)
        assert model.history is not None
        assert expected.history is not None
        for name in ("steps", "stopped", "best_epoch", "validation_rows", "validation"):
            assert getattr(model.history, name) == getattr(expected.history, name)
        torch.testing.assert_close(
            model.history.losses, expected.history.losses, rtol=TOLERANCE, atol=TOLERANCE
        )
        assert model.signature == expected.signature
        for mine, theirs in zip(model.network.parameters(), expected.network.parameters()):
            torch.testing.assert_close(mine, theirs, rtol=TOLERANCE, atol=TOLERANCE)
        torch.testing.assert_close(
            model.predict(inputs).probs, expected.predict(inputs).probs, rtol=0, atol=TOLERANCE
        )


def test_what_stops_early_stops_at_different_times(pool: tuple[Rows, Tensor]) -> None:
    """Else the cases above would not show that the others go on rightly."""
    inputs, labels = pool
    for case in ("validation", "target"):
        models, _ = fit_many(CASES[case], inputs, jobs_of(labels, (41, 17, 90, 41)), classes=3)
        assert len({model.history.steps for model in models}) > 2  # type: ignore[attr-defined]


def test_members_of_another_seed_are_other_models(pool: tuple[Rows, Tensor]) -> None:
    inputs, labels = pool
    rows = torch.arange(30)
    jobs = [Job(rows, labels[rows], seed) for seed in (0, 1, 0)]
    first, second, again = (
        model.predict(inputs).probs for model in fit_many(mlp(), inputs, jobs, classes=3).models
    )
    assert (first - second).abs().max() > 0.01
    assert torch.equal(first, again)


def test_the_same_group_gives_the_same_bits(pool: tuple[Rows, Tensor]) -> None:
    inputs, labels = pool
    jobs = jobs_of(labels, (41, 17, 90))
    learner = CASES["dropout"]
    once, twice = (fit_many(learner, inputs, jobs, classes=3).models for _ in range(2))
    for a, b in zip(once, twice):
        assert torch.equal(a.predict(inputs).logits, b.predict(inputs).logits)


def test_groups_may_be_smaller_and_the_generators_are_left_alone(
    pool: tuple[Rows, Tensor],
) -> None:
    inputs, labels = pool
    jobs = jobs_of(labels, (41, 17, 90, 41, 5))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    whole = fit_many(CASES["dropout"], inputs, jobs, classes=3).models
    parts = fit_many(CASES["dropout"], inputs, jobs, classes=3, group=2).models
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(
            a.predict(inputs).probs, b.predict(inputs).probs, rtol=0, atol=TOLERANCE
        )
    with pytest.raises(InputError, match="group must be at least 1, got 0"):
        fit_many(mlp(), inputs, jobs, classes=3, group=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_derivative_is_that_of_the_loss(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(4, (3, 7), generator=generator)
    labels[1, 5:] = 4  # rows that only fill up
    weights = torch.rand(3, 5, generator=generator, dtype=torch.float64) + 0.1
    weights[:, 4] = 0
    losses, slope = cross_entropy(logits.detach(), labels, weights, smoothing)
    for member in range(3):
        real = labels[member] < 4
        expected = F.cross_entropy(
            logits[member][real],
            labels[member][real],
            weight=weights[member, :4],
            label_smoothing=smoothing,
        )
        torch.testing.assert_close(losses[member], expected.detach())
        (by_torch,) = torch.autograd.grad(expected, logits)
        torch.testing.assert_close(slope[member], by_torch[member])


class Twice(nn.Module):
    """A network that is no chain."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.body(x)))


def shared(shape: tuple[int, ...], classes: int) -> nn.Module:
    layer = nn.Linear(shape[0], shape[0])
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(shape[0], classes))


def squashed(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(shape[0], 4), nn.Tanh(), nn.Linear(4, classes))


def normed(shape: tuple[int, ...], classes: int) -> nn.Module:
    layer = nn.utils.spectral_norm(nn.Linear(shape[0], 4))
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(4, classes))


def doubled(shape: tuple[int, ...], classes: int) -> nn.Module:
    network = nn.Sequential(nn.Linear(shape[0], 4), nn.ReLU(), nn.Linear(4, classes))
    network[1].register_forward_hook(lambda layer, given, made: 2 * made)
    return network


class Own(MLP):
    """Begins in a way of its own."""

    def build(self, inputs: Rows, classes: int, seed: int) -> nn.Module:
        network = super().build(inputs, classes, seed)
        nn.init.zeros_(network.head.weight)  # type: ignore[union-attr, arg-type]
        return network


class Flat(CrossEntropy):
    """Another loss by the same base."""


@pytest.mark.parametrize(
    ("learner", "reason"),
    [
        (make_learner("logistic"), "only networks"),
        (Own(hidden=4, epochs=2, min_steps=4), "Own builds its networks one by one"),
        (mlp(objectives="cross_entropy+joint_entropy"), "CrossEntropy . JointEntropy"),
        (mlp(objectives=[Flat()]), "minimizes Flat"),
        (mlp(precision="bf16"), "precision is bf16"),
        (mlp(optimizer="lars", learning_rate=0.5, weight_decay=0.01), "optimizer is lars"),
        (Network(normed, name="normed", epochs=2), "no chain"),
        (Network(doubled, name="doubled", epochs=2), "no chain"),
        (Network(lambda shape, classes: Twice(), name="twice", epochs=2), "no chain"),
        (Network(shared, name="shared", epochs=2), "no chain"),
        (Network(squashed, name="squashed", epochs=2), "no chain"),
    ],
)
def test_everything_else_is_fitted_one_after_another_and_says_why(
    learner: Any, reason: str, pool: tuple[Rows, Tensor]
) -> None:
    inputs, labels = pool
    jobs = jobs_of(labels, (41, 60))
    models, apart = fit_many(learner, inputs, jobs, classes=3)
    assert reason.replace(" . ", " + ") in apart
    assert reason_apart(learner, (6,), 3) == apart
    for job, model in zip(jobs, models, strict=True):
        assert torch.equal(
            model.predict(inputs).probs, lone(learner, inputs, job).predict(inputs).probs
        )


def test_a_member_that_diverges_is_refused_as_alone(pool: tuple[Rows, Tensor]) -> None:
    inputs, labels = pool
    learner = mlp(optimizer="sgd", learning_rate=1e30)
    jobs = jobs_of(labels, (41, 41))
    with pytest.raises(InputError, match=r"step \d+ of 21 with learning rate") as alone:
        lone(learner, inputs, jobs[0])
    with pytest.raises(InputError, match=r"step \d+ of 21 with learning rate") as together:
        fit_many(learner, inputs, jobs, classes=3)
    assert str(together.value) == str(alone.value)


def test_weights_spoiled_by_the_last_step_are_refused_as_alone(pool: tuple[Rows, Tensor]) -> None:
    """No loss has seen them."""
    inputs, labels = pool
    learner = mlp(learning_rate=1e39, minibatch=64, epochs=1, min_steps=1)
    jobs = jobs_of(labels, (41, 41))
    with pytest.raises(InputError, match="the loss is nan at step 0 of 1") as alone:
        lone(learner, inputs, jobs[0])
    with pytest.raises(InputError, match="the loss is nan at step 0 of 1") as together:
        fit_many(learner, inputs, jobs, classes=3)
    assert str(together.value) == str(alone.value)


def test_a_group_is_bounded_by_memory(
    pool: tuple[Rows, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, labels = pool
    jobs = jobs_of(labels, (41, 17, 90, 41, 5))
    learner = mlp(dropout=0.2)
    sizes: list[int] = []
    real = module._together

    def noted(learner: Any, inputs: Rows, jobs: Any, classes: int) -> Any:
        sizes.append(len(jobs))
        return real(learner, inputs, jobs, classes)

    monkeypatch.setattr(module, "_together", noted)
    numbers = 6 * 8 + 8 + 8 * 3 + 3
    for held, expected in ((1 << 30, [5]), (2 * 20 * numbers, [2, 2, 1]), (1, [1] * 5)):
        sizes.clear()
        monkeypatch.setattr(module, "STACK_BYTES", held)
        found = fit_many(learner, inputs, jobs, classes=3).models
        assert sizes == expected
        for model, job in zip(found, jobs, strict=True):
            torch.testing.assert_close(
                model.predict(inputs).probs,
                lone(learner, inputs, job).predict(inputs).probs,
                rtol=0,
                atol=TOLERANCE,
            )
