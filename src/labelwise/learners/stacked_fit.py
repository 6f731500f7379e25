"""The steps of a group of fits: see `labelwise.learners.many`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from labelwise.kernels import torch_stream
from labelwise.learners.feeding import VALIDATION_BLOCK
from labelwise.learners.recipe import Recipe, diverged, learning_rate, validation_split
from labelwise.learners.stack import LayerStack, StackOptimizer


class Member:
    """One fit of a group: what is its own.

    Args:
        layers: of its network, as `perceptron_layers` gives them; the weights it starts from,
            and where the result is put.
        rows, labels: (L,) int64.
        seed: order, dropout and validation split are the streams of it that `train` uses.
        recipe: the group's.

    Attributes:
        rows, labels: those that are trained on, then those that are kept apart.
        count: how many are trained on.
        losses, accuracies, best_epoch, steps, stopped: as in `History`.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        rows: Tensor,
        labels: Tensor,
        seed: int,
        recipe: Recipe,
        device: torch.device,
    ) -> None:
        self.layers = layers
        kept, held = validation_split(labels, recipe.validation, seed)
        order = torch.cat([kept, held])
        self.rows, self.labels = rows[order], labels[order]
        self.count = len(kept)
        self.parts = -(-self.count // recipe.minibatch)
        self.epochs = max(recipe.epochs, -(-recipe.min_steps // self.parts))
        self.total = self.epochs * self.parts
        short, longer = divmod(self.count, self.parts)
        self.sizes = [short + (part < longer) for part in range(self.parts)]
        self.order = torch_stream(seed, "order")
        self.seed, self.device = seed, device
        self.epoch = self.began = 0
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self.best_epoch = 0
        self.best: tuple[float, float] = (-1.0, 0.0)
        self.weights: list[Tensor] = []
        self.steps = 0
        self.stopped = ""

    @property
    def held(self) -> Tensor:
        """Rows whose labels are kept apart."""
        return self.rows[self.count :]

    def streams(self, count: int) -> list[torch.Generator]:
        """What its dropout layers draw from."""
        device = self.device
        return [torch_stream(self.seed, "dropout", n, device=device) for n in range(count)]


class StackedFit:
    """Fits of one learner, a step of all of them at a time.

    Args:
        members: at least one.
        inputs: (U, D) float32 rows that the members' labels are of, on the device, as the first
            linear layer is given them.
        places: for each member (L,) int64 positions in ``inputs``, on the device.
        class_weights: (S, C) of the cross-entropy.
        smoothing: of the labels.
        recipe: of all.
    """

    def __init__(
        self,
        members: Sequence[Member],
        inputs: Tensor,
        places: Sequence[Tensor],
        class_weights: Tensor,
        smoothing: float,
        recipe: Recipe,
    ) -> None:
        # Fits with one learning rate stand side by side; that of a step depends on the total.
        order = sorted(range(len(members)), key=lambda i: (members[i].total, members[i].count))
        self.live = [members[i] for i in order]
        self.inputs, self.recipe, self.smoothing = inputs, recipe, smoothing
        device = inputs.device
        self.stack = LayerStack([member.layers for member in self.live], device)
        self.optimizer = StackOptimizer(recipe, self.stack)
        self.streams = [member.streams(len(self.stack.drops)) for member in self.live]
        self.average = [w.clone() for w in self.stack.weights] if recipe.average else None
        count, classes = class_weights.shape
        self.classes = classes
        # A row that only fills up a minibatch has a class of its own, which weighs nothing.
        self.class_weights = torch.zeros(count, classes + 1, device=device)
        self.class_weights[:, :classes] = class_weights[order]
        self.where = [places[i] for i in order]
        self.targets = [member.labels.to(device) for member in self.live]
        parts = max(member.parts for member in self.live)
        self.width = max(member.sizes[0] for member in self.live)
        self.at = torch.zeros(count, parts, self.width, dtype=torch.int64, device=device)
        self.given = torch.full_like(self.at, classes)
        self.lost = torch.zeros(count, parts, device=device)
        self.right = torch.zeros(count, dtype=torch.int64, device=device)
        self.every = torch.arange(count, device=device)
        self._settle()

    def run(self) -> None:
        """All steps; the members' networks and histories are filled in as they end."""
        number, event = 0, 0
        while self.live:
            if number == event:
                self._begin(number)
                event = min(member.began + member.parts for member in self.live)
            self._step(number)
            number += 1
            if number == event:
                self._end(number)

    @torch.no_grad()
    def _step(self, number: int) -> None:
        """One update of every member."""
        at, given, sizes = self._minibatch(number)
        x = self.inputs.index_select(0, at.flatten()).view(*at.shape, -1)
        masks = self._masks(sizes)
        logits, between = self.stack.forward(x, masks)
        losses, slope = cross_entropy(logits, given, self.class_weights, self.smoothing)
        if self.alike:
            self.lost[:, number - self.live[0].began] = losses
        else:
            self.lost[self.every, self.local] = losses
        self.stack.backward(slope, between, masks)
        if self.recipe.target_accuracy is not None:
            self.right += (logits.argmax(2) == given).sum(1)
        self.optimizer.step(
            [(a, b, learning_rate(self.recipe, number, total)) for a, b, total in self.stretches]
        )
        if self.average is not None and self.recipe.average is not None:
            keep = min(self.recipe.average, 1 - 1 / (number + 1))
            torch._foreach_lerp_(self.average, self.stack.weights, 1 - keep)

    def _minibatch(self, number: int) -> tuple[Tensor, Tensor, list[int]]:
        """Positions of the inputs and labels of this step, (S, n), and how many of each count."""
        if self.alike:
            part = number - self.live[0].began
            size = self.live[0].sizes[part]
            return self.at[:, part, :size], self.given[:, part, :size], [size] * len(self.live)
        parts = [number - member.began for member in self.live]
        sizes = [member.sizes[part] for member, part in zip(self.live, parts)]
        self.local = torch.tensor(parts, device=self.at.device)
        at, given = self.at[self.every, self.local], self.given[self.every, self.local]
        return at[:, : max(sizes)], given[:, : max(sizes)], sizes

    def _masks(self, sizes: Sequence[int]) -> list[Tensor]:
        """Dropout of this step, each member's drawn as in a fit of its own."""
        masks = []
        for layer, (rate, units) in enumerate(self.stack.drops):
            kept = torch.zeros(len(sizes), max(sizes), units, device=self.inputs.device)
            for mask, size, streams in zip(kept, sizes, self.streams):
                mask[:size].bernoulli_(1 - rate, generator=streams[layer])
            masks.append(kept.div_(1 - rate))
        return masks

    def _begin(self, number: int) -> None:
        """New orders for the members that begin an epoch with this step."""
        starting: dict[int, list[int]] = {}
        for i, member in enumerate(self.live):
            if number == member.began:
                starting.setdefault(member.count, []).append(i)
        for count, chosen in starting.items():
            orders = torch.stack(
                [torch.randperm(count, generator=self.live[i].order) for i in chosen]
            ).to(self.at.device)
            slots = torch.cat(
                [
                    part * self.width + torch.arange(size)
                    for part, size in enumerate(self.live[chosen[0]].sizes)
                ]
            ).to(self.at.device)
            members = torch.tensor(chosen, device=self.at.device)[:, None]
            for table, source in ((self.at, self.where), (self.given, self.targets)):
                kept = torch.stack([source[i][: self.live[i].count] for i in chosen])
                table.view(len(table), -1)[members, slots] = kept.gather(1, orders)

    @torch.no_grad()
    def _end(self, number: int) -> None:
        """What there is to do after the epochs that end before this step."""
        ended = [i for i, m in enumerate(self.live) if m.began + m.parts == number]
        lost, right = self.lost.cpu(), self.right.tolist()
        scores = self._validate(ended) if self.recipe.validation > 0 else {}
        over = []
        for i in ended:
            member = self.live[i]
            self._note_loss(member, lost[i, : member.parts], number - member.parts)
            tired = self._look(i, scores.get(i))
            target = self.recipe.target_accuracy
            if tired:
                member.stopped = "patience"
            elif target is not None and right[i] >= target * member.count:
                member.stopped = "target"
            elif member.epoch + 1 == member.epochs:
                member.stopped = "finished"
            member.epoch, member.began, member.steps = member.epoch + 1, number, number
            if member.stopped:
                over.append(i)
        self.right[ended] = 0
        for i in over:
            self._refuse_spoiled(i, number)
            final = self.live[i].weights or [w[i] for w in self._kept_weights()]
            self.stack.copy_to(final, self.live[i].layers)
        if over:
            self._keep([i for i in range(len(self.live)) if i not in set(over)])

    def _note_loss(self, member: Member, losses: Tensor, first: int) -> None:
        wrong = (~losses.isfinite()).nonzero()
        if len(wrong):
            at = int(wrong[0, 0])
            raise diverged(float(losses[at]), first + at, member.total, self.recipe)
        member.losses.append(float(losses.mean()))

    def _refuse_spoiled(self, i: int, number: int) -> None:
        """A last step may leave weights that no loss has seen yet."""
        if not all(bool(weight[i].isfinite().all()) for weight in self.stack.weights):
            raise diverged(float("nan"), number - 1, self.live[i].total, self.recipe)

    def _look(self, i: int, score: tuple[float, float] | None) -> bool:
        """Note a validation after an epoch; whether patience is at an end. See `Validation`."""
        member = self.live[i]
        if score is None:
            member.best_epoch = member.epoch
            return False
        member.accuracies.append(score[0])
        if score > member.best:
            member.best, member.best_epoch = score, member.epoch
            member.weights = [weight[i].clone() for weight in self._kept_weights()]
        return member.epoch - member.best_epoch >= self.recipe.patience

    def _validate(self, chosen: list[int]) -> dict[int, tuple[float, float]]:
        """Accuracy and minus cross-entropy of some members on the labels they keep apart."""
        members = [self.live[i] for i in chosen]
        longest = max(len(member.held) for member in members)
        weights = self._kept_weights()
        if len(chosen) < len(self.live):
            weights = [weight[chosen] for weight in weights]
        at = torch.zeros(len(chosen), longest, dtype=torch.int64, device=self.at.device)
        labels = torch.full_like(at, self.classes)
        for place, i in enumerate(chosen):
            member = self.live[i]
            at[place, : len(member.held)] = self.where[i][member.count :]
            labels[place, : len(member.held)] = self.targets[i][member.count :]
        right = torch.zeros(len(chosen), dtype=torch.int64)
        loss = torch.zeros(len(chosen), dtype=torch.float64)
        for start in range(0, longest, VALIDATION_BLOCK):
            block = at[:, start : start + VALIDATION_BLOCK]
            truth = labels[:, start : start + VALIDATION_BLOCK]
            logits = self.stack.logits(self.inputs[block], weights)
            right += (logits.argmax(2) == truth).sum(1).cpu()
            logs = logits.log_softmax(2).gather(2, truth.clamp(max=self.classes - 1)[..., None])
            loss -= logs[..., 0].masked_fill(truth == self.classes, 0).sum(1).cpu()
        return {
            i: (int(right[place]) / len(member.held), -float(loss[place]))
            for place, (i, member) in enumerate(zip(chosen, members))
        }

    def _kept_weights(self) -> list[Tensor]:
        """The weights that are kept in the end: the moving averages, where there are some."""
        return self.stack.weights if self.average is None else self.average

    def _keep(self, members: list[int]) -> None:
        """Go on without the members that have ended."""
        self.live = [self.live[i] for i in members]
        self.where = [self.where[i] for i in members]
        self.targets = [self.targets[i] for i in members]
        self.streams = [self.streams[i] for i in members]
        chosen = torch.tensor(members, dtype=torch.int64, device=self.at.device)
        self.stack.keep(chosen)
        self.optimizer.keep(chosen)
        if self.average is not None:
            self.average = [weight[chosen] for weight in self.average]
        self.class_weights, self.right = self.class_weights[chosen], self.right[chosen]
        self.at, self.given, self.lost = self.at[chosen], self.given[chosen], self.lost[chosen]
        self.every = self.every[: len(members)]
        self._settle()

    def _settle(self) -> None:
        """What follows from who is there."""
        totals = [member.total for member in self.live]
        cuts = [i for i in range(len(totals)) if i == 0 or totals[i] != totals[i - 1]]
        self.stretches = [(a, b, totals[a]) for a, b in zip(cuts, [*cuts[1:], len(totals)])]
        self.alike = len({member.count for member in self.live}) <= 1


def cross_entropy(
    logits: Tensor, labels: Tensor, class_weights: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    """The loss of each member's minibatch, and its derivatives by the logits.

    With t the smoothed one-hot label of a row, and w the weights of the classes, the loss of
    `torch.nn.functional.cross_entropy` is - sum_i sum_c w_c t_ic log p_ic / sum_i w_(y_i).

    Args:
        logits: (S, n, C).
        labels: (S, n) int64; C marks a row that does not count.
        class_weights: (S, C + 1), 0 for the class C.
        smoothing: the share of a label that is spread evenly over the classes.

    Returns:
        (S,) in nats, and (S, n, C).
    """
    classes = logits.shape[2]
    logs = logits.log_softmax(2)
    weights = class_weights.gather(1, labels)
    weights = weights / weights.sum(1, keepdim=True)
    named = labels.clamp(max=classes - 1)[..., None]
    sure = (1 - smoothing) * weights
    losses = -(logs.gather(2, named)[..., 0] * sure).sum(1)
    slope = logs.exp()
    if smoothing == 0:
        slope.mul_(sure[..., None])
    else:
        total = class_weights.gather(1, labels).sum(1)[:, None, None]
        spread = class_weights[:, None, :classes] * (smoothing / classes) / total
        spread = spread * (labels < classes)[..., None]
        losses -= (logs * spread).sum((1, 2))
        slope = slope * (sure[..., None] + spread.sum(2, keepdim=True)) - spread
    return losses, slope.scatter_add_(2, named, -sure[..., None])
