"""VAAL: ask about the rows that a discriminator takes least for labeled ones."""

from __future__ import annotations

from torch import Tensor

from labelwise.evidence import Rows, as_float, check
from labelwise.kernels import Chosen, Generator
from labelwise.kernels.cost import score_work
from labelwise.strategies.pickers import Picker, pick
from labelwise.strategies.registry import strategy


def vaal_scores(latent_discriminator: Rows | Tensor) -> Tensor:
    """How sure the discriminator is that a row has no label: 1 less its belief that it has one.

    Args:
        latent_discriminator: (N,) in [0, 1], the belief that a row is a labeled one.

    Returns:
        (N,) float64 in [0, 1]. Larger = asked first.

    Raises:
        InputError: wrong shape, or a value out of range.

    Source:
        Sinha, Ebrahimi & Darrell, "Variational Adversarial Active Learning", ICCV 2019.

    >>> import torch
    >>> vaal_scores(torch.tensor([0.25, 1.0]))
    tensor([0.7500, 0.0000], dtype=torch.float64)
    """
    beliefs = check("latent_discriminator", latent_discriminator).tensor()
    return 1 - as_float(beliefs).double().cpu()


@strategy(
    cite="Sinha et al., ICCV 2019",
    cost=score_work,
    costs="One pass over N beliefs; 8 N bytes. Training the VAE and discriminator dominates.",
    fails=(
        "Labeled sets that look like the pool, where it picks by chance; blind to the task: "
        "an outlier looks as good as a class nobody has labeled."
    ),
    objectives="cross_entropy+vaal",
)
def vaal(
    latent_discriminator: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    picker: str | Picker = "top",
) -> Chosen:
    """The n candidates that the discriminator takes least for labeled.

    The evidence comes from a network whose objectives include ``vaal``.

    Args:
        latent_discriminator: (N,) in [0, 1].

    Raises:
        InputError: a value out of range.
    """
    scores = vaal_scores(latent_discriminator)
    return pick(scores, n=n, candidates=candidates, generator=generator, picker=picker)
