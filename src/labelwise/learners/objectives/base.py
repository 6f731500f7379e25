"""Objectives: what a fit minimizes. They add up in the one training loop.

An objective is a module whose ``forward`` names, by its parameters, the inputs it wants from the
loop (as a strategy names its evidence) and returns a loss, or one for each player where two play.
It may own modules, which are then trained along, and state, which is kept in its buffers.

    inputs      what the loop hands over
    labeled     a `View` of labeled rows, with labels
    unlabeled   a `View` of unlabeled rows
    network     the network that is trained
    step        a `Step`: where in the fit this is
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from labelwise.errors import InputError, nearest
from labelwise.learners.parallel import Ranks

if TYPE_CHECKING:
    from labelwise.kernels import Rows
    from labelwise.learners.network import NetworkModel

INPUTS = ("labeled", "unlabeled", "network", "step")
"""The names that an objective's ``forward`` may use."""

VIEWS = ("labeled", "unlabeled")
"""Those of the inputs that are views of minibatches."""

NETWORK = "network"
"""The player that the network and everything else belongs to."""


class Step(NamedTuple):
    """Where in a fit the loop is.

    Attributes:
        number: of this step, from 0.
        total: steps there will be unless the fit stops early.
        epoch: passes over the labeled rows that are complete.
        learning_rate: of this step.
    """

    number: int
    total: int
    epoch: int
    learning_rate: float


class Setting(NamedTuple):
    """What is known before the first step; see `Objective.prepare`.

    Attributes:
        classes: C.
        labels: (L,) int64 labels that are trained on (none of the validation split).
        embedding_width: D, entries of the input of the network's linear head.
        device: where the network is.
        generator: on the CPU, for the parameters of modules that an objective adds.
        network: as it is before the first step.
        item_shape: of an input row.
        pool: N, rows that a view's ``rows`` count.
        unlabeled: U, unlabeled rows there are.
        ranks: the processes of the fit. Views are of whole minibatches on all of them; their
            `Ranks.spread` divides what else is worth dividing, such as a teacher's pass.
    """

    classes: int
    labels: Tensor
    embedding_width: int
    device: torch.device
    generator: torch.Generator
    network: nn.Module
    item_shape: tuple[int, ...]
    pool: int
    unlabeled: int
    ranks: Ranks = Ranks()


class Player(NamedTuple):
    """Modules that minimize a loss of their own, against the network or beside it.

    Attributes:
        module: what this player may change; the network's optimizer leaves it alone.
        changes: fields of the `Recipe` that differ for it, such as its ``learning_rate``.
        every: it moves at the first of so many steps of the fit, and rests at the others.
    """

    module: nn.Module
    changes: Mapping[str, Any] = {}
    every: int = 1


def adam_player(module: nn.Module, learning_rate: float, every: int = 1) -> Player:
    """A player that moves by Adam at a constant rate, without weight decay."""
    changes = {
        "optimizer": "adam",
        "learning_rate": learning_rate,
        "schedule": "constant",
        "weight_decay": 0.0,
    }
    return Player(module, changes, every)


Losses = Tensor | Mapping[str, Tensor]
"""One number; or one for each player by name, `NETWORK` for the network's."""


class Objective(nn.Module):
    """The base of every objective.

    A subclass writes ``forward``, whose parameters are among `INPUTS`, and its `name` or a
    `signature`. A parameter ``labeled=None`` is left out where nothing is labeled.

    A learner never trains the instance it was given: every fit works on a copy.

    Attributes:
        name: what it is called in a `signature`.
        learns_labels: whether it teaches the network the labels, which one objective of a sum
            does; None does not say.
        guesses_labels: whether it gives unlabeled rows labels that the network guesses, which
            one objective of a sum may do.
        gives: names of the evidence that `evidence` gives; one objective of a sum for each.
    """

    name = ""
    learns_labels: bool | None = None
    guesses_labels: bool = False
    gives: tuple[str, ...] = ()

    def prepare(self, setting: Setting) -> None:
        """Make the modules and state of one fit; nothing by default."""

    def players(self) -> Mapping[str, Player]:
        """Those who minimize a loss of their own, asked once, after `prepare`; none by default.

        ``forward`` then returns a loss for each of these names and for `NETWORK`. All players
        move from the same state: the network first, so a player's loss must not reach into it
        (detach what it is given).
        """
        return {}

    def layers(self) -> Sequence[nn.Module]:
        """Modules of the network whose outputs `View.averages` is to have; none by default.

        Asked once, after `prepare`.
        """
        return ()

    def after_step(self, network: nn.Module) -> None:
        """Called after each update of the network, for moving averages; nothing by default."""

    def evidence(self, model: NetworkModel, inputs: Rows) -> Mapping[str, Callable[[], object]]:
        """What a trained objective can say of a pool, for strategies; nothing by default.

        Args:
            model: the fitted network. inputs: (N, ...) the pool.

        Returns:
            By name of the evidence, a function that computes it.
        """
        return {}

    def signature(self) -> dict[str, Any]:
        """The objective's name and options as JSON-able values.

        By default they are `name` and the attributes that its constructor's parameters name.
        """
        if not self.name:
            raise NotImplementedError(f"{type(self).__name__} must say its name and options")
        options = inspect.signature(type(self)).parameters
        return {"name": self.name} | {option: getattr(self, option) for option in options}


def wanted_inputs(objective: Objective) -> tuple[str, ...]:
    """The inputs that an objective's ``forward`` names.

    Raises:
        InputError: a name that the loop does not know, with the nearest one.

    >>> class Ones(Objective):
    ...     def forward(self, labeled):
    ...         return labeled.logits.sub(1).square().mean()
    >>> wanted_inputs(Ones())
    ('labeled',)
    """
    names = tuple(inspect.signature(objective.forward).parameters)
    for name in names:
        if name not in INPUTS:
            raise InputError(
                f"objective {type(objective).__name__} asks the loop for {name!r}; "
                f"{nearest(name, INPUTS)}"
            )
    return names


def optional_inputs(objective: Objective) -> frozenset[str]:
    """The inputs that an objective can do without: those with a default.

    >>> class Ones(Objective):
    ...     def forward(self, unlabeled, labeled=None):
    ...         return unlabeled.logits.sub(1).square().mean()
    >>> sorted(optional_inputs(Ones()))
    ['labeled']
    """
    parameters = inspect.signature(objective.forward).parameters.values()
    return frozenset(each.name for each in parameters if each.default is not each.empty)


def check_sum(objectives: Sequence[Objective]) -> None:
    """Refuse objectives that exclude each other.

    Raises:
        InputError: two that both learn the labels, both guess labels of unlabeled rows, or give
            evidence of one name; the message names them.
    """
    for place, one in enumerate(objectives):
        for other in objectives[:place]:
            both = [f"give {name}" for name in one.gives if name in other.gives]
            if one.guesses_labels and other.guesses_labels:
                both.insert(0, "give unlabeled rows labels of the network's own")
            if one.learns_labels and other.learns_labels:
                both.insert(0, "learn the labels")
            if both:
                raise InputError(
                    f"objectives {_called(other)!r} and {_called(one)!r} exclude each other, "
                    f"since both {both[0]}: keep one of them"
                )


def check_learns_labels(objectives: Sequence[Objective]) -> None:
    """Refuse a fit to labels of which all objectives say that they do not learn them.

    Raises:
        InputError: they do; the message says what to add.
    """
    if all(each.learns_labels is False for each in objectives):
        names = "+".join(_called(each) for each in objectives)
        raise InputError(
            f"objectives {names!r} do not learn the labels, so the classifier would stay as it "
            f"began: add cross_entropy, as in 'cross_entropy+{names}'"
        )


def _called(objective: Objective) -> str:
    return str(objective.signature().get("name", type(objective).__name__))
