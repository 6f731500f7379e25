"""What objectives see of a minibatch: its rows, looked at in several ways, and what comes out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labelwise.errors import InputError
from labelwise.learners.parallel import Ranks

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
        ranks: the processes that share the work of a pass; this one alone by default.
        layers: more modules of the network whose outputs are wanted; see `look`.

    Attributes:
        run: what is called to pass rows through; the network itself, or its compiled form.
    """

    def __init__(
        self,
        network: nn.Module,
        head: nn.Linear,
        ranks: Ranks | None = None,
        layers: Sequence[nn.Module] = (),
    ) -> None:
        self.network = network
        self.run: Callable[[Tensor], Tensor] = network
        self.ranks = ranks or Ranks()
        self.norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
        self._head = head
        self._seen: Tensor | None = None
        self._layers = tuple(dict.fromkeys(layers))
        self._made: dict[nn.Module, Tensor] = {}
        self._widths: list[int] = []

    def __enter__(self) -> Self:
        self._hooks = [self._head.register_forward_pre_hook(self._see)]
        self._hooks += [layer.register_forward_hook(self._keep) for layer in self._layers]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _see(self, head: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._seen = given[0]

    def _keep(self, layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        self._made[layer] = made.flatten(2).mean(2) if made.ndim > 2 else made

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, C) and embeddings (n, D) of n inputs, in one pass.

        Raises:
            InputError: the network does not call its head, or not on one vector a row.
        """
        return self.look(inputs)[:2]

    def look(self, inputs: Tensor) -> tuple[Tensor, Tensor, dict[nn.Module, Tensor]]:
        """As a call, with the outputs of the further layers in the same pass.

        Those are (n, channels) each, by layer: an output of more axes is averaged over all but
        the first two.
        """
        logits, seen = self.ranks.spread(self._pass, inputs)
        if not self._layers:
            return logits, seen, {}
        seen, *made = seen.split(self._widths, 1)
        return logits, seen, dict(zip(self._layers, made))

    def _pass(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.run(inputs)
        seen, self._seen = self._seen, None
        made, self._made = self._made, {}
        if seen is None or seen.ndim != 2:
            got = "it is never called" if seen is None else f"got shape {tuple(seen.shape)}"
            raise InputError(
                f"the network's last torch.nn.Linear must be given one vector a row: {got}"
            )
        if self._layers:
            # Side by side, since what ranks gather is two tensors.
            parts = [seen, *(made[layer] for layer in self._layers)]
            self._widths = [part.shape[1] for part in parts]
            seen = torch.cat(parts, 1)
        return logits, seen


class Sight:
    """How a fit's rows are looked at: the network, the learner's looks, and their randomness.

    Args:
        forward: the network.
        looks: the learner's.
        noise: what augmentations draw from.
        classifying: whether labels are learned as well, from rows that are not distorted. Running
            statistics of batch normalization then go by those alone: distorted rows are unlike
            the ones that the classifier will be asked about.
    """

    def __init__(
        self, forward: Tapped, looks: Looks, noise: torch.Generator, *, classifying: bool = False
    ) -> None:
        self.forward = forward
        self.looks = looks
        self.noise = noise
        self.classifying = classifying

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

    __slots__ = (
        "_averages",
        "_guess",
        "_kind",
        "_outputs",
        "_raw",
        "_seen",
        "_sight",
        "inputs",
        "labels",
        "rows",
    )

    def __init__(
        self, raw: Tensor, rows: Tensor, labels: Tensor, sight: Sight, kind: Kind = "weak"
    ) -> None:
        self.inputs = sight.change(raw, kind)
        self.rows = rows
        self.labels = labels
        self._raw = raw
        self._kind = kind
        self._sight = sight
        self._seen: dict[tuple[Kind, int], View] = {}
        self._outputs: tuple[Tensor, Tensor] | None = None
        self._averages: dict[nn.Module, Tensor] = {}
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
    def averages(self) -> Mapping[nn.Module, Tensor]:
        """(n, channels) of each layer that objectives name, over its positions, with gradient."""
        self._both()
        return self._averages

    @property
    def guess(self) -> Tensor:
        """(n, C) class distributions by the network in training mode, without gradient.

        A pass made for it alone leaves the running statistics of batch normalization be.
        """
        if self._guess is None:
            if self._outputs is not None:
                logits = self._outputs[0].detach()
            else:
                with torch.no_grad():
                    logits = self.through(self.inputs, still=True)[0]
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

    def through(self, inputs: Tensor, *, still: bool = False) -> tuple[Tensor, Tensor]:
        """Logits (m, C) and embeddings (m, D) of other inputs, such as mixtures of rows.

        Args:
            inputs: (m, ...).
            still: whether batch normalization keeps its running statistics, for inputs that
                are unlike those the network will be asked about.
        """
        with _still(self._sight.forward.norms if still else ()):
            return self._sight.forward(inputs)

    def together(self, *others: View) -> None:
        """Pass this view and others through a network with batch normalization as one minibatch.

        Rows normalized apart (a few labeled ones, many unlabeled, hard looks at them) are each
        their own mean and variance, and the running ones, which serve in evaluation, are none of
        them. A network without has no such trouble, and nothing is done. Views whose outputs
        were computed before keep them: objectives that want more views come first in a step.
        """
        views = [view for view in dict.fromkeys((self, *others)) if view._outputs is None]
        if not self._sight.forward.norms or len(views) < 2:
            return
        forward = self._sight.forward
        with _still(self._quiet):
            logits, embeddings, averages = forward.look(torch.cat([view.inputs for view in views]))
        sizes = [len(view) for view in views]
        for view, *outputs in zip(views, logits.split(sizes), embeddings.split(sizes)):
            view._outputs = (outputs[0], outputs[1])
        for layer, average in averages.items():
            for view, part in zip(views, average.split(sizes)):
                view._averages[layer] = part

    def _look(self, kind: Kind, number: int) -> View:
        if (kind, number) not in self._seen:
            self._seen[kind, number] = View(self._raw, self.rows, self.labels, self._sight, kind)
        return self._seen[kind, number]

    def _both(self) -> tuple[Tensor, Tensor]:
        if self._outputs is None:
            with _still(self._quiet):
                logits, embeddings, self._averages = self._sight.forward.look(self.inputs)
            self._outputs = logits, embeddings
        return self._outputs

    @property
    def _quiet(self) -> Sequence[_BatchNorm]:
        """Batch normalizations whose running statistics a pass of this view leaves be."""
        if self._kind == "distorted" and self._sight.classifying:
            return self._sight.forward.norms
        return ()


@contextlib.contextmanager
def _still(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Inside, these normalize by the minibatch as ever and leave their running statistics be."""
    kept = []
    for norm in norms:
        batches = norm.num_batches_tracked
        if batches is not None:
            kept.append((norm, norm.momentum, batches, batches.clone()))
            norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, batches, before in kept:
            norm.momentum = momentum
            batches.copy_(before)
