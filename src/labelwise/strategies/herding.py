"""Herding: rows whose mean follows the mean of the pool."""

from __future__ import annotations

import math

from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, check
from labelwise.kernels import (
    Chosen,
    Cosine,
    Euclidean,
    Progress,
    Similarity,
    hold_limit,
    kernel_herding,
)
from labelwise.kernels import herding as follow_mean
from labelwise.kernels.cost import Sizes, Work
from labelwise.strategies.registry import strategy


def herding_work(sizes: Sizes) -> Work:
    """Sums over the pool once (with a kernel all pairs), then a column of it for each pick."""
    picks = sizes.n + sizes.labeled
    column = 2.0 * sizes.rows * sizes.width
    held = 48.0 * sizes.rows
    copy = 4.0 * sizes.rows * sizes.width if not sizes.streamed else 2.6e8
    return Work(
        products=(0.1 * column * picks, column * (20.0 * picks + 1.2 * sizes.rows)),
        passes=(2, 6.0 + picks),
        numbers=(sizes.rows * picks, sizes.rows * (40.0 * picks + 4.0 * sizes.rows + sizes.width)),
        steps=(sizes.n, 100.0 * sizes.n),
        held=(held, 20 * held + copy + 1e8),
    )


@strategy(
    cite="Welling, ICML 2009; Chen, Welling & Smola, UAI 2010",
    cost=herding_work,
    costs="About 2 N D n operations in products; N^2 D more with a kernel; 48 N bytes and more.",
    fails=(
        "Ignores the model; rows may be alike where their mean is right; small groups count as "
        "little as they weigh."
    ),
)
def herding(
    embeddings: Rows,
    labeled: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    memory: int | None = None,
    progress: Progress | None = None,
    sigma: float | None = None,
    normalize: bool = False,
) -> Chosen:
    """Pick rows one at a time so that the mean of labeled and picked rows nears the pool's.

    With t rows labeled or picked, their sum S and the mean mu of all rows, the next pick is the
    row x that minimizes ``|(t + 1) mu - S - x|``. A widely copied implementation takes the
    maximum, which picks outliers.

    Args:
        embeddings: (N, D).
        labeled: (L,) rows that count as picked already.
        sigma: > 0, to herd in the space of the Gaussian ``exp(-d^2 / (2 sigma^2))`` instead,
            where picks follow the whole distribution and not its mean alone.
        normalize: divide each row by its length first, as iCaRL does.

    Returns:
        Rows in the order picked, the lowest on a tie; scores are by how much half the squared
        distance ``|t mu - S|^2 / 2`` fell, below zero where it rose.

    Raises:
        InputError: an option out of range, or a zero row when normalizing.
        ResourceError: ``memory`` is less than the call needs.

    Source:
        Welling, "Herding dynamical weights to learn", ICML 2009; Rebuffi, Kolesnikov, Sperl &
        Lampert, "iCaRL", CVPR 2017 (this form); Chen, Welling & Smola, "Super-samples from
        kernel herding", UAI 2010 (with a kernel).

    >>> from labelwise import select
    >>> select("herding", 3, embeddings=[[0.0], [1.0], [2.0], [9.0]]).rows  # the mean is 3
    array([2, 1, 3])
    """
    wide = isinstance(sigma, int | float) and not isinstance(sigma, bool) and 0 < sigma < math.inf
    if sigma is not None and not wide:
        raise InputError(f"sigma must be a positive number, got {sigma!r}")
    rows = check("embeddings", embeddings)
    points = (Cosine if normalize else Euclidean)(rows, hold=hold_limit(memory))
    if sigma is None:
        return follow_mean(
            points, n, covered=labeled, candidates=candidates, memory=memory, progress=progress
        )
    return kernel_herding(
        Similarity(points, "rbf", width=sigma),
        n,
        rule="distance",
        covered=labeled,
        candidates=candidates,
        memory=memory,
        progress=progress,
    )
