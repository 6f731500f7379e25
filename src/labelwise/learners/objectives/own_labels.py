"""What objectives share that let the network label rows itself: ramps, sharpening, mixtures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.learners.objectives.base import Step


def ramp(step: Step, share: float) -> float:
    """Where the weight of a loss is on its way from 0 to 1 during the first steps.

    Args:
        step: where in the fit.
        share: of all steps, in [0, 1], until 1 is reached; 0 is no way at all.

    >>> [ramp(Step(number, 10, 0, 0.1), 0.4) for number in (0, 1, 9)]
    [0.0, 0.25, 1.0]
    """
    return 1.0 if share == 0 else min(1.0, step.number / (share * step.total))


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    """Class distributions to the power of one over a temperature, normalized.

    Args:
        probs: (n, C) class distributions.
        temperature: above 0; below 1 the likeliest class gains.

    Returns:
        (n, C) class distributions. Logs are taken, so that a temperature near 0 rounds to one
        class and not to 0 / 0.

    >>> sharpen(torch.tensor([[0.75, 0.25]]), 0.5)
    tensor([[0.9000, 0.1000]])
    """
    return (probs.log() / temperature).softmax(1)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """(n,) cross-entropies in nats of logits (n, C) with class distributions (n, C)."""
    return -(targets * logits.float().log_softmax(1)).sum(1)


class Mixer:
    """Mixtures of rows and of their targets; what it draws from is kept in checkpoints.

    Each row is mixed with another of the same minibatch, drawn without replacement, by a share
    of its own: the larger of ``s`` and ``1 - s`` with ``s`` from Beta(``beta``, ``beta``), so a
    row stays more like itself than like its partner.

    Args:
        beta: above 0.
        generator: on the CPU; decides all shares and partners.

    Source:
        Zhang et al., "mixup", ICLR 2018; the larger share: Berthelot et al., "MixMatch",
        NeurIPS 2019, equations 8 to 11.
    """

    def __init__(self, beta: float, generator: torch.Generator) -> None:
        self._beta = beta
        seed = int(torch.randint(2**62, (1,), generator=generator))
        self._noise = np.random.default_rng(seed)

    def mix(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix inputs (n, ...) and targets (n, C) to as many of the same shapes; see `mixed`.

        Raises:
            InputError: inputs that cannot be mixed, such as tokens.
        """
        partners = torch.from_numpy(self._noise.permutation(len(inputs)))
        shares = self._noise.beta(self._beta, self._beta, len(inputs)).astype(np.float32)
        return mixed(inputs, targets, partners, torch.from_numpy(shares))


def mixed(
    inputs: Tensor, targets: Tensor, partners: Tensor, shares: Tensor
) -> tuple[Tensor, Tensor]:
    """Mixtures of rows with given partners and shares; see `Mixer`.

    Args:
        inputs: (n, ...) fractions or uint8.
        targets: (n, C).
        partners: (n,) int64 rows.
        shares: (n,) in [0, 1]; the larger of it and one less it is the row's own.

    Returns:
        (n, ...) and (n, C). Fractions give float32; pixels of uint8 stay that, rounded, because
        networks tell levels of 0..255 from fractions of 0..1 by the type.

    >>> rows = torch.tensor([[0.0], [8.0]])
    >>> mixed(rows, torch.eye(2), torch.tensor([1, 0]), torch.tensor([0.25, 1.0]))
    (tensor([[2.],
            [8.]]), tensor([[0.7500, 0.2500],
            [0.0000, 1.0000]]))
    """
    if not (inputs.is_floating_point() or inputs.dtype == torch.uint8):
        raise InputError(f"rows of {inputs.dtype} cannot be mixed: give fractions or uint8 pixels")
    partners, shares = partners.to(inputs.device), shares.to(inputs.device)
    own = torch.maximum(shares, 1 - shares)
    by_row = own.reshape(-1, *[1] * (inputs.ndim - 1))
    both = torch.lerp(inputs[partners].float(), inputs.float(), by_row)
    if inputs.dtype == torch.uint8:
        both = both.round().to(torch.uint8)
    return both, torch.lerp(targets[partners], targets, own[:, None])


def require(holds: bool, name: str, rule: str, value: object) -> None:
    """Refuse an option's value that its rule does not allow."""
    if not holds:
        raise InputError(f"{name} must be {rule}, got {value!r}")


def require_weight(name: str, value: float) -> None:
    """Refuse the weight of a loss that is no number at least 0."""
    require(0 <= value < float("inf"), name, "at least 0 and finite", value)
