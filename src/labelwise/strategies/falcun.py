"""FALCUN: draw rows that are unsure or far, in predictions, from those drawn before."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, as_float, check
from labelwise.kernels import Chosen, Generator, per_row
from labelwise.kernels.cost import Sizes, Work
from labelwise.strategies.margin import margin_scores
from labelwise.strategies.registry import strategy


def falcun_work(sizes: Sizes) -> Work:
    """A pass over all predictions a draw, and a random number for every candidate."""
    entries = float(sizes.rows * max(1, sizes.classes))
    return Work(
        passes=(sizes.n, sizes.n + 4.0),
        numbers=(0.1 * sizes.n * entries, sizes.n * (4 * entries + 60 * sizes.rows)),
        steps=(sizes.n, 40.0 * sizes.n),
        held=(16.0 * sizes.rows, 120.0 * sizes.rows + sizes.stored * sizes.rows),
    )


@strategy(
    cite="Gilhuber et al., ECML PKDD 2024",
    cost=falcun_work,
    costs="One pass over N x C probabilities a pick, n N C operations; 50 N bytes.",
    fails=(
        "Sees predictions only: rows the model confuses alike count as alike; large n takes "
        "as many passes."
    ),
)
def falcun(
    probs: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    gamma: float = 10.0,
    scaled: Literal["draw", "kept"] = "draw",
) -> Chosen:
    """Draw in turn a candidate with chances proportional to ``(u + d) ** gamma``.

    u is the uncertainty ``1 - (first - second)``. d, the diversity, is u at first, and after
    every draw the lesser of itself and the sum of absolute differences to the prediction drawn.
    For every draw it is scaled to 0..1 over the candidates not drawn yet. Once all of these have
    a diversity of 0 they are drawn uniformly.

    Args:
        probs: (N, C), C >= 2.
        gamma: >= 0: 0 draws uniformly, large values take the largest. 10 is the authors'.
        scaled: ``"draw"`` as above and in the authors' code; ``"kept"`` scales after every draw,
            over all candidates, and what is scaled goes on to the next draw, as another reading
            of the paper has it.

    Returns:
        Rows in the order drawn; the score of each is u + d when it was drawn, 0 where the draw
        was uniform for want of diversity.

    Raises:
        InputError: a single class, or an option out of range.

    Source:
        Gilhuber, Beer, Ma & Seidl, "FALCUN: A Simple and Efficient Deep Active Learning
        Strategy", ECML PKDD 2024.

    >>> from labelwise import select
    >>> probs = [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.4, 0.6]]
    >>> sorted(select("falcun", 2, probs=probs, gamma=200).rows.tolist())[1]
    2
    """
    if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 0 <= gamma < math.inf:
        raise InputError(f"gamma must be a number >= 0, got {gamma!r}")
    if not isinstance(scaled, str) or scaled not in ("draw", "kept"):
        raise InputError(f'scaled must be "draw" or "kept", got {scaled!r}')
    rows, at = check("probs", probs), candidates.cpu()
    unsure = margin_scores(rows).cpu()[at].clamp(min=0).numpy()
    some = rows if len(at) == len(rows) else rows.subset(at)
    diverse, left = unsure.copy(), np.ones(len(at), dtype=bool)
    stream = generator.child("draws")
    picks: list[int] = []
    scores: list[float] = []
    for turn in range(n):
        relevance = unsure + (_to_one(diverse, left) if scaled == "draw" else diverse)
        if scaled == "draw" and not (diverse[left] > 0).any():
            relevance = np.zeros(len(at))
        best = _drawn(relevance, left, gamma, stream.gumbel(at.numpy(), draw=turn))
        picks.append(best)
        scores.append(float(relevance[best]))
        left[best] = False
        if turn + 1 < n:
            diverse = np.minimum(diverse, differences(some, best).cpu().numpy())
            if scaled == "kept":
                diverse = _to_one(diverse, np.ones_like(left))
    return Chosen(at[torch.tensor(picks)], torch.tensor(scores, dtype=torch.float64))


def _to_one(values: NDArray[np.float64], over: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values scaled so that some of them fill 0..1; all 0 where these are all the same."""
    low, high = values[over].min(), values[over].max()
    return (values - low) / (high - low) if high > low else np.zeros(len(values))


def _drawn(
    relevance: NDArray[np.float64],
    left: NDArray[np.bool_],
    gamma: float,
    noise: NDArray[np.float64],
) -> int:
    """Which of those left is drawn by ``relevance ** gamma``: the largest perturbed log."""
    may = left & (relevance > 0)
    if gamma == 0 or not may.any():
        return int(np.where(left, noise, -np.inf).argmax())
    keys = np.full(len(relevance), -np.inf)
    level = np.log(relevance[may])
    with np.errstate(over="ignore"):  # measured from the largest: too far below it is never drawn
        keys[may] = gamma * (level - level.max()) + noise[may]
    return int(keys.argmax())


def differences(probs: Rows, row: int) -> Tensor:
    """The sum of absolute differences of each prediction to that of one row, (N,) float64.

    >>> differences(Rows([[0.5, 0.5], [1.0, 0.0]]), 0)
    tensor([0., 1.], dtype=torch.float64)
    """
    one = as_float(probs.take(torch.tensor([row])))

    def differs(block: Tensor) -> Tensor:
        # Pair by pair, so that neither blocks nor the order of rows change a sum.
        return torch.cdist(as_float(block), one, p=1)[:, 0]

    return per_row(probs.blocks(), len(probs), differs).double()
