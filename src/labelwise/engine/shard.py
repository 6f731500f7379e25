"""One shard: some rows of a pool, and what is known of them. It runs wherever its rows are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from labelwise.engine.carried import Carried, Factors
from labelwise.engine.parts import Source, narrow, open_part
from labelwise.engine.recipe import Recipe
from labelwise.kernels.bounds import Fence, Front, PoolBounds, Summary
from labelwise.kernels.centers import FloatArray, IntArray
from labelwise.kernels.geometry import Geometry
from labelwise.kernels.noise import Generator

BoolArray = NDArray[np.bool_]


class Shard:
    """A stretch of a pool's rows; all row numbers in and out are those of the pool.

    Its state is the rows and the centers it was told of: a shard that is lost is made anew from
    its arguments and told the centers again, and answers as the lost one did.

    Attributes:
        start: the number of its first row.

    Args:
        recipe: what geometry the rows make.
        sources: for each array of the recipe, its rows here.
        start: the number of the first row.
        device: where to compute; where arrays are by default.
    """

    def __init__(
        self, recipe: Recipe, sources: list[Source], start: int, device: str | None = None
    ) -> None:
        self._recipe, self.start, self._device = recipe, start, device
        self._arrays = [
            open_part(source, name, start) for source, name in zip(sources, recipe.columns)
        ]
        self._made: Geometry | None = None
        self._bounds: PoolBounds | None = None
        self._centers: Carried | None = None
        self._to_mean: FloatArray = np.zeros(0)
        self._role: Any = None

    def ready(self) -> int:
        """How many rows there are: the answer says that they can be read."""
        return len(self._arrays[0])

    def stored(self, rows: IntArray) -> tuple[NDArray[Any], ...]:
        """Some rows as they are stored."""
        here = torch.from_numpy(rows - self.start)
        return tuple(array.take(here).cpu().numpy() for array in self._arrays)

    def place(self, recipe: Recipe) -> None:
        """Take over the origin that all shards agree on."""
        self._recipe = recipe
        self._made = None

    @property
    def geometry(self) -> Geometry:
        """The rows as points."""
        if self._made is None:
            self._made = self._recipe.build(self._arrays, self._device)
        return self._made

    def factors(self, rows: IntArray) -> Factors:
        """What the true distances of some rows are computed from."""
        factors = self.geometry.double(torch.from_numpy(rows - self.start))
        return tuple(narrow(factor) for factor in factors)

    def begin(self, fence: Fence, capacity: int) -> None:
        """Forget all centers; from now on these rows may be picked."""
        stop = self.start + len(self.geometry)
        self._bounds = PoolBounds(self.geometry, fence.mask(self.start, stop))
        self._centers = Carried(self.geometry, capacity)

    @property
    def bounds(self) -> PoolBounds:
        """What is known of the rows' distances."""
        assert self._bounds is not None
        return self._bounds

    @property
    def centers(self) -> Carried:
        """The centers told of so far."""
        assert self._centers is not None
        return self._centers

    def apply(self, factors: Factors) -> None:
        """More centers, and what they change."""
        self.centers.receive(factors)
        self.bounds.apply(self.centers)

    def exclude(self, rows: IntArray) -> None:
        """These rows may not be picked any more."""
        self.bounds.exclude(rows - self.start)

    def front(self, size: int) -> Front:
        """The rows with the largest bounds."""
        front = self.bounds.front(size)
        return front._replace(rows=front.rows + self.start, rest_row=front.rest_row + self.start)

    def read(self, rows: IntArray) -> tuple[FloatArray, BoolArray]:
        """Bounds of some rows, and whether they are exact."""
        return self.bounds.read(rows - self.start)

    def write(self, rows: IntArray, upper: FloatArray, exact: BoolArray) -> None:
        """Better bounds of some rows."""
        self.bounds.write(rows - self.start, upper, exact)

    def summary(self) -> Summary:
        """What the bounds amount to."""
        return self.bounds.summary()

    def anything_left(self) -> bool:
        """Whether any row that may be picked is truly apart from every center."""
        return self.bounds.anything_left(self.centers)

    def total(self) -> NDArray[np.float64]:
        """The sum of all points."""
        total: FloatArray = self.geometry.total().cpu().numpy()
        return total

    def least_to_mean(self, mean: NDArray[np.float64]) -> float:
        """The least squared distance to the mean of the whole pool among rows to be picked."""
        rows = self._allowed()
        self._to_mean = np.zeros(0)
        if not len(rows):
            return np.inf
        center = torch.tensor(mean, device=self.geometry.device)
        found: FloatArray = self.geometry.from_mean(torch.from_numpy(rows), center).cpu().numpy()
        self._to_mean = found
        return float(found.min())

    def first_to_mean(self, mean: NDArray[np.float64], within: float) -> int | None:
        """The lowest row to be picked within a squared distance to the mean."""
        rows = self._allowed()
        if len(self._to_mean) != len(rows):  # this shard is younger than the first question
            self.least_to_mean(mean)
        near = rows[self._to_mean <= within]
        return int(near[0]) + self.start if len(near) else None

    def longest(self) -> tuple[float, int] | None:
        """The largest squared norm among rows to be picked, and its row."""
        rows = self._allowed()
        if not len(rows):
            return None
        row = self.geometry.largest(torch.from_numpy(rows))
        return float(self.geometry.true_norms(torch.tensor([row]))[0]), row + self.start

    def by_noise(self, generator: Generator, count: int) -> tuple[FloatArray, IntArray]:
        """The smallest uniform numbers among rows to be picked, and their rows."""
        rows = self.bounds.by_noise(generator, count)
        return generator.uniform(rows), rows + self.start

    def gain_bounds(self, factors: Factors) -> tuple[FloatArray, FloatArray]:
        """How much each of some points would lower the sum of distances here: low, high."""
        return self.bounds.gain_bounds(self._trials(factors))

    def true_gains(self, factors: Factors) -> FloatArray:
        """What `gain_bounds` bounds, from float64."""
        return self.bounds.true_gains(self._trials(factors), self.centers)

    def _trials(self, factors: Factors) -> Carried:
        trials = Carried(self.geometry, len(factors[0]))
        trials.receive(factors)
        return trials

    def take_on(self, role: Callable[..., Any], *args: Any) -> None:
        """Have a part in a selection of another kind; ``role`` is given this shard first."""
        self._role = role(self, *args)

    def act(self, method: str, *args: Any) -> Any:
        """Ask the part that was taken on."""
        return getattr(self._role, method)(*args)

    def _allowed(self) -> IntArray:
        return np.flatnonzero(self.bounds.upper > -np.inf)
