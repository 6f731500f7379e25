"""What the training loop is fed: labeled and unlabeled minibatches, and a validation split."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from labelwise.errors import InputError
from labelwise.kernels import Rows, torch_stream
from labelwise.learners.networks import single
from labelwise.learners.parallel import Ranks
from labelwise.learners.recipe import Recipe

VALIDATION_BLOCK = 1024
"""Validation rows that go through the network at once."""


class Labeled:
    """The rows that are trained on, on the device, in a new order every epoch."""

    state_names = ("_order", "minibatch")

    def __init__(
        self,
        inputs: Rows,
        rows: Tensor,
        labels: Tensor,
        recipe: Recipe,
        seed: int,
        device: torch.device,
    ) -> None:
        self.inputs = single(inputs.take(rows).to(device))
        self.rows = rows.to(device)
        self.labels = labels.to(device)
        self.minibatch = recipe.minibatch
        self._order = torch_stream(seed, "order")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def parts(self) -> int:
        """Steps in an epoch."""
        return -(-len(self.rows) // self.minibatch)

    def halve(self) -> bool:
        """Make minibatches half as large; whether they could be."""
        size = min(self.minibatch, len(self.rows))
        self.minibatch = max(1, size // 2) if size else self.minibatch
        return size > 1

    def epoch(self) -> list[Tensor]:
        """Positions of the epoch's minibatches, as equal in size as can be, at least one each.

        A last minibatch of whatever is left over would give its few rows more say, and a
        batch normalization one row to normalize.
        """
        order = torch.randperm(len(self.rows), generator=self._order)
        return self.split(order.to(self.rows.device))

    def split(self, positions: Tensor) -> list[Tensor]:
        """Positions as minibatches, as few and as equal in size as can be."""
        return list(positions.tensor_split(-(-len(positions) // self.minibatch)))


class Unlabeled:
    """Minibatches of the unlabeled rows, without end."""

    state_names = ("_order", "_queue", "minibatch")

    def __init__(
        self,
        inputs: Rows,
        labeled: Tensor,
        rows: Tensor | None,
        recipe: Recipe,
        seed: int,
        device: torch.device,
    ) -> None:
        if rows is None:
            free = torch.ones(len(inputs), dtype=torch.bool)
            free[labeled] = False
            rows = free.nonzero()[:, 0]
        if len(rows) == 0:
            raise InputError("an objective wants unlabeled rows and every row is labeled")
        self.rows = rows
        self.minibatch = min(recipe.unlabeled_minibatch, len(rows))
        self.device = device
        self.none = torch.empty(0, dtype=torch.int64, device=device)
        self._inputs = inputs
        self._order = torch_stream(seed, "order", "unlabeled")
        self._queue = self._last = rows[:0]

    @property
    def parts(self) -> int:
        """Steps in a pass over the rows."""
        return -(-len(self.rows) // self.minibatch)

    def halve(self) -> bool:
        """Make minibatches half as large, of two rows at least; whether they could be.

        The rows of the last one are the next again.
        """
        self._queue, self._last = torch.cat([self._last, self._queue]), self._last[:0]
        size = self.minibatch
        self.minibatch = max(min(2, size), size // 2)
        return self.minibatch < size

    def next(self) -> tuple[Tensor, Tensor]:
        """Inputs and rows of the next minibatch."""
        if len(self._queue) < self.minibatch:
            self._queue = self.rows[torch.randperm(len(self.rows), generator=self._order)]
        rows, self._queue = self._queue[: self.minibatch], self._queue[self.minibatch :]
        self._last = rows
        return single(self._inputs.take(rows).to(self.device)), rows.to(self.device)


class Validation:
    """The labels kept apart, and the best weights by them."""

    state_names = ("accuracies", "best_epoch", "_best", "_weights")

    def __init__(
        self,
        inputs: Rows,
        rows: Tensor,
        labels: Tensor,
        recipe: Recipe,
        device: torch.device,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.inputs = single(inputs.take(rows).to(device))
        self.labels = labels.to(device)
        self.accuracies: list[float] = []
        self.best_epoch = 0
        self._patience = recipe.patience
        self._recipe = recipe
        self._best = (-1.0, 0.0)
        self._weights: dict[str, Tensor] = {}

    def look(self, network: nn.Module, epoch: int) -> bool:
        """Note the accuracy after an epoch; whether patience is at an end."""
        if len(self.labels) == 0:
            self.best_epoch = epoch
            return False
        score = self._score(network)
        self.accuracies.append(score[0])
        if score > self._best:
            self._best, self.best_epoch = score, epoch
            self._weights = {k: v.clone() for k, v in network.state_dict().items()}
        return epoch - self.best_epoch >= self._patience

    def restore(self, network: nn.Module) -> None:
        """Put the best weights back."""
        if self._weights:
            network.load_state_dict(self._weights)

    @torch.no_grad()
    def _score(self, network: nn.Module) -> tuple[float, float]:
        """Accuracy, and minus the cross-entropy to decide between equal accuracies.

        Of several ranks each takes some blocks, and all hear the same sum: stopping must be
        decided alike, also where machines round differently.
        """
        network.eval()
        right, loss = 0, 0.0
        size: int = getattr(network, "rows_at_once", VALIDATION_BLOCK)
        for start in range(self.ranks.rank * size, len(self.labels), self.ranks.size * size):
            labels = self.labels[start : start + size]
            with autocast(self._recipe, labels.device):
                logits = network(self.inputs[start : start + size]).float()
            right += int((logits.argmax(1) == labels).sum())
            loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
        right, loss = self.ranks.total(torch.tensor([right, loss]).double()).tolist()
        return right / len(self.labels), -loss


def autocast(recipe: Recipe, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision where the recipe says so, else nothing."""
    if recipe.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
