"""Objectives: what a fit minimizes. They add up in the one training loop.

An objective is a module whose ``forward`` names, by its parameters, the inputs it wants from the
loop (as a strategy names its evidence) and returns a loss. It may own modules, which are then
trained along, and state, which is kept in its buffers.

    inputs      what the loop hands over
    labeled     a `View` of labeled rows, with labels
    unlabeled   a `View` of unlabeled rows
    network     the network that is trained
    step        a `Step`: where in the fit this is
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelwise.errors import InputError, nearest

INPUTS = ("labeled", "unlabeled", "network", "step")
"""The names that an objective's ``forward`` may use."""


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
    """

    classes: int
    labels: Tensor
    embedding_width: int
    device: torch.device
    generator: torch.Generator


class Tapped:
    """A network that also gives the input of its linear head, for as long as a ``with`` lasts.

    Args:
        network: gives logits, by a call of ``head``.
        head: its linear head, from `find_head`.
    """

    def __init__(self, network: nn.Module, head: nn.Linear) -> None:
        self.network = network
        self._head = head
        self._seen: Tensor | None = None

    def __enter__(self) -> Self:
        self._hook = self._head.register_forward_pre_hook(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _see(self, head: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._seen = given[0]

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, C) and embeddings (n, D) of n inputs, in one pass.

        Raises:
            InputError: the network does not call its head, or not on one vector a row.
        """
        logits = self.network(inputs)
        seen, self._seen = self._seen, None
        if seen is None or seen.ndim != 2:
            got = "it is never called" if seen is None else f"got shape {tuple(seen.shape)}"
            raise InputError(
                f"the network's last torch.nn.Linear must be given one vector a row: {got}"
            )
        return logits, seen


class View:
    """A minibatch, and what the network makes of it: computed once, shared by all objectives.

    Attributes:
        inputs: (n, ...) rows, augmented where the learner does that.
        rows: (n,) int64, their rows in the pool.
        labels: (n,) int64; empty for unlabeled rows.
    """

    __slots__ = ("_forward", "_outputs", "inputs", "labels", "rows")

    def __init__(self, inputs: Tensor, rows: Tensor, labels: Tensor, forward: Tapped) -> None:
        self.inputs = inputs
        self.rows = rows
        self.labels = labels
        self._forward = forward
        self._outputs: tuple[Tensor, Tensor] | None = None

    @property
    def logits(self) -> Tensor:
        """(n, C) of the network in training mode, with gradient."""
        return self._both()[0]

    @property
    def embeddings(self) -> Tensor:
        """(n, D), the input of the linear head, with gradient."""
        return self._both()[1]

    def _both(self) -> tuple[Tensor, Tensor]:
        if self._outputs is None:
            self._outputs = self._forward(self.inputs)
        return self._outputs


class Objective(nn.Module):
    """The base of every objective.

    A subclass writes ``forward``, whose parameters are among `INPUTS`, and `signature`. A
    learner never trains the instance it was given: every fit works on a copy.
    """

    def prepare(self, setting: Setting) -> None:
        """Make the modules and state of one fit; nothing by default."""

    def after_step(self, network: nn.Module) -> None:
        """Called after each update of the network, for moving averages; nothing by default."""

    def signature(self) -> dict[str, Any]:
        """The objective's name and options as JSON-able values."""
        raise NotImplementedError(f"{type(self).__name__} must say its name and options")


class CrossEntropy(Objective):
    """Cross-entropy of the labels, in nats, averaged over the minibatch.

    Args:
        smoothing: in [0, 1): this share of every label is spread evenly over the classes
            (Szegedy et al., CVPR 2016).
        class_weights: (C,) positive weights, the mean is weighted by them; ``"balanced"``
            weights a class by L / (present classes x its labels), so that all present
            classes count the same.

    Raises:
        InputError: a smoothing out of range, or weights that are not positive; at the fit,
            another number of weights than classes.
    """

    def __init__(
        self, *, smoothing: float = 0.0, class_weights: str | Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise InputError(f"smoothing must be in [0, 1), got {smoothing}")
        if isinstance(class_weights, str):
            if class_weights != "balanced":
                raise InputError(
                    f"class_weights must be numbers or 'balanced', got {class_weights!r}"
                )
        elif class_weights is not None:
            class_weights = tuple(float(weight) for weight in class_weights)
            if not all(0 < weight < float("inf") for weight in class_weights):
                raise InputError(f"class_weights must be positive, got {class_weights}")
        self.smoothing = smoothing
        self.class_weights = class_weights
        self.register_buffer("_weights", None)

    def prepare(self, setting: Setting) -> None:
        """Turn the class weights into a tensor for this many classes."""
        if self.class_weights is None:
            return
        if isinstance(self.class_weights, str):
            counts = torch.bincount(setting.labels, minlength=setting.classes).float()
            present = int((counts > 0).sum())
            weights = len(setting.labels) / (present * counts.clamp(min=1))
        else:
            weights = torch.tensor(self.class_weights)
            if len(weights) != setting.classes:
                raise InputError(
                    f"class_weights must be one a class: {setting.classes} classes, "
                    f"got {len(weights)}"
                )
        self._weights = weights.to(setting.device)

    def forward(self, labeled: View) -> Tensor:
        """The loss, a single number."""
        return F.cross_entropy(
            labeled.logits,
            labeled.labels,
            weight=self._weights,
            label_smoothing=self.smoothing,
        )

    def signature(self) -> dict[str, Any]:
        """Name and options."""
        weights = self.class_weights
        return {
            "name": "cross_entropy",
            "smoothing": self.smoothing,
            "class_weights": list(weights) if isinstance(weights, tuple) else weights,
        }


def wanted_inputs(objective: Objective) -> tuple[str, ...]:
    """The inputs that an objective's ``forward`` names.

    Raises:
        InputError: a name that the loop does not know, with the nearest one.

    >>> wanted_inputs(CrossEntropy())
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
