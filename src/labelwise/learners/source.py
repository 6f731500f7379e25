"""How unusually a pretrained network transforms a row, by the classes it was pretrained on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.kernels.kendall import kendall_tau
from labelwise.learners.networks import single

POOLED = 2048
"""Entries of a layer's features up to which they are taken as they are."""

BLOCK = 256
"""Rows that go through the network at once."""


class SourceLayers(NamedTuple):
    """What a pretrained network makes of n rows.

    Attributes:
        early: (n, A) features of a layer near the input.
        late: (n, B) features of a layer near the output.
        probs: (n, K) class distributions over the K source classes.
    """

    early: Tensor
    late: Tensor
    probs: Tensor


def source_layers(network: nn.Module, inputs: Rows, *, early: str, late: str) -> SourceLayers:
    """Features of two layers and the source classes' probabilities, in one pass.

    A layer's output of more than `POOLED` entries a row (a last convolution has 100,000) is
    averaged: over squares of the image for (channels, height, width), over the tokens for
    (tokens, entries).

    Args:
        network: the pretrained network with its own classifier, (n, ...) inputs to (n, K)
            logits; it stays on its device, and is put in evaluation mode for the pass.
        inputs: (N, ...).
        early, late: names of modules, as ``named_modules`` gives them.

    Raises:
        InputError: no module of such a name, or one that the network does not call.
    """
    modules = dict(network.named_modules())
    seen: dict[str, Tensor] = {}

    def tap(name: str) -> torch.utils.hooks.RemovableHandle:
        if name not in modules or name == "":
            known = ", ".join(list(modules)[1:9])
            raise InputError(f"the network has no module {name!r}; it has {known}, ...")

        def keep(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            seen[name] = _pooled(made.detach().float())

        return modules[name].register_forward_hook(keep)

    device = next(network.parameters()).device
    training = network.training
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    hooks = []
    try:
        hooks = [tap(name) for name in dict.fromkeys((early, late))]
        network.eval()
        with torch.no_grad():
            for _, block in inputs.blocks(BLOCK):
                seen.clear()
                probs = network(single(block.to(device))).float().softmax(1)
                missing = [name for name in (early, late) if name not in seen]
                if missing:
                    raise InputError(f"the network never calls its module {missing[0]!r}")
                found.append((seen[early].cpu(), seen[late].cpu(), probs.cpu()))
    finally:
        for hook in hooks:
            hook.remove()
        network.train(training)
    return SourceLayers(*(torch.cat(parts) for parts in zip(*found)))


def source_centers(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The most typical row of every source class: the nearest to the class's mean.

    Args:
        features: (M, D) of rows of the source data.
        labels: (M,) int64 in 0..K-1.
        classes: K.

    Returns:
        (K,) int64 rows; equal distances go to the lowest row.

    Raises:
        InputError: a class without a row.

    >>> source_centers(torch.tensor([[0.0], [4.0], [5.0], [1.0]]), torch.tensor([0, 0, 0, 1]), 2)
    tensor([1, 3])
    """
    centers = []
    for number in range(classes):
        mine = (labels == number).nonzero()[:, 0]
        if len(mine) == 0:
            raise InputError(f"every source class needs a row, and class {number} has none")
        x = features[mine].double()
        centers.append(mine[(x - x.mean(0)).square().sum(1).argmin()])
    return torch.stack(centers)


def distinctiveness(pool: SourceLayers, centers: SourceLayers) -> Tensor:
    """How unusually a pretrained network transforms each row, from an early to a late layer.

    A row's pattern is, for each of K source classes, by how much its squared distance to that
    class's center shrinks from the early layer to the late one. The pattern that is expected of
    the row is the mean of the centers' own, weighted by the classes it is taken for. The score
    is how much the two disagree in order: ``(1 - tau) / 2``, tau Kendall's.

    Args:
        pool: of N rows.
        centers: of K rows, the center of each source class in the order of the classes.

    Returns:
        (N,) float64 in [0, 1]; 0.5 where a pattern is constant. Larger = transformed more
        unusually.

    Raises:
        InputError: shapes that do not fit, or a value that is not finite.

    Source:
        Huang, Zhao & Liu, "Cost-Effective Training of Deep CNNs with Active Model Adaptation",
        KDD 2018. The weights are the source classifier's probabilities (another implementation
        takes its logits). Distances by one matrix product a layer in float64.
    """
    classes = pool.probs.shape[1]
    for name, mine, theirs in zip(SourceLayers._fields, pool, centers):
        if mine.ndim != 2 or theirs.shape != (classes, mine.shape[1]):
            raise InputError(
                f"{name} of the centers must be ({classes}, {mine.shape[-1]}), a row for each "
                f"source class, got {tuple(theirs.shape)}"
            )
        for whose, values in (("pool", mine), ("centers", theirs)):
            bad = ~values.isfinite().all(1)
            if bad.any():
                row = int(bad.nonzero()[0])
                raise InputError(f"{name} of the {whose} must be finite, but row {row} is not")
    own = _patterns(centers, centers)
    parts = []
    for start in range(0, len(pool.probs), BLOCK):
        rows = SourceLayers(*(part[start : start + BLOCK] for part in pool))
        expected = rows.probs.double() @ own
        parts.append((1 - kendall_tau(_patterns(rows, centers), expected)) / 2)
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def _patterns(rows: SourceLayers, centers: SourceLayers) -> Tensor:
    """(n, K): squared distance to each center in the early layer less that in the late one."""
    return _squared(rows.early, centers.early) - _squared(rows.late, centers.late)


def _squared(rows: Tensor, centers: Tensor) -> Tensor:
    x, y = rows.double(), centers.double()
    middle = y.mean(0)  # what is subtracted from both cancels less
    x, y = x - middle, y - middle
    found = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    return found.clamp(min=0)


def _pooled(made: Tensor) -> Tensor:
    """(n, ...) features as (n, D), averaged over image or tokens where they are too many."""
    if made.ndim == 3 and made[0].numel() > POOLED:
        return made.mean(1)
    if made.ndim == 4 and made[0].numel() > POOLED:
        side = max(1, int((POOLED / made.shape[1]) ** 0.5))
        size = (min(side, made.shape[2]), min(side, made.shape[3]))
        made = nn.functional.adaptive_avg_pool2d(made, size)
    return made.flatten(1)
