"""CAL as codes for coresets have it: rows predicted most like their neighbors in the pool."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.evidence import Rows, check
from labelwise.kernels import Chosen, Euclidean, Generator, hold_limit, nearest_neighbors
from labelwise.kernels.cost import Sizes, Work, score_work
from labelwise.strategies.cal import check_neighbors, logarithms, normalized
from labelwise.strategies.pickers import Picker, pick
from labelwise.strategies.registry import strategy

_ENTRIES = 1 << 20


def cal_lowest_work(sizes: Sizes) -> Work:
    """All pairs of rows once for their neighbors, and ten divergences a row."""
    pairs = float(sizes.rows) ** 2
    near = Work(
        products=(0.5 * pairs * sizes.width, 8 * pairs * sizes.width),
        numbers=(0.1 * pairs, 10 * pairs + 400.0 * sizes.rows * (sizes.classes + 40)),
        held=(160.0 * sizes.rows, 1000.0 * sizes.rows + 4.0 * sizes.rows * sizes.width + 200e6),
    )
    return score_work(sizes) + near


def cal_lowest_scores(
    probs: Rows | Tensor,
    embeddings: Rows | Tensor,
    neighbors: int = 10,
    memory: int | None = None,
) -> Tensor:
    """Minus the mean divergence between each prediction and those of its nearest rows.

    Args:
        probs: (N, C). embeddings: (N, D).
        neighbors: how many rows of the pool, the nearest by the Euclidean distance, the row
            itself left out; at most N - 1.
        memory: bytes for the search; see `labelwise.kernels.nearest_neighbors`.

    Returns:
        (N,) float64 <= 0, in nats: minus the mean over neighbors l of
        ``(KL(p_l || p_x) + KL(p_x || p_l)) / 2``. Larger = asked first. Probabilities below
        1.2e-38 count as that in the logarithm.

    Source:
        Guo, Zhao & Bai, "DeepCore: A Comprehensive Library for Coreset Selection in Deep
        Learning", DEXA 2022, where it is called contrastive active learning.

    >>> probs = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1]])
    >>> cal_lowest_scores(probs, torch.tensor([[0.0], [1.0], [3.0]]), neighbors=1)
    tensor([-0.0000, -0.0000, -0.4394], dtype=torch.float64)
    """
    check_neighbors(neighbors)
    sizes: dict[str, tuple[int, str]] = {}
    p, h = check("probs", probs, sizes), check("embeddings", embeddings, sizes)
    out = torch.zeros(len(p), dtype=torch.float64)
    if len(p) == 1:
        return out
    points = Euclidean(h, hold=hold_limit(memory))
    k = min(neighbors, len(p) - 1)
    near = nearest_neighbors(points, k, exclude_self=True, memory=memory).rows
    for start, block in p.blocks(max(1, _ENTRIES // p.shape[1])):
        part = slice(start, start + len(block))
        mine, logs = normalized(block), logarithms(block)
        total = torch.zeros(len(block), dtype=torch.float64, device=block.device)
        for column in near[part].T:
            q = normalized(p.take(column))
            total += ((q - mine) * (logarithms(q) - logs)).sum(1)
        out[part] = (total / (-2 * k)).cpu()
    return out.clamp_(max=0)


@strategy(
    cite="Margatina et al., EMNLP 2021, as in Guo et al., DEXA 2022",
    cost=cal_lowest_work,
    costs="N^2 D operations for neighbors of all rows and 10 N C logarithms; 170 N bytes.",
    fails=(
        "Easy and typical rows come first: for coresets of a few percent only, worse than "
        "random from 20 % of CIFAR-10 on where published."
    ),
)
def cal_lowest(
    probs: Rows,
    embeddings: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    neighbors: int = 10,
    picker: str | Picker = "top",
) -> Chosen:
    """The n candidates with the largest `cal_lowest_scores`: they agree with the rows around.

    It differs from the published `cal` in three ways: neighbors are rows of the whole pool,
    labeled or not; the divergence is taken both ways; and the rows where it is *lowest* are
    asked for. Strong results published for CAL with small coresets are most likely of this rule.
    Given all labels those codes look for neighbors within a row's class only, which a pool
    without labels does not allow.

    Args:
        probs: (N, C). embeddings: (N, D).
        neighbors: rows to compare with.
        memory: bytes for the search for neighbors.

    Raises:
        ResourceError: ``memory`` is less than the search needs.
    """
    scores = cal_lowest_scores(probs, embeddings, neighbors, memory)
    return pick(scores, n=n, candidates=candidates, generator=generator, picker=picker)
