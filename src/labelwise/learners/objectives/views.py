"""What objectives see of a minibatch: its rows, looked at in several ways, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from labelwise.errors import InputError

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Changes a minibatch of inputs at random; the generator is on the CPU."""

Kind = Literal["weak", "strong", "distorted"]


class Looks(NamedTuple):
    """The ways in which a learner changes inputs at random; None leaves them as they are.

    Attributes:
        weak: what keeps a row's class beyond doubt, such as a shift: every training minibatch.
        strong: what makes a row hard, for objectives that ask the network to see through it.
        distorted: one of two views of a row that are to be alike, for self-supervision.
    """

    weak: Augment | None = None
    strong: Augment | None = None
    distorted: Augment | None = None


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


class Sight:
    """How a fit's rows are looked at: the network, the learner's looks, and their randomness.

    Args:
        forward: the network.
        looks: the learner's.
        noise: what augmentations draw from.
    """

    def __init__(self, forward: Tapped, looks: Looks, noise: torch.Generator) -> None:
        self.forward = forward
        self.looks = looks
        self.noise = noise

    def change(self, inputs: Tensor, kind: Kind) -> Tensor:
        """Inputs changed at random.

        Raises:
            InputError: strong or distorted rows of a learner that has no way to make them.
        """
        augment = getattr(self.looks, kind)
        if augment is not None:
            changed: Tensor = augment(inputs, self.noise)
            return changed
        if kind == "weak":
            return inputs
        raise InputError(
            f"an objective wants {kind} rows, and the learner has no way to make them: give it "
            f"looks=Looks({kind}=...)"
        )


class View:
    """A minibatch, and what the network makes of it: computed once, shared by all objectives.

    Attributes:
        inputs: (n, ...) rows, changed at random where the learner does that.
        rows: (n,) int64, their rows in the pool.
        labels: (n,) int64; empty for unlabeled rows.
    """

    __slots__ = ("_guess", "_outputs", "_raw", "_seen", "_sight", "inputs", "labels", "rows")

    def __init__(
        self, raw: Tensor, rows: Tensor, labels: Tensor, sight: Sight, kind: Kind = "weak"
    ) -> None:
        self.inputs = sight.change(raw, kind)
        self.rows = rows
        self.labels = labels
        self._raw = raw
        self._sight = sight
        self._seen: dict[tuple[Kind, int], View] = {}
        self._outputs: tuple[Tensor, Tensor] | None = None
        self._guess: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def logits(self) -> Tensor:
        """(n, C) of the network in training mode, with gradient."""
        return self._both()[0]

    @property
    def embeddings(self) -> Tensor:
        """(n, D), the input of the linear head, with gradient."""
        return self._both()[1]

    @property
    def guess(self) -> Tensor:
        """(n, C) class distributions by the network in training mode, without gradient."""
        if self._guess is None:
            if self._outputs is not None:
                logits = self._outputs[0].detach()
            else:
                with torch.no_grad():
                    logits = self._sight.forward(self.inputs)[0]
            self._guess = logits.float().softmax(1)
        return self._guess

    def weak(self, number: int = 1) -> View:
        """The same rows, changed as training minibatches are, anew; the same for one number."""
        return self._look("weak", number)

    def strong(self, number: int = 1) -> View:
        """The same rows, made hard; the same for one number.

        Raises:
            InputError: the learner has no way to do so.
        """
        return self._look("strong", number)

    def distorted(self, number: int = 1) -> View:
        """One of the views of the same rows that self-supervision compares; one for a number.

        Raises:
            InputError: the learner has no way to do so.
        """
        return self._look("distorted", number)

    def through(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (m, C) and embeddings (m, D) of other inputs, such as mixtures of rows."""
        return self._sight.forward(inputs)

    def _look(self, kind: Kind, number: int) -> View:
        if (kind, number) not in self._seen:
            self._seen[kind, number] = View(self._raw, self.rows, self.labels, self._sight, kind)
        return self._seen[kind, number]

    def _both(self) -> tuple[Tensor, Tensor]:
        if self._outputs is None:
            self._outputs = self._sight.forward(self.inputs)
        return self._outputs
