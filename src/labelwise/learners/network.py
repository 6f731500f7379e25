"""Any torch network as a learner: how it is built, fitted, and asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from labelwise.errors import InputError
from labelwise.kernels import Rows, derive
from labelwise.learners.base import Outputs, check_fit
from labelwise.learners.checkpoint import Checkpoint
from labelwise.learners.feeding import autocast
from labelwise.learners.networks import (
    dropouts,
    find_head,
    hidden_layers,
    posterior_draws,
    single,
)
from labelwise.learners.objectives import (
    CrossEntropy,
    Looks,
    Objective,
    Tapped,
    check_learns_labels,
    parse_objectives,
)
from labelwise.learners.recipe import Recipe, pick_device
from labelwise.learners.training import History, train

BLOCK_BYTES = 8 << 20
"""Bytes of float32 inputs that a minibatch of a prediction holds."""

Objectives = str | Sequence[str | Objective]


class NetworkModel:
    """A fitted network.

    Args:
        network: gives (n, C) logits; its last linear layer is the head.
        classes: C.
        recipe: the recipe it was fitted by, for device and precision.
        item_shape: the shape of an input row.
        signature: the learner that made it.
        history: what happened in the fit; None for a model that was loaded.
        objectives: those it was trained by, with what they learned.

    Attributes:
        head_weight: (C, D) float32.
        head_bias: (C,) float32, None for a head without.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: int,
        recipe: Recipe,
        item_shape: tuple[int, ...],
        signature: dict[str, Any],
        history: History | None = None,
        objectives: Sequence[Objective] = (),
    ) -> None:
        device = pick_device(recipe.device)
        self.objectives = tuple(objective.to(device) for objective in objectives)
        self.network = network.to(device).eval()
        self.classes = classes
        self.recipe = recipe
        self.item_shape = item_shape
        self.signature = signature
        self.history = history
        self._head = find_head(network, classes)
        bias = self._head.bias
        self.head_weight: Tensor | None = self._head.weight.detach().float().cpu()
        self.head_bias: Tensor | None = None if bias is None else bias.detach().float().cpu()

    def predict(self, inputs: Rows, rows: Tensor | None = None) -> Outputs:
        """Logits, probabilities and embeddings, in evaluation mode, minibatch by minibatch.

        Args:
            inputs: (N, ...) rows shaped as those that were fitted on.
            rows: (n,) int64; None for all.

        Returns:
            float32 tensors on the CPU.

        Raises:
            InputError: rows of another shape.
        """
        count = self._check(inputs, rows)
        logits = torch.empty(count, self.classes)
        embeddings = torch.empty(count, self._head.in_features)
        with torch.inference_mode(), Tapped(self.network, self._head) as forward:
            for start, block in self._blocks(inputs, rows):
                with autocast(self.recipe, block.device):
                    given, seen = forward(block)
                logits[start : start + len(block)] = given
                embeddings[start : start + len(block)] = seen
        return Outputs(logits, logits.softmax(1), embeddings)

    def logits(self, inputs: Tensor) -> Tensor:
        """(n, C) float32 logits of some inputs, in evaluation mode: differentiable by them."""
        given: Tensor = self.network(inputs.to(self._head.weight.device))
        return given.float()

    @property
    def hidden_weights(self) -> list[Tensor] | None:
        """Weights of the hidden layers of a perceptron of ReLU units, first to last, else None.

        Those of the first layer are of standardized inputs, where the network standardizes.
        """
        layers = [unit.weight.detach().float().cpu() for unit, _ in hidden_layers(self.network)]
        return layers or None

    def activations(self, inputs: Rows) -> Tensor:
        """Outputs of all hidden ReLU layers side by side, (N, H) float32 on the CPU.

        Raises:
            InputError: the network is no perceptron of ReLU units, or rows of another shape.
        """
        layers = hidden_layers(self.network)
        if not layers:
            raise InputError(
                "activations needs a network of Linear and ReLU in turn, such as MLP()"
            )
        count = self._check(inputs, None)
        out = torch.empty(count, sum(unit.out_features for unit, _ in layers))
        seen: list[Tensor] = []

        def see(relu: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            seen.append(made)

        hooks = [relu.register_forward_hook(see) for _, relu in layers]
        try:
            with torch.inference_mode():
                for start, block in self._blocks(inputs, None):
                    seen.clear()
                    self.network(block)
                    out[start : start + len(block)] = torch.cat(seen, 1)
        finally:
            for hook in hooks:
                hook.remove()
        return out

    def draws(self, inputs: Rows, *, samples: int, seed: int) -> Tensor:
        """Class distributions of posterior samples by dropout.

        A sample is a set of dropout masks, one entry of a mask per feature and the same for
        every row; so ``draws[s]`` is one function for the whole pool, as BALD and its batch
        forms assume.

        Args:
            inputs: (N, ...).
            samples: S, at least 1.
            seed: decides the masks, with the sample's number.

        Returns:
            (S, N, C) float32 on the CPU.

        Raises:
            InputError: the network has no dropout, or rows of another shape.

        Source:
            Gal & Ghahramani, "Dropout as a Bayesian Approximation", ICML 2016.
        """
        if not dropouts(self.network):
            raise InputError(
                "draws needs a network with torch.nn.Dropout, and this one has none; fit one with "
                "dropout, such as MLP(dropout=0.2)"
            )
        if samples < 1:
            raise InputError(f"samples must be at least 1, got {samples}")
        count = self._check(inputs, None)
        probs = torch.empty(samples, count, self.classes)
        with torch.inference_mode(), posterior_draws(self.network, seed) as choose:
            for start, block in self._blocks(inputs, None):
                for sample in range(samples):
                    choose(sample)
                    with autocast(self.recipe, block.device):
                        logits = self.network(block)
                    probs[sample, start : start + len(block)] = logits.float().softmax(1)
        return probs

    def objective_evidence(self, inputs: Rows) -> list[Callable[[], object]]:
        """What the objectives of the fit can say of a pool; see `Objective.evidence`.

        Raises:
            InputError: two of them give evidence of one name.
        """
        found: dict[str, Callable[[], object]] = {}
        for objective in self.objectives:
            for name, compute in objective.evidence(self, inputs).items():
                if name in found:
                    raise InputError(f"two objectives of this model give {name!r}: keep one")
                found[name] = _named(name, compute)
        return list(found.values())

    def per_row(
        self, inputs: Rows, compute: Callable[..., Tensor], layers: Sequence[nn.Module] = ()
    ) -> Tensor:
        """(N, ...) what a function makes of minibatches of rows, on the CPU; without gradients.

        Args:
            inputs: (N, ...) rows shaped as those that were fitted on.
            compute: of inputs (n, ...), logits (n, C), embeddings (n, D) and what `Tapped.look`
                gives of the layers, on the device, in evaluation mode, makes (n, ...).
        """
        self._check(inputs, None)
        parts = []
        with torch.no_grad(), Tapped(self.network, self._head, layers=layers) as forward:
            for _, block in self._blocks(inputs, None):
                with autocast(self.recipe, block.device):
                    *seen, made = forward.look(block)
                parts.append(compute(block, *(x.float() for x in (*seen, *made.values()))).cpu())
        return torch.cat(parts)

    def _check(self, inputs: Rows, rows: Tensor | None) -> int:
        if inputs.shape[1:] != self.item_shape:
            raise InputError(
                f"inputs must have rows of shape {self.item_shape}, as the model was fitted on, "
                f"got {inputs.shape[1:]}"
            )
        return len(inputs) if rows is None else len(rows)

    def _blocks(self, inputs: Rows, rows: Tensor | None) -> Iterator[tuple[int, Tensor]]:
        """Minibatches of the rows on the device, each with where it starts."""
        device = self._head.weight.device
        size = max(1, BLOCK_BYTES // (4 * max(1, torch.Size(self.item_shape).numel())))
        size = getattr(self.network, "rows_at_once", size)  # some scale images, or widen tokens
        if rows is None:
            for start, block in inputs.blocks(size):
                yield start, single(block.to(device))
            return
        for start in range(0, len(rows), size):
            yield start, single(inputs.take(rows[start : start + size]).to(device))


def _named(name: str, compute: Callable[[], object]) -> Callable[[], object]:
    """A provider of evidence: a function is known by its name."""

    def provider() -> object:
        return compute()

    provider.__name__ = name
    return provider


class NetworkLearner(ABC):
    """What all learners of networks share: build from a stream, train, wrap.

    Every fit starts from new weights. Continuing from the last round's saves time and costs
    accuracy (Ash & Adams, "On Warm-Starting Neural Network Training", NeurIPS 2020), and it
    would make a model depend on every round before it.

    Args:
        recipe: how it is trained.
        objectives: what is minimized, summed: objectives, names with options, or one text as
            `parse_objectives` takes it; cross-entropy by default.
    """

    name = "network"

    def __init__(self, recipe: Recipe, objectives: Objectives = ()) -> None:
        self.recipe = recipe
        chosen = (CrossEntropy(),) if objectives in ((), []) else parse_objectives(objectives)
        self.objectives: tuple[Objective, ...] = chosen

    def build(self, inputs: Rows, classes: int, seed: int) -> nn.Module:
        """A new network for these inputs; its parameters depend on the seed alone."""
        return self.empty(inputs.shape[1:], classes, seed)

    def build_many(self, inputs: Rows, classes: int, seeds: Sequence[int]) -> list[nn.Module]:
        """What `build` makes of each seed, where it can measuring the inputs once."""
        return [self.build(inputs, classes, seed) for seed in seeds]

    @abstractmethod
    def empty(self, item_shape: tuple[int, ...], classes: int, seed: int = 0) -> nn.Module:
        """A new network before it has seen any data, to load weights into."""

    def looks(self, item_shape: tuple[int, ...]) -> Looks:
        """How minibatches are changed at random; not at all by default."""
        return Looks()

    def signature(self) -> dict[str, Any]:
        """Everything that decides a fit besides data and seed."""
        return {
            "name": self.name,
            "recipe": self.recipe.signature(),
            "objectives": [objective.signature() for objective in self.objectives],
        }

    def fit(
        self,
        inputs: Rows,
        rows: Tensor,
        labels: Tensor,
        *,
        classes: int,
        seed: int,
        unlabeled: Tensor | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> NetworkModel:
        """Train a new network on the labeled rows; see `Learner.fit`.

        Args:
            inputs, rows, labels, classes, seed, unlabeled: see there.
            checkpoint: where a long fit keeps what it takes to go on after a break, and goes on
                from where that is there already; this fit's alone.

        Raises:
            DataError: the checkpoint is damaged, or of another fit, learner or version.
            InputError: what `check_fit`, `check_learns_labels` and `train` refuse.
        """
        check_fit(inputs, rows, labels, classes)
        check_learns_labels(self.objectives)
        network = self.build(inputs, classes, derive(seed, "weights"))
        history, trained = train(
            network,
            inputs,
            rows,
            labels,
            classes=classes,
            seed=seed,
            recipe=self.recipe,
            objectives=self.objectives,
            unlabeled=unlabeled,
            looks=self.looks(inputs.shape[1:]),
            checkpoint=checkpoint and checkpoint.of(learner=self.signature()),
        )
        return self.wrap(network, inputs.shape[1:], classes, history, trained)

    def untrained(self, inputs: Rows, *, classes: int, seed: int) -> NetworkModel:
        """The network that `fit` with this seed starts from, as a model."""
        network = self.build(inputs, classes, derive(seed, "weights"))
        return self.wrap(network, inputs.shape[1:], classes)

    def wrap(
        self,
        network: nn.Module,
        item_shape: tuple[int, ...],
        classes: int,
        history: History | None = None,
        objectives: Sequence[Objective] = (),
    ) -> NetworkModel:
        """A trained network as a model."""
        return NetworkModel(
            network,
            classes=classes,
            recipe=self.recipe,
            item_shape=item_shape,
            signature=self.signature(),
            history=history,
            objectives=objectives,
        )
