"""How a network is trained: the recipe, its schedules and optimizers, and the validation split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labelwise.errors import InputError, nearest
from labelwise.kernels import numpy_stream
from labelwise.learners.lars import LARS


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: passes over the labeled rows; more when ``min_steps`` asks for it.
        min_steps: at least this many updates, so that few labels still converge.
        minibatch: labeled rows in a step, at most. An epoch is split into equal parts, so no
            step is left with a few rows.
        unlabeled_minibatch: unlabeled rows in a step, for objectives that want them.
        optimizer: ``"sgd"`` (Nesterov momentum), ``"adam"``, ``"adamw"`` or ``"lars"`` (for
            large minibatches; see `LARS`).
        learning_rate: the largest of the schedule.
        momentum: of SGD and LARS.
        weight_decay: of matrices and filters; biases and normalizations have none.
        schedule: ``"constant"``, ``"cosine"`` (from the largest to 0) or ``"one_cycle"``
            (linearly up from 1/25 during the first ``warmup`` of the steps, then as cosine).
        warmup: share of the steps, in (0, 1).
        clip: largest norm of the whole gradient; None leaves it.
        validation: share of the labels, in [0, 1), kept apart to stop early by. These labels
            are paid for like any other. 0 trains on all of them to the end.
        patience: epochs without a better validation accuracy before stopping; the best
            weights are kept.
        target_accuracy: stop after an epoch whose accuracy on its own minibatches is at least
            this; None never does.
        average: decay of a moving average of the weights, in [0, 1), which is what is kept;
            None keeps the weights themselves.
        precision: ``"float32"`` or ``"bf16"`` (autocast).
        compile: whether ``torch.compile`` makes fewer and larger kernels of the network's passes
            in training; ``"auto"`` does so where it pays, see `labelwise.learners.compiling`.
            Numbers differ by rounding, and dropout draws the masks it would have drawn.
        device: such as ``"cpu"`` or ``"cuda"``; None takes CUDA where there is one.

    Raises:
        InputError: a value out of its range.
    """

    epochs: int = 100
    min_steps: int = 0
    minibatch: int = 128
    unlabeled_minibatch: int = 128
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup: float = 0.3
    clip: float | None = None
    validation: float = 0.0
    patience: int = 20
    target_accuracy: float | None = None
    average: float | None = None
    precision: str = "float32"
    compile: bool | str = False
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "minibatch", "unlabeled_minibatch", "patience"):
            require_whole(name, getattr(self, name), 1)
        require_whole("min_steps", self.min_steps, 0)
        for name, value, known in (
            ("optimizer", self.optimizer, ("sgd", "adam", "adamw", "lars")),
            ("schedule", self.schedule, ("constant", "cosine", "one_cycle")),
            ("precision", self.precision, ("float32", "bf16")),
        ):
            _require(value in known, name, f"one of {', '.join(known)}", value)
        positive = 0 < self.learning_rate < math.inf
        _require(positive, "learning_rate", "positive", self.learning_rate)
        _require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        _require(self.weight_decay >= 0, "weight_decay", "at least 0", self.weight_decay)
        _require(0 < self.warmup < 1, "warmup", "in (0, 1)", self.warmup)
        _require(self.clip is None or self.clip > 0, "clip", "positive or None", self.clip)
        _require(0 <= self.validation < 1, "validation", "in [0, 1)", self.validation)
        average = self.average
        _require(average is None or 0 <= average < 1, "average", "in [0, 1) or None", average)
        how = self.compile
        _require(isinstance(how, bool) or how == "auto", "compile", "True, False or 'auto'", how)
        target = self.target_accuracy
        _require(target is None or 0 < target <= 1, "target_accuracy", "in (0, 1]", target)

    def signature(self) -> dict[str, Any]:
        """Every field but the device, ``compile`` only where it is asked for; JSON-able."""
        fields = asdict(self)
        del fields["device"]
        if not self.compile:
            del fields["compile"]
        return fields


def require_whole(name: str, value: object, least: int) -> None:
    """Refuse an option that is no whole number of at least so many.

    >>> require_whole("epochs", 2.5, 1)
    Traceback (most recent call last):
    labelwise.errors.InputError: epochs must be a whole number, got 2.5
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    _require(whole, name, "a whole number", value)
    assert isinstance(value, int | np.integer)
    _require(int(value) >= least, name, f"at least {least}", value)


def _require(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise InputError(f"{name} must be {rule}, got {value!r}")


def adapt(recipe: Recipe, options: dict[str, Any], others: Sequence[str] = ()) -> Recipe:
    """A recipe with some fields changed.

    Args:
        recipe: the learner's own. options: fields to change.
        others: what else the learner takes, for messages.

    Raises:
        InputError: an option that is no field of a recipe, with the nearest ones.
    """
    known = [field.name for field in fields(Recipe)]
    for name in options:
        if name not in known:
            raise InputError(f"no option is called {name!r}; {nearest(name, [*others, *known])}")
    return replace(recipe, **options)


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """The learning rate of a step (from 0) among ``total``.

    Source:
        Cosine: Loshchilov & Hutter, ICLR 2017. One-cycle: Smith & Topin, 2017, with cosine
        on the way down.

    >>> [learning_rate(Recipe(learning_rate=1.0), step, 4) for step in (0, 2)]
    [1.0, 0.5]
    """
    if recipe.schedule == "constant":
        return recipe.learning_rate
    done = step / total
    if recipe.schedule == "one_cycle":
        if done < recipe.warmup:
            return recipe.learning_rate * (1 + 24 * done / recipe.warmup) / 25
        done = (done - recipe.warmup) / (1 - recipe.warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def diverged(value: float, step: int, total: int, recipe: Recipe) -> InputError:
    """The error of a loss that is not finite: which step, which learning rate, what to do."""
    return InputError(
        f"the loss is {value} at step {step} of {total} with learning rate "
        f"{learning_rate(recipe, step, total):.3g}: lower learning_rate (now "
        f"{recipe.learning_rate:g}), set clip=1.0, or look for extreme inputs"
    )


def make_optimizer(recipe: Recipe, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The recipe's optimizer over these parameters; only those of two axes or more decay."""
    groups: list[dict[str, Any]] = [{"params": list(parameters)}]
    if recipe.weight_decay > 0:
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2]},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
    if recipe.optimizer == "lars":
        return LARS(groups, recipe.learning_rate, recipe.momentum, recipe.weight_decay)
    common: dict[str, Any] = {
        "lr": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "fused": True,
    }
    if recipe.optimizer == "sgd":
        nesterov = recipe.momentum > 0
        return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=nesterov, **common)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, **common)
    return torch.optim.Adam(groups, **common)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """What an optimizer keeps of each parameter that has been updated, by its number."""
    return {
        number: dict(optimizer.state[parameter])
        for number, parameter in enumerate(_parameters(optimizer))
        if parameter in optimizer.state
    }


def put_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[int, dict[str, Any]]) -> None:
    """Put back what `optimizer_state` gave; tensors as in memory as their parameters are.

    Fused updates go through memory, so a moment whose axes are in another order would meet
    other entries.
    """
    for number, parameter in enumerate(_parameters(optimizer)):
        for name, value in state.get(number, {}).items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            optimizer.state[parameter][name] = value


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [each for group in optimizer.param_groups for each in group["params"]]


def pick_device(name: str | None) -> torch.device:
    """The device of that name; CUDA where there is one when no name is given.

    Raises:
        InputError: a device that torch does not know or that is not here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device {name!r} is not known to torch; try 'cpu' or 'cuda'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {name!r} is not here: torch finds no CUDA GPU; use 'cpu'")
    return device


def validation_split(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Which labels to train on and which to keep apart, stratified by class.

    Each class keeps apart its share, rounded so that the whole comes to ``share`` of all
    labels (at least one); a class never gives its last label.

    Args:
        labels: (L,) int64.
        share: in [0, 1).
        seed: the stream ``"validation"`` of it decides.

    Returns:
        Two int64 tensors of positions in ``labels``, ascending.

    Raises:
        InputError: a share above 0 of labels among which no class has two.
    """
    everything = torch.arange(len(labels))
    if share == 0:
        return everything, everything[:0]
    values = labels.cpu().numpy()
    classes, counts = np.unique(values, return_counts=True)
    total = max(1, round(share * len(values)))
    quota = share * counts
    taken = np.floor(quota).astype(int)
    # Largest remainders first; equal ones go to the larger class, then the lower label.
    ranking = np.lexsort((classes, -counts, taken - quota))
    for index in [*ranking, *ranking]:
        if taken.sum() < total and taken[index] < counts[index] - 1:
            taken[index] += 1
    if taken.sum() == 0:
        raise InputError(
            f"validation={share} needs a class with two labels: {len(values)} labels of "
            f"{len(classes)} classes; use validation=0"
        )
    stream = numpy_stream(seed, "validation")
    held = np.concatenate(
        [
            stream.permutation(np.flatnonzero(values == label))[:count]
            for label, count in zip(classes, taken, strict=True)
        ]
    )
    apart = torch.zeros(len(labels), dtype=torch.bool)
    apart[torch.from_numpy(held)] = True
    return everything[~apart], everything[apart]
