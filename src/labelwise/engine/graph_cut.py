"""Graph cut on shards: row sums by one exchange of sums, picks by exchanges of candidates."""

from __future__ import annotations

from typing import get_args

import numpy as np
import torch
from torch import Tensor

from labelwise.engine.crew import Call
from labelwise.engine.gains import GainsHere, Linear, linear_sums
from labelwise.engine.shards import Shards
from labelwise.errors import InputError, nearest
from labelwise.kernels import Chosen, Progress, Similarity
from labelwise.kernels.bounds import Fence, fenced
from labelwise.kernels.centers import FloatArray, IntArray
from labelwise.kernels.functions.pairwise import Pairwise
from labelwise.kernels.greedy import greedy
from labelwise.kernels.progress import resume, tell
from labelwise.kernels.sums import Total

LINE = 512
"""Candidates that are exchanged in a round. Picks do not depend on it."""


class _Line(Pairwise):
    """Graph cut on the candidates at hand, whose gains are known."""

    submodular = False

    def __init__(self, similarity: Similarity, lam: float, gains: FloatArray) -> None:
        super().__init__(similarity, -2 * lam)
        self._gains = torch.from_numpy(gains)

    def _base(self) -> Tensor:
        return self._gains.to(self.device)


def graph_cut(
    shards: Shards,
    n: int,
    *,
    kind: Linear = "cosine01",
    lam: float = 0.5,
    covered: Tensor | None = None,
    candidates: Tensor | None = None,
    progress: Progress | None = None,
    line: int = LINE,
) -> Chosen:
    """The picks of ``greedy(GraphCut(similarity, lam), n)``, with the rows on shards.

    A linear similarity's row sums need only the sum of all points, and the redundancy of a row
    only the sum of the picks: so a round sends every shard that one sum and gets its best
    candidates, among which picks are made as long as none outside can be better.

    Args:
        shards: N points, built with ``shift=False`` unless they are directions.
        n: how many rows to pick.
        kind: ``dot``, ``cosine`` or ``cosine01``.
        lam: what redundancy counts for, >= 0; see `labelwise.kernels.functions.GraphCut`.
        covered: (M,) int64 rows that count as picked from the start.
        candidates: (K,) int64 rows that may be picked; all by default.
        progress: told the picks as they are made; resumes an interrupted run of the same call.
        line: how many candidates are exchanged in a round; speed alone depends on it.

    Returns:
        (n,) rows in the order picked and their (n,) float64 gains.

    Raises:
        InputError: an argument out of range, another similarity, or points that were shifted.

    Source:
        Iyer, Khargoankar, Bilmes & Asnani, ALT 2021 (the function); Mirzasoleiman, Karbasi,
        Sarkar & Krause, NIPS 2013 (greedy in rounds; here no pick is lost to the exchange).

    >>> from labelwise.engine import LocalShards
    >>> x = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]
    >>> graph_cut(LocalShards(x, shards=2, shift=False), 2, kind="dot", lam=1.0).rows
    tensor([1, 2])
    """
    if kind not in get_args(Linear):
        raise InputError(f"kind must be linear, got {kind!r}; {nearest(kind, get_args(Linear))}")
    if not 0 <= lam < np.inf:
        raise InputError(f"lam must be a finite number >= 0, got {lam}")
    fence = fenced(len(shards), n, covered, candidates)
    rows, gains = resume(progress, n, fence.allows)
    run = _Run(shards, kind, lam, fence, line)
    run.picked(np.concatenate([fence.taken, np.array(rows, dtype=np.int64)]))
    while (before := len(rows)) < n:
        more, gained = run.round(n - before)
        run.picked(more)
        rows += more.tolist()
        gains += gained.tolist()
        tell(progress, rows, gains, before)
    return Chosen(torch.tensor(rows), torch.tensor(gains, dtype=torch.float64))


class _Run:
    """One selection: the sums, the picks so far, and the rounds."""

    def __init__(self, shards: Shards, kind: Linear, lam: float, fence: Fence, line: int) -> None:
        self._line = line
        self._shards, self._kind, self._lam = shards, kind, lam
        role: list[Call] = [("take_on", (GainsHere, kind))]
        shards.occupy(lambda shard: role)
        shards.crew.tell_all("take_on", GainsHere, kind)
        parts: list[Total] = shards.crew.ask_all("act", "total")
        total = parts[0]
        for part in parts[1:]:
            total = total.plus(part)

        def begin(shard: int) -> Call:
            return "act", ("begin", lam, total, shards.part(fence, shard))

        self._picks = total.times(0.0)
        self._rows: IntArray = np.zeros(0, dtype=np.int64)
        self._scale = max(shards.crew.ask_all("act", "scale"))
        shards.crew.tell({shard: begin(shard) for shard in range(len(shards.crew))})
        shards.occupy(lambda shard: [*role, begin(shard)])

    def picked(self, rows: IntArray) -> None:
        """Count some rows as picked."""
        if len(rows):
            sums = linear_sums(self._shards.gathered(rows), self._kind)
            self._picks = self._picks.plus(sums.total())
            self._rows = np.concatenate([self._rows, rows])

    def round(self, most: int) -> tuple[IntArray, FloatArray]:
        """At least one more pick and its gain, and as many as are certain."""
        crew = self._shards.crew
        parts = crew.ask_all("act", "front", self._line, self._picks, self._rows)
        rows = np.concatenate([part[0] for part in parts])
        gains = np.concatenate([part[1] for part in parts])
        order = np.lexsort((rows, -gains))
        rest = max([part[2] for part in parts] + gains[order[self._line : self._line + 1]].tolist())
        first = order[: self._line]
        first = first[np.argsort(rows[first])]
        rows, gains = rows[first], gains[first]
        tie = self._tie(float(gains.max()))
        if rest >= gains.max() - tie:
            return self._first(float(gains.max()) - tie, rows, gains)
        like = Similarity(self._shards.gathered(rows), self._kind)
        chosen = greedy(_Line(like, self._lam, gains), min(most, len(rows)), method="naive")
        # A row outside may gain from picks that it is unlike, but no more than this.
        rise = 0.0 if self._kind == "cosine01" else 2 * self._lam * self._scale
        limit = rest + rise * np.arange(len(chosen.rows)) + tie
        certain = np.append(chosen.gains.numpy() > limit, False)
        count = max(1, int(certain.argmin()))
        return rows[chosen.rows.numpy()[:count]], chosen.gains.numpy()[:count]

    def _tie(self, gain: float) -> float:
        """How close gains have to be to be equal: what `Pairwise` and `greedy` take for a tie."""
        rounding = 1e-14 * (1 + len(self._rows) * 2 * self._lam) * self._scale
        return max(rounding, 1e-12 * abs(gain))

    def _first(
        self, least: float, rows: IntArray, gains: FloatArray
    ) -> tuple[IntArray, FloatArray]:
        """The lowest of many rows whose gains are equal."""
        found = self._shards.crew.ask_all("act", "lowest", least)
        row = min(row for row in found if row is not None)
        at = np.flatnonzero(rows == row)
        return np.array([row]), gains[at] if len(at) else np.array([gains.max()])
