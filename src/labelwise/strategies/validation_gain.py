"""The loss of a validation set, as picks move the last layer: what `glister` is made of."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from labelwise.errors import ResourceError
from labelwise.evidence import Rows, as_float
from labelwise.kernels import GradientEmbedding, Similarity, linear
from labelwise.kernels.functions import SetFunction
from labelwise.kernels.functions.pairwise import Pairwise
from labelwise.kernels.sums import MOST_NUMBERS, LinearSums, Total

_CLOSE = (1024, 1 / 64)
"""Rows decided in float64, at least and of all, before all gains are computed again."""


class ValidationSet:
    """Points whose loss is to fall, with the logits that a linear head gives them.

    Args:
        probs: (V, C); logits are their logarithms, which is the same to a softmax.
        embeddings: (V, D). labels: (V,) int64.
    """

    def __init__(self, probs: Rows, embeddings: Rows, labels: Tensor) -> None:
        self._h, self._y = embeddings, labels.to(embeddings.device)
        self._logits = torch.empty(probs.shape, device=embeddings.device)
        for start, block in probs.blocks():
            self._logits[start : start + len(block)] = as_float(block).log()

    def __len__(self) -> int:
        return len(self._h)

    def move(self, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Take what a change of the head does off the logits; the mean loss's gradient then.

        Args:
            change: from (b, D) embeddings to what their (b, C) logits fall by.

        Returns:
            (C, D + 1) float64, the bias last.
        """
        classes, width = self._logits.shape[1], self._h.shape[1]
        total = self._logits.new_zeros(classes, width + 1, dtype=torch.float64)
        for start, block in self._h.blocks():
            h, part = block.float(), slice(start, start + len(block))
            if change is not None:
                self._logits[part] -= change(h)
            away = self._logits[part].softmax(1)
            away[torch.arange(len(h), device=h.device), self._y[part]] -= 1
            total[:, :width] += away.T @ h
            total[:, width] += away.sum(0, dtype=torch.float64)
        return total / len(self)


class Crowding(Pairwise):
    """Minus the sum over all pairs of A of ``exp(-|g - g'|^2 / 2)``, each pair once."""

    submodular = False

    def __init__(self, geometry: GradientEmbedding, memory: int | None) -> None:
        super().__init__(Similarity(geometry, "rbf", width=1.0), -1.0, memory=memory)

    def _base(self) -> Tensor:
        return torch.zeros(len(self), dtype=torch.float64, device=self.device)


class ValidationGain(SetFunction):
    """By how much a gradient step along each row lowers the validation loss, to first order.

    The gain of row j is ``<g_j, G>``: G is the gradient of the validation loss after steps of
    length ``lr`` along the gradients of all picks. Not a set function in the strict sense.

    Gains are float64 where they may be the largest. For the others a bound is answered: since
    all gains were last computed they rose by at most ``|g_j| |G - G_then|``.

    Args:
        geometry: N gradients g, with the bias.
        validation: whose loss.
        lr: the length of a step.
        start: (C, D + 1) a gradient along which the first step goes.
        crowding: what is added to the gains, ``diversity`` times; nothing by default.
        diversity: >= 0.
    """

    submodular = False

    def __init__(
        self,
        geometry: GradientEmbedding,
        validation: ValidationSet,
        lr: float,
        start: Tensor | None = None,
        crowding: Crowding | None = None,
        diversity: float = 0.0,
    ) -> None:
        super().__init__()
        self._crowding, self._diversity = crowding, diversity
        self._geometry, self._validation, self._lr = geometry, validation, lr
        sums = LinearSums.of(Similarity(geometry, "dot"))
        if sums is None:
            raise ResourceError(
                f"a gradient has {math.prod(geometry.widths):.3g} numbers, more than "
                f"{MOST_NUMBERS:.3g}; use fewer classes or narrower embeddings"
            )
        self._sums = sums
        self._norms = geometry.squared_norms().sqrt()
        if start is None:
            self._now = validation.move()
        else:
            step = (lr * start).float()
            self._now = validation.move(lambda h: linear(h, step[:, :-1]) + step[:, -1])
        self._then: Tensor | None = None  # the gradient that `_base` belongs to
        self._base = self._norms

    def __len__(self) -> int:
        return len(self._norms)

    @property
    def device(self) -> torch.device:
        """Where gains are computed."""
        return self._geometry.device

    def _exactly(self, rows: Tensor) -> Tensor:
        return self._sums.values(Total(0.0, 0.0, [self._now]), rows)

    def gains(self, rows: Tensor | None = None) -> Tensor:
        """Gains of some rows, or of all, (m,) float64; see `SetFunction.gains`."""
        where = torch.arange(len(self)) if rows is None else rows.cpu()
        more = torch.zeros(len(where), dtype=torch.float64, device=self.device)
        if self._crowding is not None:
            more += self._diversity * self._crowding.gains(where).to(self.device)
        if len(where) <= min(_CLOSE[0], len(self) // 8):
            found = self._exactly(where) + more
            self._set_rounding(found)
            return found.cpu()
        if self._then is None:
            self._renew()
        found, close = self._bounds(where, more)
        if len(close) > max(_CLOSE[0], _CLOSE[1] * len(where)):
            self._renew()
            found, close = self._bounds(where, more)
        found[close] = self._exactly(where[close.cpu()]) + more[close]
        self._set_rounding(found[close])
        return found.cpu()

    def _set_rounding(self, found: Tensor) -> None:
        size = float(self._norms.max() * self._now.norm()) if len(self) else 0.0
        self.rounding = 1e-13 * max(size, float(found.abs().max()) if len(found) else 0.0)
        if self._crowding is not None:
            self.rounding += self._diversity * self._crowding.rounding

    def _bounds(self, where: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
        """The most that each row may gain, and the places of those that may gain most."""
        assert self._then is not None
        moved = float((self._now - self._then).norm())
        rounded = self._geometry.error * float(self._then.norm())
        place = where.to(self.device)
        slack = self._norms[place] * (moved + rounded)
        high = self._base[place] + more + slack
        low = high - 2 * slack
        if len(where) == len(self) and self.chosen:
            low[torch.tensor(self.chosen)] = -torch.inf
        # A gradient of length 0 gains exactly 0: nothing to decide.
        return high, ((high >= low.max()) & (slack > 0)).nonzero()[:, 0]

    def _renew(self) -> None:
        """Gains of all rows in single precision, in one pass."""
        self._then = self._now
        self._base = torch.empty_like(self._norms)
        along = self._now.float()
        for start, points in self._geometry.blocks():
            a, h = points.factors
            self._base[start : start + len(a)] = (linear(h, along) * a).sum(1)

    def _add(self, row: int) -> None:
        if self._crowding is not None:
            self._crowding.add(row, 0.0)
        a, h = (factor[0] for factor in self._geometry.take(torch.tensor([row])).factors)
        step = self._lr * a
        self._now = self._validation.move(lambda block: (block @ h[:-1] + h[-1])[:, None] * step)

    def bytes_needed(self, n: int) -> int:
        """Bounds of N rows, V x C logits and a few gradients."""
        classes = self._geometry.widths[0]
        own = 56 * len(self) + 4 * len(self._validation) * classes + 40 * self._sums.numbers
        return own if self._crowding is None else own + self._crowding.bytes_needed(n)
