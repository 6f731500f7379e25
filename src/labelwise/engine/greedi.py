"""Facility location on shards, in two rounds: every shard picks, then the picks are picked from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.engine.crew import Call
from labelwise.engine.recipe import Recipe
from labelwise.engine.shard import Shard
from labelwise.engine.shards import Shards
from labelwise.kernels import Chosen, Similarity
from labelwise.kernels.bounds import Fence, fenced
from labelwise.kernels.centers import FloatArray, IntArray
from labelwise.kernels.functions.base import SetFunction
from labelwise.kernels.functions.facility_location import FacilityLocation
from labelwise.kernels.greedy import greedy
from labelwise.kernels.similarity import Kind


class LocationHere:
    """A shard's part: it represents its own rows.

    Args:
        shard: the rows.
        kind, width: the similarity.
        memory: bytes that may be held.
    """

    def __init__(self, shard: Shard, kind: Kind, width: float | None, memory: int | None) -> None:
        self._geometry, self._start = shard.geometry, shard.start
        self._kind, self._width, self._memory = kind, width, memory

    def pick(self, n: int, fence: Fence) -> IntArray:
        """The first round: up to n rows of this shard that represent this shard."""
        stop = self._start + len(self._geometry)
        allowed = np.flatnonzero(fence.mask(self._start, stop))
        if not len(allowed):
            return allowed
        like = Similarity(self._geometry, self._kind, width=self._width)
        function = FacilityLocation(like, memory=self._memory)
        chosen = greedy(function, min(n, len(allowed)), candidates=torch.from_numpy(allowed))
        return chosen.rows.numpy() + self._start

    def begin(self, recipe: Recipe, stored: Sequence[NDArray[Any]]) -> None:
        """The second round: these points are the elements, this shard's rows are represented."""
        elements = recipe.build([torch.tensor(array) for array in stored], self._geometry.device)
        self._like = Similarity(elements, self._kind, width=self._width)
        mine = self._geometry.take(torch.arange(len(self._geometry)))
        self._function = FacilityLocation(self._like, represented=mine, memory=self._memory)

    def gains(self, rows: Tensor | None) -> tuple[FloatArray, float]:
        """What each of some elements would add here, and the rounding of that."""
        found: FloatArray = self._function.gains(rows).numpy()
        return found, self._function.rounding

    def add(self, row: int) -> None:
        """Put an element into the set."""
        self._function.add(row, 0.0)

    def worth(self, rows: Tensor) -> FloatArray:
        """What each of some elements adds here, one after the other."""
        points = self._like.take(rows)
        worth = torch.zeros(len(rows), dtype=torch.float64, device=points.norms.device)
        for _, block in self._geometry.blocks():
            best = self._like.between(block, points).clamp_(min=0).cummax(1).values
            worth += best.double().sum(0)
        worth[1:] -= worth[:-1].clone()
        found: FloatArray = worth.cpu().numpy()
        return found


class _Everywhere(SetFunction):
    """Facility location over all shards' rows: the sum of what each of them gains."""

    def __init__(self, shards: Shards, size: int) -> None:
        super().__init__()
        self._crew, self._size = shards.crew, size

    def __len__(self) -> int:
        return self._size

    def gains(self, rows: Tensor | None = None) -> Tensor:
        """f(A + j) - f(A) for each row j asked about; see `SetFunction.gains`."""
        gains, rounding = zip(*self._crew.ask_all("act", "gains", rows))
        self.rounding = sum(rounding)
        return torch.from_numpy(np.sum(gains, axis=0))

    def _add(self, row: int) -> None:
        self._crew.tell_all("act", "add", row)


def greedi(
    shards: Shards,
    n: int,
    *,
    kind: Kind = "cosine01",
    width: float | None = None,
    candidates: Tensor | None = None,
    memory: int | None = None,
) -> Chosen:
    """Facility location in two rounds: greedy on every shard, then greedy on what they picked.

    The value counts all rows of all shards. If the picks of one shard alone are worth more than
    those of the second round, they are the answer.

    The picks depend on how the rows are cut into shards. They are worth at least
    (1 - 1/e)^2 / min(shards, n) of the best n rows however that is, and in expectation at least
    (1 - 1/e) / 2 of them where each row lies on a random shard, so shuffle rows that are sorted.
    In practice they are worth nearly what greedy's are.

    Args:
        shards: N points, built with ``shift=False`` unless they are directions or the
            similarity is of distances.
        n: how many rows to pick.
        kind, width: the similarity, see `labelwise.kernels.Similarity`; one that is never
            negative.
        candidates: (K,) int64 rows that may be picked; all by default.
        memory: bytes that each shard may hold; in the second round it holds all its points in
            single precision beside them.

    Returns:
        (n,) rows in the order picked and their (n,) float64 gains over the whole pool.

    Raises:
        InputError: an argument out of range, or points that were shifted.
        ResourceError: ``memory`` is too small, or a shard has over 200,000 rows, where facility
            location would compare all pairs: use more shards.

    Source:
        Mirzasoleiman, Karbasi, Sarkar & Krause, "Distributed submodular maximization:
        identifying representative elements in massive data", NIPS 2013 (GreeDi, the first
        bound); Barbosa, Ene, Nguyen & Ward, "The power of randomization: distributed submodular
        maximization on massive datasets", ICML 2015 (the second).

    >>> from labelwise.engine import LocalShards
    >>> x = [[0.0], [1.0], [2.0], [9.0], [9.5]]
    >>> greedi(LocalShards(x, shards=2), 2, kind="complement", width=10).rows
    tensor([2, 3])
    """
    Similarity(shards, kind, width=width)  # refuses what does not fit before anything is done
    fence = fenced(len(shards), n, None, candidates)
    crew = shards.crew
    role: Call = ("take_on", (LocationHere, kind, width, memory))
    told = [role]
    shards.occupy(lambda shard: told)
    crew.tell_all(*_flat(role))
    answers = crew.ask(
        {shard: ("act", ("pick", n, shards.part(fence, shard))) for shard in range(len(crew))}
    )
    parts: list[IntArray] = [answers[shard] for shard in range(len(crew))]
    rows = np.concatenate(parts)
    begin: Call = ("act", ("begin", *shards.portable(rows)))
    told.append(begin)
    crew.tell_all(*_flat(begin))
    function = _Everywhere(shards, len(rows))
    shards.occupy(lambda shard: [role, begin, *(("act", ("add", row)) for row in function.chosen)])
    chosen = greedy(function, n)
    best = [chosen.rows.numpy(), *_alone(parts, n)]
    worth = [np.sum(crew.ask_all("act", "worth", torch.from_numpy(at)), axis=0) for at in best]
    first = int(np.argmax([one.sum() for one in worth]))
    return Chosen(torch.from_numpy(rows[best[first]]), torch.from_numpy(worth[first]))


def _alone(parts: list[IntArray], n: int) -> list[IntArray]:
    """Where the picks of each shard are among all picks, for shards that made n of them."""
    starts = np.cumsum([0, *(len(part) for part in parts)])
    return [np.arange(start, start + n) for start, part in zip(starts, parts) if len(part) == n]


def _flat(call: Call) -> tuple[Any, ...]:
    method, args = call
    return method, *args
