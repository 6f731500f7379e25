"""BAIT: the batch that leaves the least Fisher-weighted uncertainty of the last layer."""

from __future__ import annotations

from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, check
from labelwise.kernels import Chosen, Generator, Progress, fisher_greedy
from labelwise.kernels.cost import Sizes, Work
from labelwise.strategies.registry import strategy


def bait_work(sizes: Sizes) -> Work:
    """Two blocks of C - 1 squared a row, updated 2 n times; matrices of ((C - 1) D)^2."""
    free = max(1, sizes.classes - 1)
    size, steps = free * sizes.width, 3.0 * sizes.n
    step = sizes.rows * free**2 * (4.0 * sizes.width + 8.0 * free) + 8.0 * size**2 * free
    forms = 4.0 * sizes.rows * size**2 + 8.0 * size**3
    held = 16.0 * sizes.rows * free**2 + 32.0 * size**2 + 24.0 * sizes.rows
    copy = 8.0 * sizes.rows * (sizes.width + free**2)
    return Work(
        products=(0.2 * sizes.n * step, 4 * (steps * step + 2 * forms)),
        passes=(2, 4 + 2 * steps),
        numbers=(sizes.n * sizes.rows, 40 * steps * sizes.rows * (free**2 + sizes.width)),
        steps=(sizes.n, 200 * steps),
        held=(0.3 * held, 2 * held + min(copy, 2.0**30) + 4e6),
    )


@strategy(
    cite="Ash et al., NeurIPS 2021",
    cost=bait_work,
    costs="(C D)^2 numbers four times; 2 n steps of 4 N C^2 D operations.",
    fails=(
        "Cannot run with many classes times columns, where it says so; assumes that only the "
        "last layer matters."
    ),
)
def bait(
    probs: Rows,
    embeddings: Rows,
    labeled: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    progress: Progress | None = None,
    lam: float = 1.0,
    oversample: float = 2.0,
) -> Chosen:
    """Pick rows that lower ``tr(A^-1 F)`` most, twice as many as asked, then drop the least missed.

    F is the mean Fisher information of the last layer's weights over all rows, and A, with L
    labeled rows and n picks S, is ``lam I + L / (L + n) mean of I(x) over labeled rows +
    n / (L + n) sum of I(x) over S``. No label is used: I(x) is an expectation over the model's
    own predictions.

    Args:
        probs: (N, C), C >= 2.
        embeddings: (N, D), the input of the last layer; as published, without the bias.
        labeled: (L,) rows that have labels.
        lam: ridge, > 0. The authors take 1, and 0.01 for CIFAR-10.
        oversample: picks before any are dropped, as a multiple of n, >= 1.
        memory: bytes; with c = C - 1, 16 N c^2 + 32 (c D)^2 are needed at the least.

    Returns:
        Rows in the order added; the score of each is by how much it lowered the trace then.
        Rows whose predictions are certain lower it by 0 and come last; equal ones go by noise.

    Raises:
        InputError: a single class, an option out of range, or embeddings so large for ``lam``
            (a row's information over 1e9 times it) that float64 cannot tell them apart.
        ResourceError: the blocks and matrices do not fit. At C = 100, D = 512 the matrices take
            82 GB: use fewer classes or narrower embeddings.

    Source:
        Ash, Goel, Krishnamurthy & Kakade, "Gone Fishing: Neural Active Learning with Fisher
        Embeddings", NeurIPS 2021. Exact: the picks of their N x C x (C D) arrays, in
        O(N C^2 (C + D) + C (C D)^2) a step; see `labelwise.kernels.fisher_greedy`.

    >>> from labelwise import select
    >>> probs = [[0.5, 0.5], [0.5, 0.5], [0.99, 0.01]]
    >>> select("bait", 1, probs=probs, embeddings=[[2.0, 0.0], [0.0, 1.0], [3.0, 3.0]]).rows
    array([0])
    """
    p, h = check("probs", probs), check("embeddings", embeddings)
    if p.shape[1] < 2:
        raise InputError("bait needs two classes to tell apart, but probs has one column")
    return fisher_greedy(
        p,
        h,
        n,
        covered=labeled,
        candidates=candidates,
        lam=lam,
        oversample=oversample,
        ties=generator.child("ties"),
        memory=memory,
        progress=progress,
    )
