"""Many fits of a small network in one pass: seeds, strategies, members of an ensemble.

Most of a step of a small perceptron is calls, not arithmetic. Here a step of S fits is one batched
product a layer, with a gradient written by hand. Every fit keeps its own labels, minibatches,
learning rate and named streams of randomness, and ends when it would have ended alone; so it is
the lone fit in another order of rounding.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from labelwise.errors import InputError
from labelwise.kernels import Rows, derive, torch_stream
from labelwise.learners.base import Learner, Model, check_fit
from labelwise.learners.history import History
from labelwise.learners.network import NetworkLearner, NetworkModel
from labelwise.learners.networks import Standardize, find_head, single
from labelwise.learners.objectives import CrossEntropy, Setting
from labelwise.learners.parallel import Ranks
from labelwise.learners.recipe import pick_device
from labelwise.learners.stack import perceptron_layers
from labelwise.learners.stacked_fit import Member, StackedFit

STACK_BYTES = 1 << 30
"""A group's weights, gradients and moments at most; more fits go as several groups."""


class Job(NamedTuple):
    """One fit among many: what `Learner.fit` is given for it.

    Attributes:
        rows: (L,) int64, distinct labeled rows; jobs may have different numbers of them.
        labels: (L,) int64.
        seed: of the fit.
        unlabeled: (U,) int64 rows that may be used without a label.
    """

    rows: Tensor
    labels: Tensor
    seed: int
    unlabeled: Tensor | None = None

    def fit(self, learner: Learner, inputs: Rows, classes: int) -> Model:
        """This fit alone."""
        return learner.fit(
            inputs,
            self.rows,
            self.labels,
            classes=classes,
            seed=self.seed,
            unlabeled=self.unlabeled,
        )


class Fits(NamedTuple):
    """What `fit_many` gives back.

    Attributes:
        models: one a job, in the jobs' order.
        apart: why they were fitted one after another; empty where they were fitted together.
    """

    models: list[Model]
    apart: str


def fit_many(
    learner: Learner,
    inputs: Rows,
    jobs: Sequence[Job],
    *,
    classes: int,
    group: int | None = None,
) -> Fits:
    """Fit a learner to several labeled sets, in one pass where that can be done.

    Perceptrons (`MLP`, also without hidden layers, and a `Network` whose factory makes a chain of
    ``Linear``, ``ReLU`` and ``Dropout``) that minimize `CrossEntropy` alone, in float32 and by
    another optimizer than LARS, are fitted together; everything else one fit after another.

    A member starts from the weights, and meets the minibatches, dropout masks and learning rates,
    of its lone fit. It differs by rounding, which training enlarges: after the 600 to 1,000 steps
    of ``MLP()`` on a table probabilities agree to about 1e-2. The same group on the same machine
    gives the same bits.

    Args:
        learner: any.
        inputs: (N, ...) the pool.
        jobs: of which `Learner.fit` takes each.
        classes: C.
        group: fits in a pass at most; all of them by default. Of large networks it is as many
            as `STACK_BYTES` hold.

    Raises:
        InputError: what the fits themselves would raise.

    >>> from labelwise.learners.mlp import MLP
    >>> inputs, rows = Rows(torch.eye(4)), torch.arange(4)
    >>> jobs = [Job(rows[:n], rows[:n] % 2, seed=n) for n in (2, 3, 4)]
    >>> models, apart = fit_many(MLP(hidden=8), inputs, jobs, classes=2)
    >>> [model.predict(inputs, rows[:2]).probs.argmax(1).tolist() for model in models]
    [[0, 1], [0, 1], [0, 1]]
    """
    if group is not None and group < 1:
        raise InputError(f"group must be at least 1, got {group}")
    for job in jobs:
        check_fit(inputs, job.rows, job.labels, classes)
    apart = reason_apart(learner, inputs.shape[1:], classes)
    if apart or not isinstance(learner, NetworkLearner):
        return Fits([job.fit(learner, inputs, classes) for job in jobs], apart)
    size = min(group or max(1, len(jobs)), _fitting(learner, inputs.shape[1:], classes))
    together: list[Model] = []
    for start in range(0, len(jobs), size):
        together += _together(learner, inputs, jobs[start : start + size], classes)
    return Fits(together, "")


def reason_apart(learner: Learner, item_shape: tuple[int, ...], classes: int) -> str:
    """Why fits of a learner cannot go together; empty where they can.

    >>> from labelwise.learners.resnet import ResNet18
    >>> reason_apart(ResNet18(), (32, 32, 3), 10)
    'it changes its minibatches at random'
    """
    if not isinstance(learner, NetworkLearner) or type(learner).fit is not NetworkLearner.fit:
        return "only networks are fitted together"
    one, many = (_owner(type(learner), name) for name in ("build", "build_many"))
    if many is not NetworkLearner and not issubclass(many, one):
        return f"{one.__name__} builds its networks one by one"
    names = [type(objective).__name__ for objective in learner.objectives]
    if [type(objective) for objective in learner.objectives] != [CrossEntropy]:
        return f"it minimizes {' + '.join(names)}, and only CrossEntropy goes together"
    if learner.recipe.optimizer == "lars":
        return "its optimizer is lars, whose steps go by the norms of one network"
    if learner.recipe.precision != "float32":
        return f"its precision is {learner.recipe.precision}, and only float32 goes together"
    if learner.looks(item_shape).weak is not None:
        return "it changes its minibatches at random"
    if perceptron_layers(learner.empty(item_shape, classes)) is None:
        return "its network is no chain of Linear, ReLU and dropout"
    return ""


def _owner(kind: type, name: str) -> type:
    """The class that a method of another comes from."""
    return next(each for each in kind.__mro__ if name in vars(each))


def _fitting(learner: NetworkLearner, item_shape: tuple[int, ...], classes: int) -> int:
    """How many networks of this learner `STACK_BYTES` hold while they are trained."""
    network = learner.empty(item_shape, classes)
    numbers = sum(parameter.numel() for parameter in network.parameters())
    copies = 5 + (learner.recipe.average is not None)  # its own, stacked, gradient, two moments
    return max(1, STACK_BYTES // (4 * copies * numbers))


def _together(
    learner: NetworkLearner, inputs: Rows, jobs: Sequence[Job], classes: int
) -> list[NetworkModel]:
    """One group of fits."""
    start = time.perf_counter()
    recipe, device = learner.recipe, pick_device(learner.recipe.device)
    seeds = [derive(job.seed, "weights") for job in jobs]
    networks = [network.to(device) for network in learner.build_many(inputs, classes, seeds)]
    chains = [perceptron_layers(network) for network in networks]
    chain = [each for each in chains if each is not None]
    members = [
        Member(layers, job.rows, job.labels, job.seed, recipe, device)
        for (_, layers), job in zip(chain, jobs, strict=True)
    ]
    rows = torch.cat([member.rows for member in members]).unique()
    entrance = _entrance([first for first, _ in chain])
    with torch.no_grad():
        given = entrance(single(inputs.take(rows).to(device))).contiguous()
    terms = [
        _prepared(learner, network, member, inputs, classes, device)
        for network, member in zip(networks, members)
    ]
    weights = [term.weights for term in terms]
    StackedFit(
        members,
        given,
        [torch.searchsorted(rows, member.rows).to(device) for member in members],
        torch.stack([torch.ones(classes, device=device) if w is None else w for w in weights]),
        terms[0].smoothing,
        recipe,
    ).run()
    ranks = Ranks.here()  # each has fitted all of them, on a machine that may round differently
    for network in networks:
        ranks.follow(network)
    seconds = (time.perf_counter() - start) / len(jobs)
    return [
        learner.wrap(
            network.eval(),
            inputs.shape[1:],
            classes,
            _history(member, seconds, recipe.minibatch),
            (term.eval(),),
        )
        for network, member, term in zip(networks, members, terms)
    ]


def _entrance(firsts: Sequence[Sequence[nn.Module]]) -> nn.Sequential:
    """What is done to all members' inputs before their first layer with weights."""
    for first in firsts:
        for mine, other in zip(firsts[0], first):
            if isinstance(mine, Standardize) and isinstance(other, Standardize):
                for a, b in ((mine.mean, other.mean), (mine.scale, other.scale)):
                    same = torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
                    assert same, "members of one pool"
    return nn.Sequential(*firsts[0])


def _prepared(
    learner: NetworkLearner,
    network: nn.Module,
    member: Member,
    inputs: Rows,
    classes: int,
    device: torch.device,
) -> CrossEntropy:
    """A copy of the learner's objective, ready for one fit."""
    (objective,) = learner.objectives
    term = copy.deepcopy(objective)
    assert isinstance(term, CrossEntropy)
    term.prepare(
        Setting(
            classes=classes,
            labels=member.labels[: member.count],
            embedding_width=find_head(network, classes).in_features,
            device=device,
            generator=torch_stream(member.seed, "objectives"),
            network=network,
            item_shape=inputs.shape[1:],
            pool=len(inputs),
            unlabeled=0,
        )
    )
    return term.to(device)


def _history(member: Member, seconds: float, minibatch: int) -> History:
    return History(
        member.losses,
        member.accuracies,
        member.steps,
        member.best_epoch,
        member.stopped,
        member.held.tolist(),
        seconds,
        minibatch,
    )
