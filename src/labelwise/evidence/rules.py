"""What every known evidence must look like, declared once, checked in one pass over blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labelwise.errors import InputError
from labelwise.kernels import Rows

TOLERANCE = 1e-2
"""How far from 1 a row of ``probs`` may sum: float16 and rounded files stay within it."""


class Checked(Rows):
    """Rows that have passed the rule of the evidence they are named for."""

    def __init__(self, source: Any, name: str, block_bytes: int | None = None) -> None:
        super().__init__(source, name, block_bytes)


def as_float(block: Tensor) -> Tensor:
    """A block ready for arithmetic: float64 as it is, everything else as float32.

    Half precision is slow on a CPU and overflows at 65,504.
    """
    return block if block.dtype == torch.float64 else block.float()


def rows_first(draws: Rows) -> Rows:
    """A (N, S, C) view of (S, N, C) draws, to be read in blocks of pool rows."""
    return draws.swapped()


def row_numbers(rows: Rows, size: int | None) -> Tensor:
    """Row numbers of a pool, checked: whole, in range, each once.

    Args:
        rows: (M,) integers; an empty list of any type is no rows.
        size: N, the pool's size, when it is known.

    Returns:
        (M,) int64 on the CPU, in the order given.

    Raises:
        InputError: not whole numbers, negative, beyond the pool, or repeated.

    >>> row_numbers(Rows([3, 1], "labeled"), 4)
    tensor([3, 1])
    """
    numbers = _whole(rows, "row numbers (a mask becomes them with numpy.flatnonzero)")
    limit = "" if size is None else f" in 0..{size - 1}"
    wrong = numbers < 0 if size is None else (numbers < 0) | (numbers >= size)
    if wrong.any():
        at = int(wrong.nonzero()[0])
        raise InputError(
            f"{rows.name} must be rows of the pool{limit}, but entry {at} is {int(numbers[at])}"
        )
    ordered = numbers.sort().values
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise InputError(
            f"{rows.name} must name each row once, but row {int(twice[0])} is there twice"
        )
    return numbers


def _whole(rows: Rows, what: str) -> Tensor:
    """A list of whole numbers as int64 on the CPU."""
    if rows.ndim != 1:
        raise InputError(f"{rows.name} must be a list of {what}, got shape {rows.shape}")
    if len(rows) == 0:
        return torch.zeros(0, dtype=torch.int64)
    if rows.dtype == torch.bool or rows.dtype.is_floating_point:
        kind = str(rows.dtype).removeprefix("torch.")
        raise InputError(f"{rows.name} must be a list of {what}, got {kind} values")
    return rows.tensor().to("cpu", torch.int64)


def _classes(rows: Rows, name: str) -> None:
    numbers = _whole(rows, "class numbers 0..C-1 (names become them with numpy.unique)")
    if len(numbers) and int(numbers.min()) < 0:
        at = int((numbers < 0).nonzero()[0])
        raise InputError(f"{name} must be classes 0..C-1, but entry {at} is {int(numbers[at])}")


def _distinct(rows: Rows, name: str) -> None:
    row_numbers(rows, None)


def _finite(rows: Rows, name: str) -> None:
    """Refuse NaN and infinity. A block's sum is NaN or infinite when one of its values is."""
    if not rows.dtype.is_floating_point:
        return
    for start, block in rows.blocks():
        values = as_float(block)
        if torch.isfinite(values.sum()):
            continue
        bad = ~torch.isfinite(values).flatten(1).all(1) if values.ndim > 1 else ~values.isfinite()
        if bad.any():  # else finite numbers whose sum overflowed
            first = int(bad.nonzero()[0])
            _refuse_values(name, start + first, values[first].flatten())


def _distributions(rows: Rows, name: str) -> None:
    """Refuse rows that are no class distributions."""
    for start, block, draw in _by_pool_row(rows):
        values = as_float(block)
        sums = values.sum(-1)
        # Written so that NaN, which compares false with everything, counts as bad.
        bad = ~((sums - 1).abs() <= TOLERANCE) | (values.amin(-1) < 0)
        if not bad.any():
            continue
        at = tuple(int(i) for i in bad.nonzero()[0])
        where = f"row {start + at[0]}" + (f" of draw {at[1]}" if draw else "")
        if not torch.isfinite(values[at]).all():
            _refuse_values(name, where, values[at])
        shown = ", ".join(f"{v:.4g}" for v in values[at][:4].tolist())
        more = ", ..." if values.shape[-1] > 4 else ""
        raise InputError(
            f"{name}: {where} must be >= 0 and sum to 1 within {TOLERANCE}, but is "
            f"[{shown}{more}] with sum {float(sums[at]):.4g}; "
            + (
                "take the softmax over the classes first"
                if draw
                else "if these are logits, pass them as logits="
            )
        )


def _by_pool_row(rows: Rows) -> Iterator[tuple[int, Tensor, bool]]:
    draws = rows.ndim == 3
    for start, block in (rows_first(rows) if draws else rows).blocks():
        yield start, block, draws


def _refuse_values(name: str, where: int | str, values: Tensor) -> None:
    column = int((~torch.isfinite(values)).nonzero()[0])
    place = where if isinstance(where, str) else f"row {where}"
    raise InputError(
        f"{name} must be finite, but {place} holds {float(values[column])} in column {column}; "
        "repair the row or leave it out of the pool"
    )


def _annotations(rows: Rows, name: str) -> None:
    if rows.shape[1] != 3 or rows.dtype.is_floating_point or rows.dtype == torch.bool:
        kind = str(rows.dtype).removeprefix("torch.")
        raise InputError(
            f"{name} must be (A, 3) whole numbers: row, annotator and class of each annotation; "
            f"got {rows.shape} {kind} values"
        )


def _costs(rows: Rows, name: str) -> None:
    _finite(rows, name)
    values = rows.tensor()
    if len(values) and not bool((values > 0).all()):
        at = int((~(values > 0)).nonzero()[0])
        raise InputError(f"{name} must be > 0, but entry {at} is {float(values[at]):.6g}")


def _shares(rows: Rows, name: str) -> None:
    _finite(rows, name)
    values = rows.tensor()
    wrong = ((values < 0) | (values > 1)).nonzero()
    if len(wrong):
        at = int(wrong[0, 0])
        raise InputError(f"{name} must be in [0, 1], but row {at} is {float(values[at]):.6g}")


def _model(value: Any, name: str) -> None:
    if not callable(value):
        raise InputError(f"{name} must be a function from inputs to logits, got {value!r}")
    if isinstance(value, nn.Module) and value.training:
        raise InputError(f"{name} must be in evaluation mode: call its eval() first")


def _layers(value: Any, name: str) -> None:
    """Refuse what is no list of matrices each of which takes what the one before gives."""
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{name} must be a list of matrices, first layer first, got {value!r:.60}")
    width = None
    for number, layer in enumerate(value):
        rows = Rows(layer, f"{name}[{number}]")
        if rows.ndim != 2 or (width is not None and rows.shape[1] != width):
            takes = "(units, entries of an input)" if width is None else f"(units, {width})"
            raise InputError(f"{rows.name} must be a matrix {takes}, got shape {rows.shape}")
        _finite(rows, rows.name)
        width = rows.shape[0]


def _count(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{name} must be a whole number >= 0, got {value!r}")


def _share(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"{name} must be a number in [0, 1], got {value!r}")


def _record(value: Any, name: str) -> None:
    if not isinstance(value, Mapping):
        raise InputError(
            f"{name} must be what earlier picks have as their state, got {type(value).__name__}"
        )


@dataclass(frozen=True)
class Rule:
    """What an evidence of one name must look like.

    Attributes:
        axes: a letter for each axis; the same letter is the same number in all evidence of a
            call (N pool rows, C classes, D embedding columns, S draws, L labeled rows); ``...``
            is one axis or more of any length. No axes: a number, a record, or an object.
        meaning: one line, told to whoever has to provide it.
        check: refuses values that break the rule.
    """

    axes: tuple[str, ...]
    meaning: str
    check: Callable[[Any, str], None]

    @property
    def shape(self) -> str:
        """The axes as people write them: ``(N, C)``."""
        return f"({', '.join(self.axes)}{',' if len(self.axes) == 1 else ''})"


RULES: Mapping[str, Rule] = {
    "logits": Rule(("N", "C"), "class scores before the softmax", _finite),
    "probs": Rule(("N", "C"), "class distributions, one a row", _distributions),
    "embeddings": Rule(("N", "D"), "features, the input of the last layer", _finite),
    "draws": Rule(("S", "N", "C"), "class distributions of S posterior samples", _distributions),
    "target_draws": Rule(("S", "T", "C"), "draws at points to be predicted", _distributions),
    "head_weight": Rule(("C", "D"), "the last layer's weight", _finite),
    "head_bias": Rule(("C",), "the last layer's bias", _finite),
    "inputs": Rule(("N", "..."), "what the model is given", _finite),
    "model": Rule((), "a function from a block of inputs to logits, differentiable", _model),
    "activations": Rule(("N", "H"), "outputs of all hidden ReLU layers, side by side", _finite),
    "hidden_weights": Rule((), "a list of the hidden layers' weights, first to last", _layers),
    "labeled": Rule(("L",), "rows of the pool that have labels", _distinct),
    "labels": Rule(("L",), "classes of the labeled rows", _classes),
    "query_probs": Rule(("Q", "C"), "class distributions of query points", _distributions),
    "query_embeddings": Rule(("Q", "D"), "features of query points", _finite),
    "query_labels": Rule(("Q",), "true classes of query points", _classes),
    "private_probs": Rule(("P", "C"), "class distributions of private points", _distributions),
    "private_embeddings": Rule(("P", "D"), "features of private points", _finite),
    "private_labels": Rule(("P",), "true classes of private points", _classes),
    "annotations": Rule(("A", "3"), "row, annotator and class of each annotation", _annotations),
    "costs": Rule(("N",), "what labeling each row costs, > 0", _costs),
    "oracle_labels": Rule(("N",), "true classes, which only a simulation knows", _classes),
    "round": Rule((), "which round this is, the first is 0", _count),
    "rounds": Rule((), "how many rounds there will be", _count),
    "state": Rule((), "what its last picks left behind: their state, or a .json file", _record),
    "previous_probs": Rule(("N", "C"), "probs of the model of the round before", _distributions),
    "predicted_loss": Rule(("N",), "loss a module of the network expects of each row", _finite),
    "latent_discriminator": Rule(("N",), "belief that each row is a labeled one", _shares),
    "pretext_loss": Rule(("N",), "loss of a task without labels, such as rotation", _finite),
    "critic": Rule(("N",), "how unlike the labeled rows a critic finds each row", _finite),
    "distinctiveness": Rule(("N",), "how unusually a pretrained network sees each row", _shares),
    "validation_accuracy": Rule((), "of the model on rows held out, in [0, 1]", _share),
}
"""The evidence labelwise knows by name. Evidence of any other name reaches a strategy as it is."""

OBJECTS = frozenset({"model", "hidden_weights"})
"""Evidence that is neither an array nor plain data, so that it cannot come from a file."""

NUMBERS = frozenset({"labeled", "labels", "query_labels", "private_labels", "oracle_labels"})
"""Evidence that reaches a strategy as an int64 tensor on the CPU."""


def check(name: str, value: Any, sizes: dict[str, tuple[int, str]] | None = None) -> Any:
    """Check one evidence against the rule of its name.

    Args:
        name: a name in `RULES`, or any other, which has no rule.
        value: an array (anything `Rows` takes) or a number.
        sizes: what is known of the axes' lengths: letter -> (length, who said so). The lengths
            of this evidence are added.

    Returns:
        A `Checked` for an array, an int64 tensor for those in `NUMBERS`, else the value.
        A `Checked` of the same name comes back without being read again.

    Raises:
        InputError: a wrong number of axes, a length that disagrees with another evidence, or
            values that break the rule; the message names the first such row.

    >>> check("probs", [[0.5, 0.5], [2.0, -1.0]])
    Traceback (most recent call last):
        ...
    labelwise.errors.InputError: probs: row 1 must be >= 0 and sum to 1 within 0.01, but is
    [2, -1] with sum 1; if these are logits, pass them as logits=
    """
    rule = RULES.get(name)
    if rule is None:
        return value
    if not rule.axes:
        rule.check(value, name)
        return value
    done = isinstance(value, Checked) and value.name == name
    rows = value if done else Checked(value, name)
    check_shape(name, rows, {} if sizes is None else sizes)
    if not done:
        rule.check(rows, name)
    return _whole(rows, "whole numbers") if name in NUMBERS else rows


def fits(rows: Rows, axes: tuple[str, ...]) -> bool:
    """Whether an array has as many axes as its rule says; ``...`` stands for one or more."""
    return rows.ndim >= len(axes) if "..." in axes else rows.ndim == len(axes)


def check_shape(name: str, rows: Rows, sizes: dict[str, tuple[int, str]]) -> None:
    """Check only the number of axes and their lengths; see `check`."""
    axes = RULES[name].axes
    if rows.dtype.is_complex:
        raise InputError(f"{name} must hold real numbers, got {rows.dtype}")
    if not fits(rows, axes):
        raise InputError(
            f"{name} must be {RULES[name].shape}, {RULES[name].meaning}, got shape {rows.shape}"
        )
    for axis, length in zip(axes, rows.shape):
        if axis == "...":
            break
        if length == 0 and axis not in ("L", "A", "P"):
            raise InputError(
                f"{name} must be {RULES[name].shape} with no axis empty, got {rows.shape}"
            )
        known, source = sizes.setdefault(axis, (length, name))
        if known != length:
            raise InputError(
                f"{name} {rows.shape} says the number of {_AXES[axis]} is {length}, but {source} "
                f"says {known}; pass evidence of one pool and one model"
            )


_AXES = {
    "N": "pool rows",
    "C": "classes",
    "D": "embedding columns",
    "S": "draws",
    "T": "target points",
    "L": "labeled rows",
    "Q": "query points",
    "P": "private points",
    "H": "hidden units",
    "A": "annotations",
    "3": "columns of annotations",
}
