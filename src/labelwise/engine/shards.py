"""A pool on shards: the geometry and the bounds that kernels see, put together from answers.

Between the shards and here travel the few rows first in line, centers, and numbers by the row
that was asked for; never the pool, nor a number for each of its rows.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.engine.carried import Carried, Factors
from labelwise.engine.crew import Call, Crew
from labelwise.engine.parts import widen
from labelwise.engine.recipe import Recipe
from labelwise.errors import InputError
from labelwise.kernels.bounds import Bounds, Distributed, Fence, Front, Summary
from labelwise.kernels.centers import Centers, FloatArray, IntArray
from labelwise.kernels.geometry import Geometry, Points
from labelwise.kernels.noise import Generator

_SAMPLE = 1024
_KEPT_NUMBERS = 1 << 23
_ASK_COST = 250_000.0  # about 5 ms of 2,048-dimensional products on two cores

BoolArray = NDArray[np.bool_]


class Shards(Distributed):
    """The rows of a pool on several shards, as one geometry.

    Args:
        crew: works on the shards.
        recipe: what geometry the rows make.
        cuts: where shards begin and end, from 0 to N.
    """

    def __init__(self, crew: Crew, recipe: Recipe, cuts: Sequence[int]) -> None:
        self.crew = crew
        self.cuts: IntArray = np.asarray(cuts, dtype=np.int64)
        self._told: Callable[[int], list[Call]] = lambda shard: []
        crew.memoir = self._memoir
        self._recipe = recipe
        sample = self._stored(np.unique(np.linspace(0, len(self) - 1, _SAMPLE).astype(np.int64)))
        self._recipe = recipe.decided(sample)
        self._here: Geometry = self._recipe.build([array[:1] for array in sample])
        self.widths = self._here.widths
        self._taken: OrderedDict[int, tuple[Tensor, ...]] = OrderedDict()
        crew.tell_all("place", self._recipe)

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the workers go; the shards cannot be asked any more."""
        self.crew.close()

    def __len__(self) -> int:
        return int(self.cuts[-1])

    @property
    def device(self) -> torch.device:
        """Where points that were asked for are multiplied."""
        return self._here.device

    def bounds(self, fence: Fence, capacity: int) -> Bounds:
        """Bounds that the shards keep, before there is a center; one at a time."""
        found = ShardBounds(self, fence, capacity)
        self.occupy(found.memoir)
        return found

    def centers(self, capacity: int) -> Centers:
        """Centers that can travel to the shards."""
        return Carried(self, capacity)

    def _memoir(self, shard: int) -> list[Call]:
        return [("place", (self._recipe,)), *self._told(shard)]

    def occupy(self, told: Callable[[int], list[Call]]) -> None:
        """One selection at a time: from now on a shard made anew has to be told this."""
        self._told = told

    def part(self, fence: Fence, shard: int) -> Fence:
        """What a shard has to know of a fence."""
        return fence.part(*self.cuts[shard : shard + 2].tolist())

    def portable(self, rows: IntArray) -> tuple[Recipe, list[NDArray[Any]]]:
        """Some rows as they are stored, and how to make a geometry of them anywhere."""
        return self._recipe, self.gather("stored", rows)

    def gathered(self, rows: IntArray) -> Geometry:
        """Some rows as a geometry of their own, here."""
        return self._recipe.build(self._stored(rows))

    def split(self, rows: IntArray) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """Which of some rows lie on which shard: pairs of the shard and positions."""
        where = np.searchsorted(self.cuts, rows, side="right") - 1
        for shard in np.unique(where).tolist():
            yield shard, np.flatnonzero(where == shard)

    def gather(self, method: str, rows: IntArray) -> list[NDArray[Any]]:
        """The arrays that shards answer for some rows, in the order of the rows."""
        parts = list(self.split(rows))
        answers = self.crew.ask({shard: (method, (rows[at],)) for shard, at in parts})
        order = np.argsort(np.concatenate([at for _, at in parts]), kind="stable")
        columns = zip(*(answers[shard] for shard, _ in parts))
        return [np.concatenate(column)[order] for column in columns]

    def _stored(self, rows: IntArray) -> list[Tensor]:
        return [torch.from_numpy(array) for array in self.gather("stored", rows)]

    def double(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The factors of some rows in float64; those asked for lately need no shard."""
        if not len(rows):
            return tuple(torch.zeros(0, width, dtype=torch.float64) for width in self.widths)
        wanted, where = np.unique(rows.cpu().numpy(), return_inverse=True)
        missing = np.array([row for row in wanted.tolist() if row not in self._taken])
        if len(missing):
            factors = widen(self.gather("factors", missing.astype(np.int64)), self.device)
            self._taken.update(zip(missing.tolist(), zip(*factors)))
        found = [self._taken[row] for row in wanted.tolist()]
        while len(self._taken) > max(2 * len(wanted), _KEPT_NUMBERS // sum(self.widths)):
            self._taken.popitem(last=False)
        which = torch.from_numpy(where)
        return tuple(torch.stack(column)[which] for column in zip(*found))

    def take(self, rows: Tensor) -> Points:
        """A copy of the points in ``rows``."""
        return self._here.rounded(self.double(rows))

    def points(self, *arrays: Any) -> Points:
        """Points that are not rows of the pool."""
        return self._here.points(*arrays)

    def exact(self, rows: Tensor, others: Tensor) -> Tensor:
        """Squared distances of pairs of rows, (P,) float64, from differences."""
        return self._here.apart(self.double(rows), self.double(others))

    def apart(self, some: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> Tensor:
        """Squared distances of P pairs of points in float64."""
        return self._here.apart(some, others)

    def rounded(self, factors: tuple[Tensor, ...]) -> Points:
        """Points from float64 factors."""
        return self._here.rounded(factors)

    def true_norms(self, rows: Tensor) -> Tensor:
        """Squared norms of the points as given, (n,) float64."""
        factors = [factor.square().sum(1) for factor in self.double(rows)]
        return torch.stack(factors).prod(0)

    @property
    def shifted(self) -> bool:
        """Whether points are multiplied relative to another origin than their own."""
        return self._here.shifted

    @property
    def directions(self) -> bool:
        """Whether all points have length one."""
        return self._here.directions

    def block(self, start: int, stop: int) -> Points:
        """Not here: the rows are on the shards."""
        raise InputError(
            "this kernel reads every row, and rows on shards stay there: use farthest_first, "
            "kmeans_plus_plus or the functions of labelwise.engine"
        )

    def to_mean(self, rows: Tensor) -> Tensor:
        """Not here: ask `ShardBounds.nearest_mean`."""
        raise self._at_home()


class ShardBounds(Bounds):
    """Bounds that the shards keep, each for its own rows; the answers of all are put together.

    Args:
        shards: the pool.
        fence: the rows that may be picked.
        capacity: how many centers there will be at most.
    """

    ask_cost = _ASK_COST

    def __init__(self, shards: Shards, fence: Fence, capacity: int) -> None:
        self._shards, self._crew = shards, shards.crew
        self._fence, self._capacity = fence, capacity
        self._told: list[Factors] = []
        self._gone: list[IntArray] = []
        self._summary: Summary | None = None
        self._crew.tell({shard: self._begin(shard) for shard in range(len(self._crew))})

    def __len__(self) -> int:
        return len(self._shards)

    @property
    def pass_rows(self) -> int:
        """The rows of the largest shard: shards work side by side."""
        return int(np.diff(self._shards.cuts).max())

    def _begin(self, shard: int) -> Call:
        return "begin", (self._shards.part(self._fence, shard), self._capacity)

    def memoir(self, shard: int) -> list[Call]:
        """What a shard made anew has to be told: the fence, the centers, the rows that are gone.

        Better bounds that the lost one was told are left out: they only save work.
        """
        start, stop = self._shards.cuts[shard : shard + 2]
        gone = np.concatenate([np.zeros(0, dtype=np.int64), *self._gone])
        gone = gone[(gone >= start) & (gone < stop)]
        return [
            self._begin(shard),
            *(("apply", (factors,)) for factors in self._told),
            ("exclude", (gone,)),
        ]

    def _tell(self, rows: IntArray, call: Callable[[NDArray[np.intp]], Call]) -> None:
        self._summary = None
        self._crew.tell({shard: call(at) for shard, at in self._shards.split(rows)})

    def exclude(self, rows: IntArray) -> None:
        """These rows may not be picked any more."""
        self._gone.append(rows)
        self._tell(rows, lambda at: ("exclude", (rows[at],)))

    def apply(self, centers: Centers, passing: Callable[[float], None] | None = None) -> None:
        """Send the new centers to every shard, which brings its rows' bounds up to date."""
        if self.applied == len(centers):
            return
        assert isinstance(centers, Carried)
        factors = tuple(factor.copy() for factor in centers.factors(self.applied))
        self._told.append(factors)
        self.applied = len(centers)
        self._summary = None
        self._crew.tell_all("apply", factors)

    def front(self, size: int) -> Front:
        """The rows with the largest bounds of all: of each shard's first, the first."""
        fronts: list[Front] = self._crew.ask_all("front", size)
        rows = np.concatenate([front.rows for front in fronts])
        upper = np.concatenate([front.upper for front in fronts])
        exact = np.concatenate([front.exact for front in fronts])
        order = np.lexsort((rows, -upper))
        first, rest = order[:size], order[size : size + 1]
        next_up = [(-front.rest, front.rest_row) for front in fronts]
        next_up += [(-float(upper[i]), int(rows[i])) for i in rest]
        bound, row = min(next_up)
        first = first[np.argsort(rows[first])]
        return Front(rows[first], upper[first], exact[first], -bound, row)

    def read(self, rows: IntArray) -> tuple[FloatArray, BoolArray]:
        """Bounds of some rows, and whether they are exact."""
        if not len(rows):
            return np.zeros(0), np.zeros(0, dtype=bool)
        upper, exact = self._shards.gather("read", rows)
        return upper, exact

    def write(self, rows: IntArray, upper: FloatArray, exact: BoolArray) -> None:
        """Better bounds of some rows."""
        self._gone.append(rows[upper == -np.inf])
        self._tell(rows, lambda at: ("write", (rows[at], upper[at], exact[at])))

    def summary(self) -> Summary:
        """What the bounds amount to."""
        if self._summary is None:
            tops, totals, norms = zip(*self._crew.ask_all("summary"))
            self._summary = Summary(max(tops), float(sum(totals)), max(norms))
        return self._summary

    def anything_left(self, centers: Centers) -> bool:
        """Whether any row that may be picked is truly apart from every center."""
        self.apply(centers)
        self._summary = None
        return any(self._crew.ask_all("anything_left"))

    def nearest_mean(self) -> int:
        """The row that may be picked nearest the mean of all points; the lowest on a tie."""
        mean = sum(self._crew.ask_all("total")) / len(self)
        least = min(self._crew.ask_all("least_to_mean", mean))
        # What one machine takes for a tie: 1e-12 of the distances that may be the least.
        reach = least + 1e-12 * (abs(least) + 2 * self._shards.error * self.summary().norm)
        found = self._crew.ask_all("first_to_mean", mean, reach)
        return next(row for row in found if row is not None)

    def longest(self) -> int:
        """The row that may be picked with the largest squared norm; the lowest on a tie."""
        found = [answer for answer in self._crew.ask_all("longest") if answer is not None]
        most = max(norm for norm, _ in found)
        return next(row for norm, row in found if norm >= most * (1 - 1e-12))

    def by_noise(self, generator: Generator, count: int) -> IntArray:
        """The rows that may be picked with the ``count`` smallest uniform numbers, in order."""
        cuts = self._shards.cuts.tolist()
        answers = self._crew.ask(
            {
                shard: ("by_noise", (generator.part(start, stop), count))
                for shard, (start, stop) in enumerate(itertools.pairwise(cuts))
            }
        )
        numbers = np.concatenate([answers[shard][0] for shard in range(len(self._crew))])
        rows = np.concatenate([answers[shard][1] for shard in range(len(self._crew))])
        return rows[np.argsort(numbers, kind="stable")[:count]]

    def gain_bounds(self, trials: Centers) -> tuple[FloatArray, FloatArray]:
        """How much each of some points would lower the sum of distances: low, high."""
        assert isinstance(trials, Carried)
        low, high = zip(*self._crew.ask_all("gain_bounds", trials.factors()))
        return np.sum(low, axis=0), np.sum(high, axis=0)

    def true_gains(self, trials: Centers, centers: Centers) -> FloatArray:
        """What `gain_bounds` bounds, from float64."""
        assert isinstance(trials, Carried)
        self.apply(centers)
        self._summary = None
        gains: FloatArray = np.sum(self._crew.ask_all("true_gains", trials.factors()), axis=0)
        return gains
