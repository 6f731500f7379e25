"""The one training loop: plain torch over tensors, minibatches by indexing.

Whatever trains a network here runs in `train`. What differs between learners is the network, the
objectives and the `Recipe`.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labelwise.errors import InputError
from labelwise.kernels import Rows, derive, torch_stream
from labelwise.learners.average import Average
from labelwise.learners.feeding import Labeled, Unlabeled, Validation, autocast
from labelwise.learners.networks import dropouts, find_head, isolated_random_state
from labelwise.learners.objectives import (
    NETWORK,
    VIEWS,
    Looks,
    Objective,
    Player,
    Setting,
    Sight,
    Step,
    Tapped,
    View,
    optional_inputs,
    wanted_inputs,
)
from labelwise.learners.opponents import Opponent
from labelwise.learners.parallel import Ranks, lent
from labelwise.learners.recipe import (
    Recipe,
    learning_rate,
    make_optimizer,
    pick_device,
    validation_split,
)


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
    player_losses: Mapping[str, list[float]] = MappingProxyType({})


class Trained(NamedTuple):
    """What `train` leaves behind: the history, and the objectives with what they learned."""

    history: History
    objectives: tuple[Objective, ...]


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
    looks: Looks | None = None,
) -> Trained:
    """Train a network in place, and leave it in evaluation mode.

    Where ``torch.distributed`` is initialized all ranks call this with the same arguments, share
    the work, and end with the same; see `labelwise.learners.parallel`.

    Args:
        network: moved to the recipe's device. Its last linear layer gives the logits.
        inputs: (N, ...) the pool.
        rows: (L,) int64 labeled rows. They are copied to the device once. With none of them an
            epoch is a pass over the unlabeled rows, for objectives that need no labels.
        labels: (L,) int64.
        classes: C.
        seed: order, augmentation, dropout and validation split are streams of it.
        recipe: how.
        objectives: what is minimized: the sum of them. Each is copied, so none is changed.
        unlabeled: (U,) int64 rows for objectives that name ``unlabeled``; None means every
            row of the pool that is not labeled.
        looks: how minibatches are changed at random; not at all by default.

    Raises:
        InputError: an objective that asks for something unknown, unlabeled rows wanted where
            there are none, or a loss that is not finite (with its step and learning rate).
        LabelwiseError: another rank has ended.
    """
    start = time.perf_counter()
    device = pick_device(recipe.device)
    ranks = Ranks.here()
    # For modules that draw from torch's global generator all the same.
    with isolated_random_state(derive(seed, "dropout"), device), contextlib.ExitStack() as stack:
        for number, layer in enumerate(dropouts(network)):
            layer.generator = torch_stream(seed, "dropout", number, device=device)
        network.to(device)
        _check_alike(ranks, inputs, rows, labels, unlabeled, seed, recipe, objectives)
        ranks.follow(network)
        stack.enter_context(lent(ranks, [network]))
        kept, held = validation_split(labels, recipe.validation, seed)
        head = find_head(network, classes)
        wanted = [wanted_inputs(objective) for objective in objectives]
        others = None
        if any("unlabeled" in names for names in wanted):
            others = Unlabeled(inputs, rows, unlabeled, recipe, seed, device)
        setting = Setting(
            classes,
            labels[kept],
            head.in_features,
            device,
            torch_stream(seed, "objectives"),
            network,
            inputs.shape[1:],
            len(inputs),
            0 if others is None else len(others.rows),
            ranks,
        )
        terms = _prepare(objectives, wanted, setting)
        stack.enter_context(lent(ranks, [term for term, _ in terms]))
        for term, _ in terms:
            ranks.follow(term)
        given = Labeled(inputs, rows[kept], labels[kept], recipe, seed, device)
        validation = Validation(inputs, rows[held], labels[held], recipe, device, ranks)
        with Tapped(network, head, ranks) as forward:
            sight = Sight(forward, looks or Looks(), torch_stream(seed, "augmentation"))
            history = Fit(sight, terms, given, others, recipe).run(validation)
        for layer in dropouts(network):
            layer.generator = None
    history = history._replace(
        validation_rows=rows[held].tolist(), seconds=time.perf_counter() - start
    )
    return Trained(history, tuple(term.eval() for term, _ in terms))


def _check_alike(
    ranks: Ranks,
    inputs: Rows,
    rows: Tensor,
    labels: Tensor,
    unlabeled: Tensor | None,
    seed: int,
    recipe: Recipe,
    objectives: Sequence[Objective],
) -> None:
    """Refuse a fit whose ranks were given different things."""
    if ranks.size == 1:
        return
    ranks.agree(
        inputs=inputs.shape,
        rows=rows,
        labels=labels,
        unlabeled=unlabeled,
        seed=seed,
        recipe=recipe.signature(),
        objectives=[objective.signature() for objective in objectives],
    )


Term = tuple[Objective, tuple[str, ...]]


def _prepare(
    objectives: Sequence[Objective], wanted: Sequence[tuple[str, ...]], setting: Setting
) -> list[Term]:
    """Copies of the objectives, ready for one fit, each with the inputs it names."""
    if not objectives:
        raise InputError("objectives is empty: a fit needs at least one, such as CrossEntropy()")
    terms = []
    for objective, names in zip(objectives, wanted):
        if "labeled" in names and len(setting.labels) == 0:
            if "labeled" not in optional_inputs(objective):
                raise InputError(
                    f"objective {type(objective).__name__} learns from labels, and there are none"
                )
            names = tuple(name for name in names if name != "labeled")
        term = copy.deepcopy(objective)
        term.prepare(setting)
        terms.append((term.to(setting.device).train(), names))
    return terms


class Fit:
    """The loop itself.

    Args:
        sight: the network, and how rows are looked at.
        terms: prepared objectives, each with the inputs it names.
        labeled, unlabeled: what steps are made of; the labeled rows may be none.
        recipe: how.
    """

    def __init__(
        self,
        sight: Sight,
        terms: list[Term],
        labeled: Labeled,
        unlabeled: Unlabeled | None,
        recipe: Recipe,
    ) -> None:
        self.sight = sight
        self.network = sight.forward.network
        self.ranks = sight.forward.ranks
        self.terms = terms
        self.labeled = labeled
        self.unlabeled = unlabeled
        self.recipe = recipe
        self.norms = [m for m in self.network.modules() if isinstance(m, _BatchNorm)]
        self.players = _players(terms)
        taken = {id(p) for player in self.players.values() for p in player.module.parameters()}
        trained = nn.ModuleList([self.network, *(term for term, _ in terms)])
        self.parameters = [p for p in trained.parameters() if p.requires_grad]
        self.parameters = [p for p in self.parameters if id(p) not in taken]
        self.optimizer = make_optimizer(recipe, self.parameters)
        self.opponents = {
            name: Opponent(player, recipe, self.ranks) for name, player in self.players.items()
        }
        parts = labeled.parts if len(labeled) or unlabeled is None else unlabeled.parts
        self.epochs = max(recipe.epochs, -(-recipe.min_steps // parts))
        self.total = self.epochs * parts
        self.average = None if recipe.average is None else Average(self.network, recipe.average)
        self.right: list[Tensor] = []
        # Those that want more views first: they may take several in one pass, and others share it.
        ordered = [(place, term, wanted) for place, (term, wanted) in enumerate(terms)]
        self.ordered = sorted(ordered, key=lambda each: -sum(n in VIEWS for n in each[2]))
        self.wants_step = any("step" in wanted for _, wanted in terms)

    def run(self, validation: Validation) -> History:
        """All epochs, until one of the reasons to stop."""
        means: list[float] = []
        theirs: dict[str, list[float]] = {name: [] for name in self.opponents}
        stopped = "finished"
        number = 0
        for epoch in range(self.epochs):
            self.network.train()
            losses = []
            for at in self._positions():
                losses.append(self.step(at, epoch, number))
                number += 1
            means.append(self._mean(losses, number - len(losses)))
            for name, opponent in self.opponents.items():
                theirs[name].append(opponent.mean(name, number))
            with self._averaged():
                tired = validation.look(self.network, epoch)
            if tired:
                stopped = "patience"
                break
            if self._reached():
                stopped = "target"
                break
        if self.average is not None:
            self.average.put(self.network)
        validation.restore(self.network)
        self.network.eval()
        return History(
            means,
            validation.accuracies,
            number,
            validation.best_epoch,
            stopped,
            [],
            0.0,
            self.recipe.minibatch,
            theirs,
        )

    def step(self, at: Tensor, epoch: int, number: int) -> Tensor:
        """One update from the labeled rows at these positions; returns the network's loss."""
        rate = learning_rate(self.recipe, number, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        given = self._views(at)
        # One row has no variance to normalize by; it takes the running one.
        alone = self.norms if 1 in [len(view) for view in given.values()] else []
        given["network"] = self.network
        if self.wants_step:
            given["step"] = Step(number, self.total, epoch, rate)
        for norm in alone:
            norm.eval()
        with autocast(self.recipe, at.device):
            loss, others = self._losses(given)
        self.optimizer.zero_grad(set_to_none=True)
        self.ranks.backward(loss, self.parameters)
        for norm in alone:
            norm.train()
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimizer.step()
        for name, opponent in self.opponents.items():
            opponent.step(others[name], number, self.total)
        for term, _ in self.terms:
            term.after_step(self.network)
        if self.average is not None:
            self.average.update(self.network)
        if self.recipe.target_accuracy is not None and len(at):
            view: View = given["labeled"]
            self.right.append((view.logits.detach().argmax(1) == view.labels).sum())
        return loss.detach()

    def _losses(self, given: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The network's loss, summed over objectives, and each other player's."""
        mine: list[Tensor] = []
        others: dict[str, Tensor] = {}
        for place, term, wanted in self.ordered:
            found = term(**{name: given[name] for name in wanted})
            if isinstance(found, Tensor):
                mine.append(found)
                continue
            mine += [loss for player, loss in found.items() if player == NETWORK]
            others |= {_key(place, term, p): loss for p, loss in found.items() if p != NETWORK}
        if others.keys() != self.opponents.keys():
            raise InputError(
                f"objectives must give a loss for each of their players, {sorted(self.opponents)}, "
                f"got {sorted(others)}"
            )
        return mine[0] if len(mine) == 1 else torch.stack(mine).sum(), others

    def _positions(self) -> Sequence[Tensor]:
        """Labeled positions of an epoch's steps; empty ones where nothing is labeled."""
        if len(self.labeled) or self.unlabeled is None:
            return self.labeled.epoch()
        return [self.labeled.labels[:0]] * self.unlabeled.parts

    def _views(self, at: Tensor) -> dict[str, Any]:
        """What there is to see in this step."""
        data = self.labeled
        given: dict[str, Any] = {}
        if len(at):
            given["labeled"] = View(data.inputs[at], data.rows[at], data.labels[at], self.sight)
        if self.unlabeled is not None:
            inputs, rows = self.unlabeled.next()
            given["unlabeled"] = View(inputs, rows, self.unlabeled.none, self.sight)
        return given

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the network has the weights that are kept in the end."""
        if self.average is None:
            return contextlib.nullcontext()
        return self.average.inside(self.network)

    def _reached(self) -> bool:
        """Whether the epoch's minibatches were predicted as well as the target asks."""
        if self.recipe.target_accuracy is None or not self.right:
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


def _players(terms: Sequence[Term]) -> dict[str, Player]:
    """The players of all objectives, by a name of their own."""
    return {
        _key(place, term, name): player
        for place, (term, _) in enumerate(terms)
        for name, player in term.players().items()
    }


def _key(place: int, term: Objective, player: str) -> str:
    return f"{place} {type(term).__name__} {player}"
