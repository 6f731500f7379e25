"""What happened in a fit, and what is told while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple


class History(NamedTuple):
    """What happened in a fit.

    Attributes:
        losses: mean loss of each epoch, in the objectives' unit.
        validation: validation accuracy after each epoch; empty without a validation split.
        steps: updates made.
        best_epoch: the epoch whose weights were kept, from 0.
        stopped: ``"finished"``, ``"patience"`` or ``"target"``.
        validation_rows: rows of the pool whose labels were kept apart.
        seconds: the whole fit.
        minibatch: labeled rows in a step at most, less than asked for where memory ran out.
        unlabeled_minibatch: likewise of unlabeled rows; 0 where no objective wants any.
        player_losses: mean loss of each epoch of every other player, by objective and player.
    """

    losses: list[float]
    validation: list[float]
    steps: int
    best_epoch: int
    stopped: str
    validation_rows: list[int]
    seconds: float
    minibatch: int = 0
    unlabeled_minibatch: int = 0
    player_losses: Mapping[str, list[float]] = MappingProxyType({})


class Passed(NamedTuple):
    """What a listener is told after an epoch; the network is in evaluation mode meanwhile.

    Attributes:
        epoch: epochs that are complete.
        epochs: that there will be, unless the fit stops early.
        steps: updates made.
        loss: mean of the epoch.
        learning_rate: of the last step.
        seconds: of the whole fit so far, with what came before a break.
    """

    epoch: int
    epochs: int
    steps: int
    loss: float
    learning_rate: float
    seconds: float


Listener = Callable[[Passed], None]


@dataclass
class Done:
    """How far a fit has come.

    Attributes:
        epoch: complete ones.
        number: place in the schedule, in steps of the present size.
        steps: updates made.
        means: mean loss of each epoch.
        player_means: likewise of other players.
        stopped: why, before the last epoch.
        seconds: so far.
        smaller: whether it was said that minibatches are halved.
    """

    epoch: int = 0
    number: int = 0
    steps: int = 0
    means: list[float] = field(default_factory=list)
    player_means: dict[str, list[float]] = field(default_factory=dict)
    stopped: str = ""
    seconds: float = 0.0
    smaller: bool = False
