"""The optimization behind logistic regression: L-BFGS where the curvature is one at most.

Boehning's bound says that the curvature of a sum of cross-entropies is nowhere above
``x'x / 2``. In coordinates u with ``W = (x'x / 2 + penalty)^(-1/2) u`` the whole objective has
curvature at most one, and at least a fraction that depends on how sure the predictions are, not
on the features: tens of steps suffice whatever the features' scales.

Source:
    Boehning, "Multinomial logistic regression algorithm", Annals of the Institute of Statistical
    Mathematics 1992; Liu & Nocedal, "On the limited memory BFGS method for large scale
    optimization", Mathematical Programming 1989. The coordinates of n dimensions are ours.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from labelwise.kernels import fast_mm, linear
from labelwise.learners.linear import cholesky, factored_inverse, second_moment, triangular_inverse

MEMORY = 10
"""Pairs of steps that L-BFGS remembers."""

STEPS = 500
"""Steps after which a fit that has not converged ends; tens are usual."""

LONGEST = 2.0
"""Of a line search. Beyond, what a kernel cannot see of a vector would grow from step to step."""

LEVEL = 0.1
"""A line search ends where the slope is this small relative to the one at its start."""


class Optimum(NamedTuple):
    """Where an optimization ended.

    Attributes:
        weight: (c, D) for the features it was given.
        bias: (c,).
        state: what a fit at a nearby penalty, in the same space, may start from.
        steps: iterations taken.
    """

    weight: Tensor
    bias: Tensor
    state: Tensor
    steps: int


def optimum(
    space: _Space,
    targets: Tensor,
    penalty: float,
    *,
    tolerance: float = 1e-5,
    start: Tensor | None = None,
) -> Optimum:
    """Minimize ``sum of cross-entropies + penalty / 2 |W|^2``.

    Args:
        space: of the rows' features, see `whitened`.
        targets: (n, c), one where a row has the class.
        penalty: above zero; the fit is fastest at the space's own.
        tolerance: as in `Logistic`.
        start: the state of another fit in this space.
    """
    state, steps = _minimize(space, targets, penalty / space.penalty, tolerance, start)
    return Optimum(*space.head(state), state, steps)


def whitened(x: Tensor, penalty: float, kernel: Tensor | None = None) -> _Space:
    """The space to optimize in; float32 or float64, as the features are.

    Args:
        x: (n, D), centered.
        penalty: above zero.
        kernel: (n, n) ``x @ x.T``: then the problem is solved in n dimensions instead of D.

    Raises:
        InputError: a penalty too small for the precision.
    """
    return _Whitened(x, penalty) if kernel is None else _Kernel(x, kernel, penalty)


class _Whitened:
    """Weights for features whitened by ``x'x / 2 + penalty``: columns of z.

    In these coordinates ``penalty |W|^2`` is ``|u|^2 - |z u|^2 / 2``, which needs no matrix, and
    another penalty is a multiple of it: one space serves a few penalties near its own. A
    vector of the space is a pair (coefficients, image) of (m + 1, c) matrices; the coefficients
    of one times the image of another sum to the inner product. Here both are the same. The last
    row belongs to the intercept, in units in which its curvature is at most one as well.
    """

    def __init__(self, x: Tensor, penalty: float) -> None:
        self.intercept = (2 / len(x)) ** 0.5
        self.penalty = penalty
        self.inverse = triangular_inverse(cholesky(second_moment(x) / 2, penalty))
        self.z = linear(x, self.inverse)

    def zero(self, classes: int) -> Tensor:
        return self.z.new_zeros(2, self.z.shape[1] + 1, classes)

    def logits(self, vector: Tensor) -> Tensor:
        """(n, c) answers to the rows, without the intercept."""
        return fast_mm(self.z, vector[1, :-1])

    def gather(self, residual: Tensor, vector: Tensor) -> Tensor:
        """The vector ``z' residual + vector``, with a zero intercept."""
        out = torch.zeros_like(vector)
        out[:, :-1] = fast_mm(self.z.T, residual) + vector[0, :-1]
        return out

    def head(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (c, D) and intercepts (c,)."""
        weight = fast_mm(self.inverse.T, state[0, :-1])
        return weight.T, state[0, -1] * self.intercept


class _Kernel:
    """The same space through inner products of rows: a vector is ``z' a``, its image ``z z' a``.

    With M the inverse of ``kernel + 2 penalty``, ``z z'`` is ``2 (identity - 2 penalty M)``, so
    z itself is not needed, and the image of a state holds its logits.
    """

    def __init__(self, x: Tensor, kernel: Tensor, penalty: float) -> None:
        self.intercept = (2 / len(x)) ** 0.5
        self.x, self.penalty = x, penalty
        self.inverse = factored_inverse(cholesky(kernel, 2 * penalty))

    def zero(self, classes: int) -> Tensor:
        return self.x.new_zeros(2, len(self.x) + 1, classes)

    def logits(self, vector: Tensor) -> Tensor:
        """(n, c) answers to the rows, without the intercept."""
        return vector[1, :-1]

    def gather(self, residual: Tensor, vector: Tensor) -> Tensor:
        """The vector ``z' residual + vector``, with a zero intercept."""
        out = torch.zeros_like(vector)
        out[0, :-1] = residual + vector[0, :-1]
        # The inverse is symmetric, and linear() reads it as it lies in memory.
        solved = linear(out[0, :-1].T.contiguous(), self.inverse).T
        out[1, :-1] = 2 * (out[0, :-1] - 2 * self.penalty * solved)
        return out

    def head(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (c, D) and intercepts (c,)."""
        inside = (2 * state[0, :-1] - state[1, :-1]) / (2 * self.penalty)
        return fast_mm(self.x.T, inside).T, state[0, -1] * self.intercept


_Space: TypeAlias = _Whitened | _Kernel


def _minimize(
    space: _Space, targets: Tensor, ratio: float, tolerance: float, start: Tensor | None
) -> tuple[Tensor, int]:
    """L-BFGS; returns the state and how many steps it took.

    The objective is ``sum of cross-entropies(f + intercept) + ratio (|u|^2 - |f|^2 / 2) / 2``,
    with f the logits of u without the intercept.
    """
    state = space.zero(targets.shape[1])
    gradient = _gradient(space, ratio, state, torch.zeros_like(targets), targets)
    goal = tolerance * float(gradient[1].norm())
    logits = torch.zeros_like(targets)
    if start is not None:
        state = start
        logits = space.logits(state)
        gradient = _gradient(space, ratio, state, logits, targets)
    pairs: list[tuple[Tensor, Tensor, float]] = []
    for step in range(STEPS):
        if float(gradient[1].norm()) <= goal:
            return state, step
        direction = _two_loops(gradient, pairs)
        change = space.logits(direction)
        length = _line_search(space, ratio, state, direction, logits, change, targets)
        if length == 0.0:
            return state, step  # rounding leaves nothing to gain
        move = length * direction
        state, logits = state + move, logits + length * change
        following = _gradient(space, ratio, state, logits, targets)
        bend = following - gradient
        curvature = _dot(move, bend)
        if curvature > 0:
            pairs = [*pairs[1 - MEMORY :], (move, bend, curvature)]
        gradient = following
    return state, STEPS


def _dot(first: Tensor, second: Tensor) -> float:
    return float((first[0] * second[1]).sum(dtype=torch.float64))


def _gradient(
    space: _Space, ratio: float, state: Tensor, logits: Tensor, targets: Tensor
) -> Tensor:
    residual = (logits + space.intercept * state[0, -1]).softmax(1) - targets
    gradient = space.gather(residual - (ratio / 2) * logits, ratio * state)
    gradient[:, -1] = space.intercept * residual.sum(0)
    return gradient


def _two_loops(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, float]]) -> Tensor:
    """Minus the gradient times the approximate inverse curvature that the pairs describe."""
    direction = -gradient
    weights = []
    for move, bend, curvature in reversed(pairs):
        weights.append(_dot(move, direction) / curvature)
        direction = direction - weights[-1] * bend
    # No scaling to the last pair's curvature, as is usual elsewhere: here it is one at most.
    for (move, bend, curvature), weight in zip(pairs, reversed(weights), strict=True):
        direction = direction + (weight - _dot(bend, direction) / curvature) * move
    return direction


def _line_search(
    space: _Space,
    ratio: float,
    state: Tensor,
    direction: Tensor,
    logits: Tensor,
    change: Tensor,
    targets: Tensor,
) -> float:
    """How far to go along a direction: near the minimum, by Newton's method on the slope.

    Logits are linear along the line, so looking at a length needs no product with the data.
    Returns 0 when the slope at the start is not downhill.
    """
    base = logits + space.intercept * state[0, -1]
    along = change + space.intercept * direction[0, -1]
    tilt = _dot(state[:, :-1], direction[:, :-1]) - float((logits * change).sum()) / 2
    bend = _dot(direction[:, :-1], direction[:, :-1]) - float(change.square().sum()) / 2
    tilt, bend = ratio * tilt, ratio * max(bend, 0.0)

    def slope(length: float) -> tuple[float, float]:
        probs = (base + length * along).softmax(1)
        mean = (probs * along).sum(1)
        first = float(((probs - targets) * along).sum(dtype=torch.float64))
        second = float(((probs * along).mul_(along).sum(1) - mean.square()).sum())
        return first + tilt + length * bend, second + bend

    start, _ = slope(0.0)
    if not start < 0:
        return 0.0
    low, high, length = 0.0, float("inf"), 1.0
    for _ in range(30):
        value, curvature = slope(length)
        if abs(value) <= -LEVEL * start:
            return length
        low, high = (length, high) if value < 0 else (low, length)
        step = length - value / curvature if curvature > 0 else float("inf")
        middle = 2 * length if high == float("inf") else (low + high) / 2
        length = step if low < step < min(high, LONGEST) else min(middle, LONGEST)
        if low == LONGEST:
            break
    return low
