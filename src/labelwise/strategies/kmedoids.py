"""k-medoids: rows that are near to all others, as partitioning around medoids finds them."""

from __future__ import annotations

import math

from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, check
from labelwise.kernels import (
    Cosine,
    Euclidean,
    Generator,
    Progress,
    Similarity,
    greedy,
    hold_limit,
)
from labelwise.kernels.cost import coverage_work
from labelwise.kernels.functions import FacilityLocation
from labelwise.kernels.medoids import swap_medoids
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy


@strategy(
    cite="Kaufman & Rousseeuw, Finding Groups in Data, 1990",
    cost=coverage_work,
    costs="All pairs a few times over: up to 12 N^2 D operations, or the N x N distances if held.",
    fails=(
        "Ignores the model, so late in a run it asks where nothing is left to learn; rare "
        "groups stay without a pick."
    ),
)
def kmedoids(
    embeddings: Rows,
    labeled: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    progress: Progress | None = None,
    rounds_of_swaps: int = 0,
    normalize: bool = False,
    dense: bool = False,
) -> Picks:
    """Pick rows so that the sum of all rows' distances to the nearest pick is small.

    First greedily: each pick is the row that lowers the sum most (BUILD of partitioning around
    medoids). Then, if asked to, exchange picks for other candidates as long as that lowers the
    sum (SWAP; see `labelwise.kernels.medoids.swap_medoids`). Equal gains go by noise.

    Args:
        embeddings: (N, D).
        labeled: (L,) rows that are medoids from the start, and stay.
        rounds_of_swaps: over how many rounds of all candidates to look for exchanges, until none
            is left. 0, the default, keeps the greedy picks, of which the first ones are good
            for a smaller query too, and whose value is at least 1 - 1/e of the best. Each round
            costs 2 N^2 D operations; 3 are mostly enough to settle.
        normalize: divide each row by its length first.
        dense: consent to comparing more than 200,000 x 200,000 pairs of rows.

    Returns:
        Picks. Greedy ones in the order picked; the score is by how much each lowered the sum,
        where with nothing labeled the first is measured from a sum in which every row counts
        the most that a distance could be. Exchanged ones by how much the sum would rise without
        each (infinity for an only medoid); the notes tell what the exchanges did. No N x N
        matrix beyond ``memory`` (512 MiB by default).

    Raises:
        InputError: an option out of range, or a zero row when normalizing.
        ResourceError: more pairs than that without consent, or ``memory`` is too small.

    Source:
        Kaufman & Rousseeuw, "Finding Groups in Data", Wiley 1990, chapter 2.

    >>> from labelwise import select
    >>> select("kmedoids", 2, embeddings=[[0.0], [1.0], [2.0], [7.0], [15.0]]).rows
    array([2, 4])
    """
    rounds = rounds_of_swaps
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
        raise InputError(f"rounds_of_swaps must be a whole number >= 0, got {rounds!r}")
    rows = check("embeddings", embeddings)
    points = (Cosine if normalize else Euclidean)(rows, hold=hold_limit(memory, often=True))
    # No two points are farther apart; the least bound keeps most digits of the distances.
    width = 2.001 * math.sqrt(float(points.squared_norms().max())) or 1.0
    alike = Similarity(points, "complement", width=width)
    built = greedy(
        FacilityLocation(alike, covered=labeled, dense=dense, memory=memory),
        n,
        candidates=candidates,
        ties=generator.child("ties"),
        memory=memory,
        progress=progress,
    )
    if not rounds:
        return Picks(built.rows.cpu().numpy(), scores=built.gains.cpu().numpy())
    found = swap_medoids(
        Similarity(points, "distance"),
        built.rows,
        generator=generator,
        fixed=labeled if labeled is not None and len(labeled) else None,
        candidates=candidates,
        passes=rounds,
        memory=memory,
        progress=progress,
    )
    end = "none is left" if found.settled else "more may be left"
    note = f"{found.swaps} exchanges, {end}; the sum of distances is {found.cost:.6g}"
    return Picks(found.chosen.rows.numpy(), scores=found.chosen.gains.numpy(), notes=(note,))
