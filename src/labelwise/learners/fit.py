"""One fit: its steps and epochs, what memory allows, and what it takes to go on after a break."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labelwise.errors import InputError, ResourceError
from labelwise.learners.average import Average
from labelwise.learners.checkpoint import Keeper
from labelwise.learners.feeding import Labeled, Unlabeled, Validation, autocast
from labelwise.learners.history import Done, History, Listener, Passed
from labelwise.learners.objectives import (
    NETWORK,
    VIEWS,
    Objective,
    Player,
    Sight,
    Step,
    View,
)
from labelwise.learners.opponents import Opponent
from labelwise.learners.recipe import (
    Recipe,
    diverged,
    learning_rate,
    make_optimizer,
    optimizer_state,
    put_optimizer_state,
)

Term = tuple[Objective, tuple[str, ...]]


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
        self.epochs = max(recipe.epochs, -(-recipe.min_steps // self.parts))
        self.done = Done(player_means={name: [] for name in self.opponents})
        self.average = None if recipe.average is None else Average(self.network, recipe.average)
        self.right: list[Tensor] = []
        # Those that want more views first: they may take several in one pass, and others share it.
        ordered = [(place, term, wanted) for place, (term, wanted) in enumerate(terms)]
        self.ordered = sorted(ordered, key=lambda each: -sum(n in VIEWS for n in each[2]))
        self.wants_step = any("step" in wanted for _, wanted in terms)

    @property
    def parts(self) -> int:
        """Steps in an epoch."""
        if len(self.labeled) or self.unlabeled is None:
            return self.labeled.parts
        return self.unlabeled.parts

    @property
    def total(self) -> int:
        """Steps in the whole fit, unless it stops early."""
        return self.epochs * self.parts

    def run(
        self,
        validation: Validation,
        keeper: Keeper | None = None,
        listener: Listener | None = None,
    ) -> History:
        """All epochs, until one of the reasons to stop; from the last checkpoint where one is."""
        done, began = self.done, time.perf_counter()
        pieces = self._pieces(validation)
        if keeper is not None and keeper.load(pieces):
            self._resume(pieces)
        before = done.seconds
        while done.epoch < self.epochs and not done.stopped:
            self._epoch()
            with self._averaged():
                tired = validation.look(self.network, done.epoch)
                done.epoch += 1
                done.seconds = before + time.perf_counter() - began
                if listener is not None:
                    self.network.eval()
                    listener(self._passed())
            if tired:
                done.stopped = "patience"
            elif self._reached():
                done.stopped = "target"
            last = bool(done.stopped) or done.epoch == self.epochs
            due = last or (keeper is not None and done.epoch % keeper.every == 0)
            if due:
                self._refuse_spoiled()
            if due and keeper is not None:
                keeper.save(self._pieces(validation), done.epoch)
        if self.average is not None:
            self.average.put(self.network)
        validation.restore(self.network)
        self.network.eval()
        return History(
            done.means,
            validation.accuracies,
            done.steps,
            validation.best_epoch,
            done.stopped or "finished",
            [],
            before + time.perf_counter() - began,
            self.labeled.minibatch,
            0 if self.unlabeled is None else self.unlabeled.minibatch,
            done.player_means,
        )

    def _epoch(self) -> None:
        """One pass over the rows, in smaller steps from where memory does not suffice."""
        self.network.train()
        losses: list[Tensor] = []
        numbers: list[int] = []
        pending = list(self._positions())
        while pending:
            number = min(self.done.number, self.total - 1)
            rate = learning_rate(self.recipe, number, self.total)
            loss = self.step(pending[0], number, rate)
            if loss is None:
                pending = self._smaller(pending)
                continue
            losses.append(loss)
            numbers.append(number)
            self.done.number += 1
            self.done.steps += 1
            pending = pending[1:]
        self.done.number = (self.done.epoch + 1) * self.parts
        self.done.means.append(self._mean(losses, numbers))
        for name, opponent in self.opponents.items():
            self.done.player_means[name].append(opponent.mean(name, self.done.number))

    def step(self, at: Tensor, number: int, rate: float) -> Tensor | None:
        """One update from the labeled rows at these positions.

        Returns:
            The network's loss; None where memory ran out, and nothing was updated.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        try:
            loss, others, right = self._gradients(at, number, rate)
        except RuntimeError as error:
            # One rank cannot take smaller minibatches than the others.
            if self.ranks.size > 1 or not out_of_memory(error):
                raise
            return None  # what the failed step held is let go with the error
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimizer.step()
        for name, opponent in self.opponents.items():
            opponent.step(others[name], number, self.total)
        for term, _ in self.terms:
            term.after_step(self.network)
        if self.average is not None:
            self.average.update(self.network)
        if right is not None:
            self.right.append(right)
        return loss.detach()

    def _gradients(
        self, at: Tensor, number: int, rate: float
    ) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """The network's loss with its gradients made, the others' losses, and labels got right."""
        given = self._views(at)
        # One row has no variance to normalize by; it takes the running one.
        alone = self.norms if 1 in [len(view) for view in given.values()] else []
        view: View | None = given.get("labeled")
        given["network"] = self.network
        if self.wants_step:
            given["step"] = Step(number, self.total, self.done.epoch, rate)
        for norm in alone:
            norm.eval()
        try:
            with autocast(self.recipe, at.device):
                loss, others = self._losses(given)
            self.optimizer.zero_grad(set_to_none=True)
            self.ranks.backward(loss, self.parameters)
        finally:
            for norm in alone:
                norm.train()
        right = None
        if self.recipe.target_accuracy is not None and view is not None:
            right = (view.logits.detach().argmax(1) == view.labels).sum()
        return loss, others, right

    def _smaller(self, pending: list[Tensor]) -> list[Tensor]:
        """Half the minibatch, for the rest of this epoch and from now on.

        The learning rate stays, and the schedule goes on from the same share of the fit.

        Raises:
            ResourceError: it cannot be less.
        """
        had, parts = (self.labeled.minibatch, self._unlabeled_minibatch), self.parts
        changed = self.labeled.halve()
        if self.unlabeled is not None:
            changed = self.unlabeled.halve() or changed
        if not changed:
            raise ResourceError(
                f"out of memory with the smallest minibatch ({had[0]} labeled and {had[1]} "
                "unlabeled rows): make the network or its inputs smaller"
            )
        self.optimizer.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.done.number = round(self.done.number * self.parts / parts)
        if not self.done.smaller:
            self.done.smaller = True
            now = (self.labeled.minibatch, self._unlabeled_minibatch)
            warnings.warn(
                f"out of memory: minibatches are halved, labeled from {had[0]} to {now[0]} and "
                f"unlabeled from {had[1]} to {now[1]}, and again where that is too much; the "
                "fit's history says what they ended at",
                stacklevel=2,
            )
        if len(self.labeled):
            return self.labeled.split(torch.cat(pending))
        return pending[:1] * -(-len(pending) * self.parts // parts)

    @property
    def _unlabeled_minibatch(self) -> int:
        return 0 if self.unlabeled is None else self.unlabeled.minibatch

    def _pieces(self, validation: Validation) -> dict[str, Any]:
        """Everything that a step changes; see `capture`."""
        device = self.labeled.labels.device
        randomness = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            randomness["cuda"] = torch.cuda.get_rng_state(device)
        optimizers = {"": self.optimizer, **{k: o.optimizer for k, o in self.opponents.items()}}
        return {
            "done": self.done,
            "network": self.network,
            "objectives": [term for term, _ in self.terms],
            "average": self.average,
            "validation": validation,
            "labeled": self.labeled,
            "unlabeled": self.unlabeled,
            "noise": self.sight.noise,
            "global": randomness,
            "optimizers": {name: optimizer_state(each) for name, each in optimizers.items()},
        }

    def _resume(self, pieces: dict[str, Any]) -> None:
        """What cannot be restored in place: optimizers, and torch's own generators."""
        put_optimizer_state(self.optimizer, pieces["optimizers"][""])
        for name, opponent in self.opponents.items():
            put_optimizer_state(opponent.optimizer, pieces["optimizers"][name])
        torch.set_rng_state(pieces["global"]["cpu"])
        if "cuda" in pieces["global"]:
            torch.cuda.set_rng_state(pieces["global"]["cuda"], self.labeled.labels.device)

    def _passed(self) -> Passed:
        number = min(self.done.number, self.total) - 1
        rate = learning_rate(self.recipe, number, self.total)
        done = self.done
        return Passed(done.epoch, self.epochs, done.steps, done.means[-1], rate, done.seconds)

    def _refuse_spoiled(self) -> None:
        """A last step may leave weights that no loss has seen yet; they are not kept."""
        theirs = [each for opponent in self.opponents.values() for each in opponent.parameters]
        finite = [each.detach().isfinite().all() for each in (*self.parameters, *theirs)]
        # A mask may be infinite on purpose; statistics become NaN.
        finite += [~each.isnan().any() for each in self.network.buffers()]
        if finite and not bool(torch.stack(finite).all()):
            number = min(self.done.number, self.total) - 1
            raise diverged(float("nan"), number, self.total, self.recipe)

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

    def _mean(self, losses: list[Tensor], numbers: list[int]) -> float:
        """The mean loss of an epoch's steps, refusing what is not finite.

        The losses are looked at once an epoch, because a look waits for the device.
        """
        values = torch.stack(losses).float().cpu()
        wrong = (~values.isfinite()).nonzero()
        if len(wrong):
            place = int(wrong[0, 0])
            raise diverged(float(values[place]), numbers[place], self.total, self.recipe)
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


def out_of_memory(error: RuntimeError) -> bool:
    """Whether it is the device's memory, or the machine's, that did not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
