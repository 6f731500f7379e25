"""The one training loop: plain torch over tensors, minibatches by indexing.

Whatever trains a network here runs in `train`. What differs between learners is the network, the
objectives and the `Recipe`.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labelwise.errors import InputError
from labelwise.kernels import Rows, derive, torch_stream
from labelwise.learners.networks import dropouts, find_head, isolated_random_state, single
from labelwise.learners.objectives import Objective, Setting, Step, Tapped, View, wanted_inputs
from labelwise.learners.recipe import (
    Recipe,
    learning_rate,
    make_optimizer,
    pick_device,
    validation_split,
)

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Changes a minibatch of inputs at random; the generator is on the CPU."""

VALIDATION_BLOCK = 1024
"""Validation rows that go through the network at once."""


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
    """

    losses: list[float]
    validation: list[float]
    steps: int
    best_epoch: int
    stopped: str
    validation_rows: list[int]
    seconds: float


def train(
    network: nn.Module,
    inputs: Rows,
    rows: Tensor,
    labels: Tensor,
    *,
    classes: int,
    seed: int,
    recipe: Recipe,
    objectives: Sequence[Objective],
    unlabeled: Tensor | None = None,
    augment: Augment | None = None,
) -> History:
    """Train a network in place, and leave it in evaluation mode.

    Args:
        network: moved to the recipe's device. Its last linear layer gives the logits.
        inputs: (N, ...) the pool.
        rows: (L,) int64 labeled rows. They are copied to the device once.
        labels: (L,) int64.
        classes: C.
        seed: order, augmentation, dropout and validation split are streams of it.
        recipe: how.
        objectives: what is minimized: the sum of them. Each is copied, so none is changed.
        unlabeled: (U,) int64 rows for objectives that name ``unlabeled``; None means every
            row of the pool that is not labeled.
        augment: applied to every training minibatch.

    Raises:
        InputError: an objective that asks for something unknown, unlabeled rows wanted where
            there are none, or a loss that is not finite (with its step and learning rate).
    """
    start = time.perf_counter()
    device = pick_device(recipe.device)
    # For modules that draw from torch's global generator all the same.
    with isolated_random_state(derive(seed, "dropout"), device):
        for number, layer in enumerate(dropouts(network)):
            layer.generator = torch_stream(seed, "dropout", number, device=device)
        network.to(device)
        kept, held = validation_split(labels, recipe.validation, seed)
        head = find_head(network, classes)
        setting = Setting(
            classes, labels[kept], head.in_features, device, torch_stream(seed, "objectives")
        )
        terms = _prepare(objectives, setting)
        given = _Labeled(inputs, rows[kept], labels[kept], recipe, seed, device)
        others = None
        if any("unlabeled" in wanted for _, wanted in terms):
            others = _Unlabeled(inputs, rows, unlabeled, recipe, seed, device)
        validation = _Validation(inputs, rows[held], labels[held], recipe, device)
        with Tapped(network, head) as forward:
            fit = _Fit(forward, terms, given, others, recipe, augment, seed)
            history = fit.run(validation)
        for layer in dropouts(network):
            layer.generator = None
    return history._replace(
        validation_rows=rows[held].tolist(), seconds=time.perf_counter() - start
    )


_Term = tuple[Objective, tuple[str, ...]]


def _prepare(objectives: Sequence[Objective], setting: Setting) -> list[_Term]:
    """Copies of the objectives, ready for one fit, each with the inputs it names."""
    if not objectives:
        raise InputError("objectives is empty: a fit needs at least one, such as CrossEntropy()")
    terms = []
    for objective in objectives:
        wanted = wanted_inputs(objective)
        term = copy.deepcopy(objective)
        term.prepare(setting)
        terms.append((term.to(setting.device).train(), wanted))
    return terms


class _Labeled:
    """The rows that are trained on, on the device, in a new order every epoch."""

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
        self.parts = -(-len(rows) // recipe.minibatch)
        self._order = torch_stream(seed, "order")

    def __len__(self) -> int:
        return len(self.rows)

    def epoch(self) -> tuple[Tensor, ...]:
        """Positions of the epoch's minibatches, as equal in size as can be, at least one each.

        A last minibatch of whatever is left over would give its few rows more say, and a
        batch normalization one row to normalize.
        """
        order = torch.randperm(len(self.rows), generator=self._order)
        return order.to(self.rows.device).tensor_split(self.parts)


class _Unlabeled:
    """Minibatches of the unlabeled rows, without end."""

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
        self.device = device
        self.none = torch.empty(0, dtype=torch.int64, device=device)
        self._inputs = inputs
        self._size = min(recipe.unlabeled_minibatch, len(rows))
        self._order = torch_stream(seed, "order", "unlabeled")
        self._queue = rows[:0]

    def next(self) -> tuple[Tensor, Tensor]:
        """Inputs and rows of the next minibatch."""
        if len(self._queue) < self._size:
            self._queue = self.rows[torch.randperm(len(self.rows), generator=self._order)]
        rows, self._queue = self._queue[: self._size], self._queue[self._size :]
        return single(self._inputs.take(rows).to(self.device)), rows.to(self.device)


class _Validation:
    """The labels kept apart, and the best weights by them."""

    def __init__(
        self, inputs: Rows, rows: Tensor, labels: Tensor, recipe: Recipe, device: torch.device
    ) -> None:
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
        """Accuracy, and minus the cross-entropy to decide between equal accuracies."""
        network.eval()
        right, loss = 0, 0.0
        for start in range(0, len(self.labels), VALIDATION_BLOCK):
            labels = self.labels[start : start + VALIDATION_BLOCK]
            with autocast(self._recipe, labels.device):
                logits = network(self.inputs[start : start + VALIDATION_BLOCK]).float()
            right += int((logits.argmax(1) == labels).sum())
            loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
        return right / len(self.labels), -loss


class _Fit:
    """The loop itself."""

    def __init__(
        self,
        forward: Tapped,
        terms: list[_Term],
        labeled: _Labeled,
        unlabeled: _Unlabeled | None,
        recipe: Recipe,
        augment: Augment | None,
        seed: int,
    ) -> None:
        self.forward = forward
        self.network = forward.network
        self.terms = terms
        self.labeled = labeled
        self.unlabeled = unlabeled
        self.recipe = recipe
        self.augment = augment
        self.noise = torch_stream(seed, "augmentation")
        self.norms = [m for m in self.network.modules() if isinstance(m, _BatchNorm)]
        trained = nn.ModuleList([self.network, *(term for term, _ in terms)])
        self.parameters = [p for p in trained.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(recipe, self.parameters)
        self.epochs = max(recipe.epochs, -(-recipe.min_steps // labeled.parts))
        self.total = self.epochs * labeled.parts
        self.right: list[Tensor] = []
        self.wants_step = any("step" in wanted for _, wanted in terms)

    def run(self, validation: _Validation) -> History:
        """All epochs, until one of the reasons to stop."""
        means: list[float] = []
        stopped = "finished"
        number = 0
        for epoch in range(self.epochs):
            self.network.train()
            losses = []
            for at in self.labeled.epoch():
                losses.append(self.step(at, epoch, number))
                number += 1
            means.append(self._mean(losses, number - len(losses)))
            if validation.look(self.network, epoch):
                stopped = "patience"
                break
            if self._reached():
                stopped = "target"
                break
        validation.restore(self.network)
        self.network.eval()
        return History(
            means, validation.accuracies, number, validation.best_epoch, stopped, [], 0.0
        )

    def step(self, at: Tensor, epoch: int, number: int) -> Tensor:
        """One update from the labeled rows at these positions; returns the loss."""
        rate = learning_rate(self.recipe, number, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        given = self._views(at)
        if self.wants_step:
            given["step"] = Step(number, self.total, epoch, rate)
        # One row has no variance to normalize by; it takes the running one.
        alone = self.norms if len(at) == 1 else []
        for norm in alone:
            norm.eval()
        with autocast(self.recipe, at.device):
            losses = [term(**{name: given[name] for name in wanted}) for term, wanted in self.terms]
            loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for norm in alone:
            norm.train()
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimizer.step()
        for term, _ in self.terms:
            term.after_step(self.network)
        if self.recipe.target_accuracy is not None:
            view: View = given["labeled"]
            self.right.append((view.logits.detach().argmax(1) == view.labels).sum())
        return loss.detach()

    def _views(self, at: Tensor) -> dict[str, Any]:
        """What objectives may ask for in this step."""
        data = self.labeled
        given: dict[str, Any] = {"network": self.network}
        given["labeled"] = View(
            self._augmented(data.inputs[at]), data.rows[at], data.labels[at], self.forward
        )
        if self.unlabeled is not None:
            inputs, rows = self.unlabeled.next()
            given["unlabeled"] = View(
                self._augmented(inputs), rows, self.unlabeled.none, self.forward
            )
        return given

    def _augmented(self, inputs: Tensor) -> Tensor:
        return inputs if self.augment is None else self.augment(inputs, self.noise)

    def _reached(self) -> bool:
        """Whether the epoch's minibatches were predicted as well as the target asks."""
        if self.recipe.target_accuracy is None:
            return False
        right = int(torch.stack(self.right).sum())
        self.right.clear()
        return right >= self.recipe.target_accuracy * len(self.labeled)

    def _mean(self, losses: list[Tensor], first: int) -> float:
        """The mean loss of an epoch whose first step this was, refusing what is not finite.

        The losses are looked at once an epoch, because a look waits for the device.
        """
        values = torch.stack(losses).float().cpu()
        wrong = (~values.isfinite()).nonzero()
        if len(wrong):
            number = first + int(wrong[0, 0])
            rate = learning_rate(self.recipe, number, self.total)
            raise InputError(
                f"the loss is {float(values[wrong[0, 0]])} at step {number} of {self.total} with "
                f"learning rate {rate:.3g}: lower learning_rate (now {self.recipe.learning_rate:g})"
                f", set clip=1.0, or look for extreme inputs"
            )
        return float(values.mean())


def autocast(recipe: Recipe, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision where the recipe says so, else nothing."""
    if recipe.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
