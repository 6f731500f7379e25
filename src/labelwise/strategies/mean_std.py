"""Mean STD: ask about the rows whose class probabilities vary most over the draws."""

from __future__ import annotations

from torch import Tensor

from labelwise.evidence import Rows, check, rows_first
from labelwise.kernels import Chosen, Generator, per_row
from labelwise.kernels.cost import score_work
from labelwise.strategies.pickers import Picker, pick
from labelwise.strategies.registry import strategy


def mean_std_scores(draws: Rows | Tensor) -> Tensor:
    """Standard deviation of a class's probability over the draws, averaged over classes.

    ``mean_c sqrt(mean_s (p_sc - mean_s p_sc)^2)``: the deviation divides by S, not by S - 1.

    Args:
        draws: (S, N, C), anything `Rows` takes; draws[s] are class distributions by one sample
            of the model's posterior.

    Returns:
        (N,) float64 in [0, 1/2], no unit. 0 where all draws agree, and with a single draw.
        Larger = asked first.

    Raises:
        InputError: wrong shape, or a row of a draw that is no distribution.

    Source:
        Kampffmeyer, Salberg & Jenssen, "Semantic Segmentation of Small Objects and Modeling of
        Uncertainty in Urban Remote Sensing Images Using Deep Convolutional Neural Networks",
        CVPR Workshops 2016; as a query, Gal, Islam & Ghahramani, ICML 2017.

    >>> import torch
    >>> mean_std_scores(torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]]))
    tensor([0.2500], dtype=torch.float64)
    """
    rows = rows_first(check("draws", draws))

    def variation(block: Tensor) -> Tensor:
        return block.double().std(1, correction=0).mean(1)

    return per_row(rows.blocks(), len(rows), variation)


@strategy(
    cite="Kampffmeyer et al., CVPRW 2016; Gal et al., ICML 2017",
    cost=score_work,
    costs="One pass over S x N x C draws; 8 N bytes.",
    fails="Ignores likeness within the batch; few draws are noisy.",
)
def mean_std(
    draws: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    picker: str | Picker = "top",
) -> Chosen:
    """The n candidates with the largest `mean_std_scores`, most varied first."""
    scores = mean_std_scores(draws)
    return pick(scores, n=n, candidates=candidates, generator=generator, picker=picker)
