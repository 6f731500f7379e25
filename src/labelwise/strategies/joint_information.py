"""What the labels of several rows together tell about the model."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import InputError, ResourceError
from labelwise.evidence import Rows, check, rows_first
from labelwise.kernels import Euclidean, Generator, kmeans, numpy_stream, per_row
from labelwise.kernels.functions.base import SetFunction
from labelwise.strategies.bald import sum_to_one
from labelwise.strategies.entropy import entropy_of

SAMPLES = 40_000
"""Configurations that are looked at; the number is the authors'."""

TOLD = 0.01
"""Share of what the draws can tell below which the rest counts as nothing."""

_BLOCK_NUMBERS = 1 << 19
"""Numbers of a block of gains: configurations times the classes of some candidates."""

_SMALLEST = 1e-300

_LEFT_OUT = 1e-3
"""Share of the information left that a gain over sampled configurations may leave out."""

_MERGED = (64, 512)
"""Into how many groups configurations are merged for upper bounds, coarse ones first."""

_FIRST = 8
"""Rows whose gains are computed to have something for the bounds of others to beat."""


class JointInformation(SetFunction):
    """``I(y_A; model)``, what the labels of a set of rows tell about the model, in nats.

    Monotone and submodular. A gain is what the row's label tells about the model after each
    labeling ("configuration") of A, averaged over these:

        gain(j) = sum_m pi_m (H(sum_s w_ms P[s, j]) - sum_s w_ms H(P[s, j]))

    where pi_m is the chance of configuration m and w_m the posterior over draws after it. That
    is exact while the C ** |A| configurations are at most ``num_samples``. Beyond, they are
    drawn from the mixture of the draws, equally many from each draw, and weigh the same: the
    entropy estimate of the paper, which weights by importance with mean_s p_s(y_A) as the
    proposal, except that the paper subtracts mean_s H(P[s, j]), to which the last sum comes
    only on average. So no gain is negative, and gains stay right when little is left to tell. A
    configuration grows by a label for each row added, so that samples are shared by all picks.

    What a configuration can still tell is at most H(w_m). Of sampled ones those that can tell
    least are left out of a gain, as many as together hold 0.1 % of what is left.

    Args:
        draws: (S, N, C) class distributions. Each is divided by its sum.
        generator: draws the configurations, by item.
        num_samples: how many configurations at most; sampled ones are rounded up to a multiple
            of S.

    Attributes:
        exact: whether all configurations are looked at.
        left: what the posteriors say is left to tell, in nats: at first log S.
        told: how many rows it took to tell 99 % of log S; None before.

    Raises:
        InputError: num_samples not a positive whole number.
        ResourceError: num_samples so large that the labelings do not fit into memory.

    >>> two = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    >>> function = JointInformation(two, generator=Generator(0))
    >>> function.gains()
    tensor([0.6931, 0.6931], dtype=torch.float64)
    >>> _ = function.add(0, 0.6931)
    >>> function.gains(torch.tensor([1]))
    tensor([0.], dtype=torch.float64)
    """

    rounding = 1e-9

    def __init__(
        self, draws: Rows | Tensor, *, generator: Generator, num_samples: int = SAMPLES
    ) -> None:
        super().__init__()
        if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
            raise InputError(f"num_samples must be a whole number >= 1, got {num_samples!r}")
        self._rows = rows_first(check("draws", draws))
        self._generator = generator.child("configurations")
        self._limit = num_samples
        self.exact = True
        self._pending: int | None = None
        samples = self._rows.shape[1]
        self.left = math.log(samples)
        self.told: int | None = None
        where = self._rows.device
        self._chance = torch.ones(1, dtype=torch.float64, device=where)
        self._posterior = torch.full((1, samples), 1 / samples, dtype=torch.float64, device=where)
        self._asked = self._chance, self._posterior
        # Made once, as what is changed in place: made anew they would leave holes in the heap.
        size = max(_BLOCK_NUMBERS, (num_samples + samples) * self._rows.shape[2])
        try:
            self._scratch = torch.empty(2, size, dtype=torch.float64, device=where)
        except RuntimeError as error:
            raise ResourceError(
                f"num_samples must be such that its labelings fit into memory, got "
                f"{num_samples:,}, for which {16 * size / 1e9:.3g} GB are too much"
            ) from error
        self._held = self._posterior

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def device(self) -> torch.device:
        """Where gains are computed."""
        return self._rows.device

    @property
    def configurations(self) -> int:
        """How many labelings of A are looked at."""
        return len(self._chance)

    def gains(self, rows: Tensor | None = None) -> Tensor:
        """I(y_A, y_j; model) - I(y_A; model), see `SetFunction.gains`."""
        self._follow()
        return self._gains(rows, *self._asked)

    def _gains(self, rows: Tensor | None, chance: Tensor, posterior: Tensor) -> Tensor:
        """Gains over some configurations: (M,) their chances and (M, S) posteriors."""
        samples, classes = self._rows.shape[1:]
        step = max(1, _BLOCK_NUMBERS // (max(len(chance), samples) * classes))

        def gain(block: Tensor) -> Tensor:
            """What each row's label tells on average; ``block``: (b, S, C)."""
            probs = sum_to_one(block)
            wide = probs.permute(1, 0, 2).reshape(samples, -1)
            size = len(posterior) * wide.shape[1]
            together, surprise = (x[:size].view(len(posterior), -1) for x in self._scratch)
            torch.mm(posterior, wide, out=together)
            # Several times faster than xlogy, and the same: 0 times the log of what is not 0.
            torch.clamp_min(together, _SMALLEST, out=surprise).log_().mul_(together)
            label = 0.0 - (chance @ surprise).view(-1, classes).sum(1)
            return (label - entropy_of(probs) @ (chance @ posterior)).clamp_min_(0)

        if rows is None:
            return per_row(self._rows.blocks(step), len(self), gain).cpu()
        found = torch.empty(len(rows), dtype=torch.float64, device=self.device)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            found[part] = gain(self._rows.take(rows[part]))
        return found.cpu()

    def _probs(self, row: int) -> Tensor:
        """One row by every draw, (S, C) float64."""
        return sum_to_one(self._rows.take(torch.tensor([row])))[0]

    def _add(self, row: int) -> None:
        # The last pick of a batch is never needed: labels are given when the next gain is.
        self._follow()
        self._pending = row

    def _follow(self) -> None:
        """Bring the configurations up to date with A."""
        if self._pending is None:
            return
        row, self._pending = self._pending, None
        probs = self._probs(row)
        samples, classes = probs.shape
        if self.exact and len(self._chance) * classes <= self._limit:
            joint = self._chance[:, None, None] * self._posterior[:, None] * probs.T
            joint = joint.reshape(-1, samples)
            chance = joint.sum(1)
            self._chance = chance[chance > 0] / chance.sum()
            self._posterior = joint[chance > 0] / chance[chance > 0, None]
        else:
            if self.exact:
                earlier = self.chosen[: self.chosen.index(row)]
                self._sample(math.ceil(self._limit / samples), earlier)
            self._extend(row, probs)
        self._look()

    def _look(self) -> None:
        """Find the configurations that have something left to tell."""
        each = self._chance * entropy_of(self._posterior)
        self.left = float(each.sum())
        if self.told is None and self.left <= TOLD * math.log(max(2, self._posterior.shape[1])):
            self.told = len(self.chosen)
        self._asked = self._chance, self._posterior
        self._keep: Tensor | slice = slice(None)
        if not self.exact:
            order = each.argsort()
            out = int((each[order].cumsum(0) <= _LEFT_OUT * self.left).sum())
            # One always stays: a gain is of some configuration, even where all is told.
            self._keep = keep = order[min(out, len(order) - 1) :].sort().values
            asked = self._held[: len(keep)]
            torch.index_select(self._posterior, 0, keep, out=asked)
            self._asked = self._chance[keep], asked

    def _sample(self, each: int, earlier: list[int]) -> None:
        """From now on follow ``each`` configurations of earlier rows from every draw."""
        samples = self._posterior.shape[1]
        self.exact = False
        count = each * samples
        self._chance = torch.full((count,), 1 / count, dtype=torch.float64, device=self.device)
        self._posterior = torch.full(
            (count, samples), 1 / samples, dtype=torch.float64, device=self.device
        )
        self._held = torch.empty_like(self._posterior)
        for row in earlier:
            self._extend(row, self._probs(row))

    def _extend(self, row: int, probs: Tensor) -> None:
        """A label for one more row in every configuration, by the draw that it came from."""
        # Random numbers belong to the item, whatever its row is called here.
        key = int(self._generator.uniform(np.array([row]))[0] * 2**53)
        stream = numpy_stream(self._generator.seed, key)
        noise = torch.from_numpy(stream.random(len(self._chance))).to(self.device)
        source = torch.arange(len(noise), device=self.device) % len(probs)
        reached = probs.cumsum(1)
        reached = (reached / reached[:, -1:])[source]
        label = (noise[:, None] >= reached).sum(1)
        self._posterior.mul_(probs.T[label])
        self._posterior.div_(self._posterior.sum(1, keepdim=True))

    def bytes_needed(self, n: int) -> int:
        """The posteriors of the configurations, with their successors, and blocks of gains."""
        samples, classes = self._rows.shape[1:]
        held = (self._limit + samples) * (samples + classes)
        return 64 * held + 48 * _BLOCK_NUMBERS + 16 * len(self) + 0 * n


class ScreenedInformation(JointInformation):
    """`JointInformation` for `greedy`: exact gains of the rows that could win, bounds of others.

    Where two configurations are taken for one, of their joint chance and mean posterior, a
    label seems to tell more and never less: entropy is concave. So gains over a few groups of
    like configurations are upper bounds, and those of 64 groups already rule out all but some
    percent of the rows. The row of the largest gain is the same, and a bound, like a gain,
    stays one as A grows.
    """

    def __init__(
        self, draws: Rows | Tensor, *, generator: Generator, num_samples: int = SAMPLES
    ) -> None:
        self._merged: list[tuple[Tensor, Tensor]] = []
        self._best = -math.inf
        super().__init__(draws, generator=generator, num_samples=num_samples)

    def gains(self, rows: Tensor | None = None) -> Tensor:
        """Of rows that may have the largest gain of all asked about, the gain; else a bound."""
        self._follow()
        if not self._merged:
            return self._gains(rows, *self._asked)
        found = self._gains(rows, *self._merged[0])
        which = torch.arange(len(found)) if rows is None else rows
        first = found.topk(min(_FIRST, len(found))).indices
        some = self._gains(which[first], *self._asked)
        self._best = max(self._best, float(some.max()))
        for level in (*self._merged[1:], self._asked):
            able = (found >= self._best - 2 * self.rounding).nonzero()[:, 0]
            if len(able):
                found[able] = self._gains(which[able], *level)
        self._best = max(self._best, float(found.max()))
        return found

    def _look(self) -> None:
        """Find the configurations that have something left to tell, and groups of them."""
        super()._look()
        self._best = -math.inf
        chance, posterior = self._asked
        self._merged = []
        telling = (chance * entropy_of(posterior)).cumsum(0).cpu()
        # All configurations, also those left out: a product of a new shape costs memory.
        points = Euclidean(self._posterior.float())
        for count in _MERGED:
            # Grouping pays where there are many more gains than groups.
            gains = len(self) * self._rows.shape[2]
            if len(chance) < 4 * count or gains < 4 * count * posterior.shape[1]:
                break
            # Any groups give bounds, and those of the nearest of some configurations tight ones
            # where these have much left to tell.
            start = torch.searchsorted(telling, (torch.arange(count) + 0.5) / count * telling[-1])
            init = posterior[start.clamp(max=len(posterior) - 1).to(posterior.device)]
            stream = Generator(0)  # not used: the centers are given
            found = kmeans(points, count, generator=stream, iterations=0, init=init)
            groups = found.assignment.to(chance.device)[self._keep]
            mass = torch.zeros(count, dtype=torch.float64, device=chance.device)
            mass.index_add_(0, groups, chance)
            total = mass.new_zeros(count, posterior.shape[1])
            total.index_add_(0, groups, chance[:, None] * posterior)
            some = mass > 0
            self._merged.append((mass[some], total[some] / mass[some, None]))

    def bytes_needed(self, n: int) -> int:
        """As `JointInformation`, with what k-means holds."""
        samples = self._rows.shape[1]
        return super().bytes_needed(n) + (self._limit + samples) * (8 * samples + 24)
