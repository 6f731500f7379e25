"""CAL: rows predicted unlike the labeled rows that lie nearest to them."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, as_float, check
from labelwise.kernels import Chosen, Cosine, Euclidean, Generator, nearest_neighbors, per_row
from labelwise.kernels.cost import Sizes, Work, score_work
from labelwise.kernels.euclidean import check_directions
from labelwise.strategies.pickers import Picker, pick
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy

_SMALLEST = 2.0**-126
"""What smaller probabilities count as in a logarithm: the least normal float32."""

_ENTRIES = 1 << 20


def cal_work(sizes: Sizes) -> Work:
    """Distances of all rows to the labeled ones, and ten divergences a row."""
    pairs = float(sizes.rows * sizes.labeled)
    near = Work(
        products=(0.3 * pairs * sizes.width, 8 * pairs * sizes.width),
        numbers=(0.1 * pairs, 20 * pairs + 200.0 * sizes.rows * (sizes.classes + 40)),
        held=(0.0, 16.0 * sizes.labeled * (sizes.width + sizes.classes) + 200e6),
    )
    return score_work(sizes) + near


def cal_scores(
    probs: Rows | Tensor,
    embeddings: Rows | Tensor,
    labeled: Tensor,
    neighbors: int = 10,
    normalize: bool = True,
) -> Tensor:
    """The mean divergence of each prediction from those of its nearest labeled rows.

    Args:
        probs: (N, C). embeddings: (N, D).
        labeled: (L,) int64 rows that have labels; their labels play no part.
        neighbors: how many of them, the nearest by the Euclidean distance; all if L is less.
        normalize: divide each embedding by its length first, as the authors' code does.

    Returns:
        (N,) float64 >= 0, in nats: ``mean over neighbors l of KL(p_l || p_x)``. Larger = asked
        first. Probabilities below 1.2e-38 count as that in the logarithm; with nothing labeled
        every row scores 0.

    Raises:
        InputError: ``neighbors`` below 1, or a row of zeros when normalizing.

    Source:
        Margatina, Vernikos, Barrault & Aletras, "Active Learning by Acquiring Contrastive
        Examples", EMNLP 2021.

    >>> probs = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1]])
    >>> cal_scores(probs, torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0]))
    tensor([0.0000, 0.0000, 0.5108], dtype=torch.float64)
    """
    check_neighbors(neighbors)
    sizes: dict[str, tuple[int, str]] = {}
    p, h = check("probs", probs, sizes), check("embeddings", embeddings, sizes)
    known = labeled.cpu().sort().values
    if not len(known):
        return torch.zeros(len(p), dtype=torch.float64)
    if normalize:
        check_directions(h)
    points = (Cosine if normalize else Euclidean)(Rows(h.take(known), "labeled embeddings"))
    theirs = as_float(p.take(known))
    k = min(neighbors, len(known))

    def diverge(predicted: Tensor, embedded: Tensor) -> Tensor:
        near = nearest_neighbors(points, k, queries=points.points(embedded)).rows
        near, logs = near.to(theirs.device), logarithms(predicted)
        total = torch.zeros(len(logs), dtype=torch.float64, device=logs.device)
        for column in near.T:
            q = normalized(theirs[column]).to(logs.device)
            total += (q * (logarithms(q) - logs)).sum(1)
        return (total / k).clamp_(min=0)

    step = min(h.block_size(), max(1, _ENTRIES // (p.shape[1] + k)))
    blocks = ((i, (a, b)) for (i, a), (_, b) in zip(p.blocks(step), h.blocks(step)))
    return per_row(blocks, len(p), lambda block: diverge(*block))


def normalized(probs: Tensor) -> Tensor:
    """Predictions in float64 that sum to 1 exactly, (b, C): stored ones may be off by 1e-2."""
    p = as_float(probs).double()
    return p / p.sum(1, keepdim=True)


def logarithms(probs: Tensor) -> Tensor:
    """Logarithms of predictions, (b, C) float64, finite."""
    return normalized(probs).clamp_(min=_SMALLEST).log_()


def check_neighbors(neighbors: int) -> None:
    """Refuse what is no number of neighbors."""
    if isinstance(neighbors, bool) or not isinstance(neighbors, int) or neighbors < 1:
        raise InputError(f"neighbors must be a whole number >= 1, got {neighbors!r}")


@strategy(
    cite="Margatina et al., EMNLP 2021",
    cost=cal_work,
    costs="2 N L D operations in products and 10 N C logarithms; 8 N bytes and the labeled rows.",
    fails=(
        "With few labels the nearest labeled rows are far away and say little; ignores likeness "
        "within the batch."
    ),
)
def cal(
    probs: Rows,
    embeddings: Rows,
    labeled: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    neighbors: int = 10,
    normalize: bool = True,
    picker: str | Picker = "top",
) -> Chosen | Picks:
    """The n candidates with the largest `cal_scores`: the model tells them from like rows.

    This is the rule as published. `cal_lowest` is what codes for coresets call by the same name;
    it asks for nearly the opposite.

    Args:
        probs: (N, C). embeddings: (N, D).
        labeled: (L,) rows that have labels. With none there is nothing to contrast with: all
            scores are 0, ties are drawn at random, and the notes say so.
        neighbors: labeled rows to compare with; 10 is the authors'.
        normalize: see `cal_scores`.

    Raises:
        InputError: see `cal_scores`.
    """
    have = torch.zeros(0, dtype=torch.int64) if labeled is None else labeled
    scores = cal_scores(probs, embeddings, have, neighbors, normalize)
    found = pick(scores, n=n, candidates=candidates, generator=generator, picker=picker)
    if len(have):
        return found
    notes = ("nothing is labeled, so there is nothing to contrast with: all rows score 0",)
    return Picks(found.rows.cpu().numpy(), scores=found.gains.cpu().numpy(), notes=notes)
