"""MaxHerding: cover the pool with soft balls, each row as well as its nearest pick does."""

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
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy


@strategy(
    cite="Bae, Noh & Sutherland, ECCV 2024",
    cost=coverage_work,
    costs="All pairs a few times over: up to 12 N^2 D operations, or the N x N kernel if it fits.",
    fails=(
        "Ignores the model, so late in a run it asks where nothing is left to learn; as good as "
        "the embeddings."
    ),
)
def max_herding(
    embeddings: Rows,
    labeled: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    progress: Progress | None = None,
    sigma: float = 1.0,
    divisor: float = 1.0,
    normalize: bool = True,
    dense: bool = False,
) -> Picks:
    """Pick in turn the row that adds most to the generalized coverage of the pool.

    Coverage is the mean over all rows x of the largest ``exp(-d(x, s)^2 / (divisor sigma^2))``
    over labeled and picked rows s. Equal gains go by noise.

    Args:
        embeddings: (N, D), best from self-supervised training.
        labeled: (L,) rows that cover from the start.
        sigma: the width of the balls, > 0, in the embeddings' unit.
        divisor: > 0; 1 as in the authors' code, 2 for the usual form of the Gaussian.
        normalize: divide each row by its length first, as the authors do.
        dense: consent to comparing more than 200,000 x 200,000 pairs of rows.

    Returns:
        Picks; the score is what the pick added to the coverage, in [0, 1]. Up to about 12 N^2 D
        operations, no N x N matrix beyond ``memory`` (512 MiB by default).

    Raises:
        InputError: an option out of range, or a zero row when normalizing.
        ResourceError: more pairs than that without consent, or ``memory`` is too small.

    Source:
        Bae, Noh & Sutherland, "Generalized Coverage for More Robust Low-Budget Active
        Learning", ECCV 2024. Their code looks at a random 35,000 candidates; here all count.

    >>> from labelwise import select
    >>> line = [[0.0], [1.0], [1.5], [2.0], [9.0]]
    >>> select("max_herding", 2, embeddings=line, normalize=False).rows
    array([2, 4])
    """
    return cover(
        check("embeddings", embeddings),
        labeled,
        n=n,
        candidates=candidates,
        generator=generator,
        memory=memory,
        progress=progress,
        width=kernel_width(sigma, divisor),
        weights=None,
        normalize=normalize,
        dense=dense,
    )


def kernel_width(sigma: float, divisor: float) -> float:
    """The width w for which ``exp(-d^2 / (2 w^2))`` is ``exp(-d^2 / (divisor sigma^2))``.

    >>> kernel_width(3.0, 2.0)
    3.0
    """
    return positive(sigma, "sigma") * math.sqrt(positive(divisor, "divisor") / 2)


def positive(value: float, name: str) -> float:
    """A finite number > 0, or an error that names it."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise InputError(f"{name} must be a positive number, got {value!r}")
    return float(value)


def cover(
    rows: Rows,
    labeled: Tensor | None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None,
    progress: Progress | None,
    width: float,
    weights: Tensor | None,
    normalize: bool,
    dense: bool,
) -> Picks:
    """Greedy coverage with a Gaussian kernel, each row weighing ``weights / N``.

    Args:
        rows: (N, D). labeled: (L,) rows that cover from the start.
        width: w of ``exp(-d^2 / (2 w^2))``. weights: (N,) >= 0; ones by default.
        n, candidates, generator, memory, progress, normalize, dense: see `max_herding`.
    """
    points = (Cosine if normalize else Euclidean)(rows, hold=hold_limit(memory, often=True))
    coverage = FacilityLocation(
        Similarity(points, "rbf", width=width),
        weights=weights,
        covered=labeled,
        dense=dense,
        memory=memory,
    )
    ties = generator.child("ties")
    chosen = greedy(coverage, n, candidates=candidates, ties=ties, memory=memory, progress=progress)
    rest = int((chosen.gains == 0).sum())
    notes = (f"nothing was left to cover for the last {rest} picks, drawn at random",)
    scores = (chosen.gains / len(rows)).cpu().numpy()
    return Picks(chosen.rows.cpu().numpy(), scores=scores, notes=notes if rest else ())
