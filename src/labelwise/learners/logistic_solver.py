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

from labelwise.kernels import linear
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
    state, steps = _minimize(
        space, targets.T.contiguous(), penalty / space.penalty, tolerance, start
    )
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
    vector of the space is a pair (coefficients, image) of (c, m + 1) matrices; the coefficients
    of one times the image of another sum to the inner product. Here both are the same. The last
    column belongs to the intercept, in units in which its curvature is at most one as well.
    Classes come first because a softmax over the first axis is several times faster.
    """

    def __init__(self, x: Tensor, penalty: float) -> None:
        self.intercept = (2 / len(x)) ** 0.5
        self.penalty = penalty
        self.inverse = triangular_inverse(cholesky(second_moment(x) / 2, penalty))
        self.z = linear(x, self.inverse)

    def zero(self, classes: int) -> Tensor:
        return self.z.new_zeros(2, classes, self.z.shape[1] + 1)

    def logits(self, vector: Tensor) -> Tensor:
        """(c, n) answers to the rows, without the intercept."""
        return linear(vector[1, :, :-1].contiguous(), self.z)

    def gather(self, residual: Tensor, vector: Tensor) -> Tensor:
        """The vector ``z' residual + vector``, with a zero intercept."""
        out = torch.zeros_like(vector)
        # Not through fast_mm, which would turn z round in memory every time.
        out[:, :, :-1] = residual @ self.z + vector[0, :, :-1]
        return out

    def head(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (c, D) and intercepts (c,)."""
        return state[0, :, :-1] @ self.inverse, state[0, :, -1] * self.intercept


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
        return self.x.new_zeros(2, classes, len(self.x) + 1)

    def logits(self, vector: Tensor) -> Tensor:
        """(c, n) answers to the rows, without the intercept."""
        return vector[1, :, :-1]

    def gather(self, residual: Tensor, vector: Tensor) -> Tensor:
        """The vector ``z' residual + vector``, with a zero intercept."""
        out = torch.zeros_like(vector)
        inside = residual + vector[0, :, :-1]
        out[0, :, :-1] = inside
        # The inverse is symmetric, and linear() reads it as it lies in memory.
        out[1, :, :-1] = 2 * (inside - 2 * self.penalty * linear(inside, self.inverse))
        return out

    def head(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (c, D) and intercepts (c,)."""
        inside = (2 * state[0, :, :-1] - state[1, :, :-1]) / (2 * self.penalty)
        return inside @ self.x, state[0, :, -1] * self.intercept


_Space: TypeAlias = _Whitened | _Kernel


def _minimize(
    space: _Space, targets: Tensor, ratio: float, tolerance: float, start: Tensor | None
) -> tuple[Tensor, int]:
    """L-BFGS on (c, n) targets; returns the state and how many steps it took.

    The objective is ``sum of cross-entropies(f + intercept) + ratio (|u|^2 - |f|^2 / 2) / 2``,
    with f the logits of u without the intercept.
    """
    state, logits = space.zero(len(targets)), torch.zeros_like(targets)
    residual = 1 / len(targets) - targets
    gradient = _gradient(space, ratio, state, logits, residual)
    goal = tolerance * float(gradient[1].norm())
    if start is not None:
        state, logits = start, space.logits(start)
        residual = (logits + space.intercept * state[0, :, -1:]).softmax(0) - targets
        gradient = _gradient(space, ratio, state, logits, residual)
    pairs: list[tuple[Tensor, Tensor, float]] = []
    for step in range(STEPS):
        if float(gradient[1].norm()) <= goal:
            return state, step
        direction = _two_loops(gradient, pairs)
        line = _Line(space, ratio, state, direction, logits, targets)
        length, residual = line.search(residual)
        if length == 0.0:
            return state, step  # rounding leaves nothing to gain
        move = length * direction
        state, logits = state + move, logits + length * line.change
        following = _gradient(space, ratio, state, logits, residual)
        bend = following - gradient
        curvature = _dot(move, bend)
        if curvature > 0:
            pairs = [*pairs[1 - MEMORY :], (move, bend, curvature)]
        gradient = following
    return state, STEPS


def _dot(first: Tensor, second: Tensor) -> float:
    return float((first[0] * second[1]).sum(dtype=torch.float64))


def _gradient(
    space: _Space, ratio: float, state: Tensor, logits: Tensor, residual: Tensor
) -> Tensor:
    gradient = space.gather(residual - (ratio / 2) * logits, ratio * state)
    gradient[:, :, -1] = space.intercept * residual.sum(1)
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


class _Line:
    """The objective along a direction, where logits are linear: no product with the data."""

    def __init__(
        self,
        space: _Space,
        ratio: float,
        state: Tensor,
        direction: Tensor,
        logits: Tensor,
        targets: Tensor,
    ) -> None:
        self.targets = targets
        self.change = space.logits(direction)
        self.base = logits + space.intercept * state[0, :, -1:]
        self.along = self.change + space.intercept * direction[0, :, -1:]
        weights, change = direction[:, :, :-1], self.change
        tilt = _dot(state[:, :, :-1], weights) - float((logits * change).sum()) / 2
        bend = _dot(weights, weights) - float(change.square().sum()) / 2
        self.tilt, self.bend = ratio * tilt, ratio * max(bend, 0.0)

    def search(self, residual: Tensor) -> tuple[float, Tensor]:
        """A length near the minimum, by Newton's method on the slope, and the residual there.

        Length 0 when the slope at the start, where the residual is ``residual``, is not downhill.
        """
        start = float((residual * self.along).sum(dtype=torch.float64)) + self.tilt
        if not start < 0:
            return 0.0, residual
        low, high, length = 0.0, float("inf"), 1.0
        for _ in range(30):
            probs = (self.base + length * self.along).softmax(0)
            residual = probs - self.targets
            slope = float((residual * self.along).sum(dtype=torch.float64))
            slope += self.tilt + length * self.bend
            if abs(slope) <= -LEVEL * start or (length == LONGEST and slope < 0):
                break
            low, high = (length, high) if slope < 0 else (low, length)
            weighted = probs * self.along
            curvature = float((weighted * self.along).sum()) + self.bend
            curvature -= float(weighted.sum(0).square().sum())
            step = length - slope / curvature if curvature > 0 else float("inf")
            middle = 2 * length if high == float("inf") else (low + high) / 2
            length = min(step if low < step < high else middle, LONGEST)
        return length, residual
