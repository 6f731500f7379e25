"""What linear heads on frozen features share: their input, their arithmetic, their model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from labelwise.errors import InputError
from labelwise.kernels import Rows, fast_mm, linear, numpy_stream
from labelwise.learners.base import Outputs, check_fit

PRIOR_ROWS = 10
"""Rows' worth of belief that a feature varies as much as the features do on average."""

BLOCK = 1024
"""Rows and columns of a symmetric product that are computed at once."""

SMALL = 256
"""Triangles of at most this many rows are inverted by LAPACK, larger ones by products."""


class LinearModel:
    """A linear classifier: ``logits = x @ head_weight.T + head_bias``, ``probs`` their softmax.

    Attributes:
        classes: C.
        head_weight: (C, D) float32, in the space of the inputs themselves.
        head_bias: (C,) float32.
        report: how it was fitted: the regularization, what was tried, what it scored.
    """

    def __init__(self, weight: Tensor, bias: Tensor, report: dict[str, Any]) -> None:
        self.classes = len(weight)
        self.head_weight: Tensor | None = weight
        self.head_bias: Tensor | None = bias
        self.report = report

    def logits(self, inputs: Tensor) -> Tensor:
        """(n, C) logits of (n, D) inputs, differentiable by them."""
        weight, bias = self.head_weight, self.head_bias
        assert weight is not None
        assert bias is not None
        x = inputs.to(weight.device, weight.dtype)
        return functional.linear(x, weight, bias)

    def predict(self, inputs: Rows, rows: Tensor | None = None) -> Outputs:
        """Outputs of some rows, or of all; reads a file of any size in blocks.

        Raises:
            InputError: inputs of another width.
        """
        weight, bias = self.head_weight, self.head_bias
        assert weight is not None
        assert bias is not None
        width = weight.shape[1]
        if inputs.ndim != 2 or inputs.shape[1] != width:
            raise InputError(f"inputs must have shape (N, {width}), got {inputs.shape}")
        count = len(inputs) if rows is None else len(rows)
        weight, bias = weight.to(inputs.device), bias.to(inputs.device)
        logits = torch.empty(count, self.classes, device=inputs.device)
        size = inputs.block_size()
        buffer = torch.empty(min(size, count), width, device=inputs.device)
        for start in range(0, count, size):
            stop = min(start + size, count)
            block = inputs.block(start, stop) if rows is None else inputs.take(rows[start:stop])
            features = buffer[: stop - start].copy_(block)
            logits[start:stop] = linear(features, weight, bias)
        embeddings = inputs if rows is None else inputs.take(rows)
        return Outputs(logits, logits.softmax(1), embeddings)


class Problem(NamedTuple):
    """The labeled rows, ready to be fitted; n rows, D features, c present classes.

    Attributes:
        x: (n, D) float32, centered and scaled so that a row's squared length is 1 on average.
        mean: (D,) float64, scale: (D,) float64: ``x = (input - mean) / scale``.
        y: (n,) int64 in 0..c-1, positions in ``present``.
        present: (c,) int64, the classes that labeled rows show, ascending.
        classes: C, all declared classes.
    """

    x: Tensor
    mean: Tensor
    scale: Tensor
    y: Tensor
    present: Tensor
    classes: int

    @property
    def targets(self) -> Tensor:
        """(n, c): one where a row has the class, else zero."""
        return functional.one_hot(self.y, len(self.present)).to(self.x.dtype)

    @property
    def dual(self) -> bool:
        """Whether a matrix of rows is smaller than a matrix of features."""
        return self.x.shape[0] <= self.x.shape[1]

    def take(self, rows: Tensor) -> Problem:
        """The same problem with some of the rows only; nothing is centered anew."""
        return self._replace(x=self.x[rows], y=self.y[rows])

    def model(self, weight: Tensor, bias: Tensor, report: dict[str, Any]) -> LinearModel:
        """A model in the inputs' own space.

        A class without a labeled row gets no weight and a constant logit, ``log(n + C)`` below
        the average logit of the others, hence a probability of at most ``1 / (n + C) / c``.

        Args:
            weight: (c, D) for ``x``. bias: (c,).
        """
        wide = weight.double() / self.scale
        offset = bias.double() - wide @ self.mean
        # Adding one number to every class changes no probability; so the mean can be zero.
        wide, offset = wide - wide.mean(0), offset - offset.mean()
        full = torch.zeros(self.classes, wide.shape[1], device=wide.device)
        full_bias = torch.full((self.classes,), -math.log(len(self.y) + self.classes))
        full_bias = full_bias.to(wide.device)
        full[self.present], full_bias[self.present] = wide.float(), offset.float()
        return LinearModel(full, full_bias, report)


def prepare(inputs: Rows, rows: Tensor, labels: Tensor, classes: int) -> Problem:
    """Gather, check and standardize the labeled rows.

    A feature is divided by its own standard deviation over the labeled rows, drawn towards the
    average feature's as if `PRIOR_ROWS` more rows had varied as that one does. So a feature that
    happens to be constant in a few labeled rows is not blown up in the rest of the pool.

    Raises:
        InputError: a labeled set that `check_fit` refuses, inputs that are not (N, D), or a
            feature that is not finite.
    """
    check_fit(inputs, rows, labels, classes)
    if inputs.ndim != 2:
        raise InputError(
            f"a linear head needs features of shape (N, D), got {inputs.shape}; "
            "encode the items first"
        )
    x = inputs.take(rows)
    x = x if x.dtype == torch.float64 else x.float()
    mean = x.mean(0, dtype=torch.float64)
    x = (x - mean.to(x.dtype)).float()
    variance = x.square().mean(0, dtype=torch.float64)
    if not bool(variance.isfinite().all()):
        wrong = (~x.isfinite()).any(0).nonzero()
        column = int(wrong[0, 0]) if len(wrong) else int((~variance.isfinite()).nonzero()[0, 0])
        column_values = inputs.take(rows)[:, column]
        bad = (~column_values.isfinite()).nonzero()
        at = int(rows[int(bad[0, 0])]) if len(bad) else int(rows[0])
        raise InputError(
            f"features must be finite and below 1e18, but row {at} holds "
            f"{float(inputs.take(torch.tensor([at]))[0, column])} in column {column}"
        )
    scale = _scale(variance, len(rows))
    present, y = torch.unique(labels.to(x.device), return_inverse=True)
    return Problem(x.div_(scale.float()), mean, scale, y, present, classes)


def feature_units(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale (D,) of labeled rows (L, D) float64, as `prepare` standardizes by."""
    mean = x.mean(0)
    return mean, _scale((x - mean).square().mean(0), len(x))


def _scale(variance: Tensor, rows: int) -> Tensor:
    """What to divide features by, from their variances (D,) over so many labeled rows."""
    average = variance.mean()
    if not average > 0:
        return torch.ones_like(variance)
    drawn = (rows * variance + PRIOR_ROWS * average) / (rows + PRIOR_ROWS)
    return (drawn * len(variance)).sqrt()


def constant_model(problem: Problem) -> LinearModel:
    """The model of a labeled set with a single class: it predicts that class everywhere."""
    width = problem.x.shape[1]
    zeros = torch.zeros(1, width, device=problem.x.device)
    return problem.model(zeros, zeros[:, 0], {"head": "constant"})


def gram(x: Tensor) -> Tensor:
    """``x @ x.T`` for (n, D), each pair of rows multiplied once."""
    n = len(x)
    out = x.new_empty(n, n)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        part = linear(x[start:], x[start:stop])
        out[start:, start:stop] = part
        out[start:stop, stop:] = part[stop - start :].T
    return out


def second_moment(x: Tensor) -> Tensor:
    """``x.T @ x`` for (n, D), summed over blocks of rows."""
    total = x.new_zeros(x.shape[1], x.shape[1])
    for block in x.split(8 * BLOCK):
        total += gram(block.T.contiguous())
    return total


def cholesky(matrix: Tensor, penalty: float) -> Tensor:
    """The lower triangular factor of ``matrix + penalty * identity``, for (n, n) symmetric.

    Raises:
        InputError: the sum is not positive definite in its precision.
    """
    shifted = matrix.clone()
    shifted.diagonal().add_(penalty)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    if bool(failed):
        raise InputError(
            f"penalty must be large enough for {str(matrix.dtype)[6:]} arithmetic to tell it from "
            f"zero, got {penalty:g} where a row's squared length is 1; ten times as much may do"
        )
    return factor


def triangular_inverse(factor: Tensor) -> Tensor:
    """The inverse of a lower triangular matrix (n, n), by products of its blocks.

    >>> triangular_inverse(torch.tensor([[2.0, 0.0], [2.0, 1.0]]))
    tensor([[ 0.5000,  0.0000],
            [-1.0000,  1.0000]])
    """
    n = len(factor)
    if n <= SMALL:
        identity = torch.eye(n, dtype=factor.dtype, device=factor.device)
        return torch.linalg.solve_triangular(factor, identity, upper=False)
    half = n // 2
    out = torch.zeros_like(factor)
    out[:half, :half] = triangular_inverse(factor[:half, :half])
    out[half:, half:] = triangular_inverse(factor[half:, half:])
    below = fast_mm(factor[half:, :half].contiguous(), out[:half, :half])
    out[half:, :half] = fast_mm(out[half:, half:].contiguous(), below).neg_()
    return out


def factored_inverse(factor: Tensor) -> Tensor:
    """The inverse of ``factor @ factor.T``, for a lower triangular (n, n).

    Matrix products throughout: LAPACK's way has less arithmetic and takes several times longer.
    """
    columns = triangular_inverse(factor).T.contiguous()
    out = torch.empty_like(columns)
    for start in range(0, len(columns), BLOCK):
        stop = start + BLOCK
        # Row i of the triangle's transpose is zero before column i.
        part = linear(columns[start:, start:].contiguous(), columns[start:stop, start:])
        out[start:, start:stop] = part
        out[start:stop, start:] = part.T
    return out


class Score(NamedTuple):
    """How well held-out rows were predicted. ``loss`` is in nats a row."""

    loss: float
    accuracy: float
    rows: int


def score(logits: Tensor, y: Tensor) -> Score:
    """Mean cross-entropy and accuracy of (n, c) logits, classes (n,)."""
    if len(y) == 0:
        return Score(math.nan, math.nan, 0)
    loss = float(functional.cross_entropy(logits, y))
    return Score(loss, float((logits.argmax(1) == y).double().mean()), len(y))


def pooled(scores: Sequence[Score]) -> Score:
    """The score over several folds together."""
    rows = sum(part.rows for part in scores)
    loss = sum(part.loss * part.rows for part in scores) / rows
    return Score(loss, sum(part.accuracy * part.rows for part in scores) / rows, rows)


def temperature(scores: Tensor, y: Tensor) -> float:
    """The factor that makes scores into logits with the least cross-entropy.

    Cross-entropy is convex in the factor; Newton's method in its logarithm finds it. The targets
    are softened by one row's worth in n + 1, so that perfect predictions have a finite answer.

    Args:
        scores: (n, c) scores of rows that the scorer was not fitted on. y: (n,) their classes.

    Returns:
        A number in [1e-3, 1e3]; 1 where scores say nothing.

    Source:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017; the softening is that
        of Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
    """
    scores = scores.double()
    n, c = scores.shape
    soft = functional.one_hot(y, c).double() * (n / (n + 1)) + 1 / (n + 1) / c
    wanted = (soft * scores).sum(1)
    low, high, factor = 1e-3, 1e3, 1.0
    for _ in range(60):
        probs = (factor * scores).softmax(1)
        mean = (probs * scores).sum(1)
        slope = float((mean - wanted).mean())
        curvature = float(((probs * scores.square()).sum(1) - mean.square()).mean())
        if abs(slope) <= 1e-9 or curvature <= 0:
            break
        low, high = (low, factor) if slope > 0 else (factor, high)
        step = factor - slope / curvature
        # Newton's step while it stays between the bounds, else the middle in logarithms.
        following = step if low < step < high else math.sqrt(low * high)
        if abs(following - factor) <= 1e-6 * factor:
            break
        factor = following
    return factor


def descend(
    evaluate: Callable[[float], Score], start: float, *, low: float, high: float
) -> tuple[float, dict[float, Score]]:
    """The value with the least loss on a grid of two steps a decade, by walking downhill.

    Args:
        evaluate: called once for each value that is looked at.
        start: where to begin. low, high: bounds of the walk.

    Returns:
        The best value, and the score of every value tried.
    """
    step = math.sqrt(10)
    tried = {start: evaluate(start)}
    best = start
    for factor in (1 / step, step):
        value = start * factor
        while low <= value <= high:
            tried[value] = evaluate(value)
            if not tried[value].loss < tried[best].loss:
                break
            best, value = value, value * factor
        if best != start:
            break
    return best, tried


def folds(y: Tensor, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Stratified pairs of (kept, held-out) rows: five folds, or a single fifth of many rows.

    A class keeps at least one row, so classes with a single row are never held out.

    Args:
        y: (n,) classes.

    Returns:
        Pairs of int64 row numbers, ascending; empty when no class has two rows. Above 2,000
        rows only the first fold is returned: it is then large enough.
    """
    numbers = numpy_stream(seed, "validation")
    classes = y.cpu().numpy()
    fold = np.full(len(classes), -1)
    offset = 0
    for label in np.unique(classes):
        rows = numbers.permutation(np.flatnonzero(classes == label))
        if len(rows) > 1:
            fold[rows] = (offset + np.arange(len(rows))) % 5
            offset += len(rows)
    pairs = []
    for number in range(1 if len(y) > 2000 else 5):
        held = torch.from_numpy(np.flatnonzero(fold == number)).to(y.device)
        kept = torch.from_numpy(np.flatnonzero(fold != number)).to(y.device)
        if len(held):
            pairs.append((kept, held))
    return pairs
