"""DAMI: cover the linear functions that a ReLU network applies to the pool's rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, as_float, check
from labelwise.kernels import (
    Chosen,
    Euclidean,
    Generator,
    farthest_first,
    hold_limit,
)
from labelwise.kernels.cost import Sizes, Work, farthest_work
from labelwise.strategies.registry import strategy

_CHUNK_BYTES = 32 << 20


def dami_work(sizes: Sizes) -> Work:
    """Farthest-first in as many numbers as a hidden layer has, or an input for every class."""
    hidden = max(1, sizes.stored // 4)
    narrow = farthest_work(sizes._replace(width=1))
    wide = farthest_work(sizes._replace(width=hidden * max(1, sizes.classes)))
    passes = wide.passes[1]
    made = 4.0 * sizes.rows * hidden**2 * max(1, sizes.classes)
    held = 26.0 * sizes.rows
    return Work(
        products=(narrow.products[0], wide.products[1] + passes * made + 60.0 * hidden**3),
        passes=wide.passes,
        numbers=(0.0, wide.numbers[1] + passes * 4.0 * sizes.rows * hidden * (1 + sizes.classes)),
        steps=wide.steps,
        held=(held, wide.held[1] + 64.0 * hidden**2 + 4.0 * _CHUNK_BYTES),
    )


def local_functions(
    activations: Rows | Tensor,
    hidden_weights: Sequence[Any],
    head_weight: Rows | Tensor,
    center: bool = False,
) -> Rows:
    """Points that are as far from each other as the rows' local linear functions are.

    Around a row the logits are ``G x + g`` with ``G = W (r_H W_H) ... (r_1 W_1)``: W the head,
    W_l the weights of hidden layer l, r_l 1 where its unit is on (above 0) and 0 where it is off.
    Distances are between the C x d matrices G, by the Frobenius norm.

    Args:
        activations: (N, H) outputs of all hidden layers, side by side.
        hidden_weights: (units, entries of an input), then (units, units before) for each layer.
        head_weight: (C, D), D the last hidden layer's units.
        center: count only how classes differ: subtract the mean of G over classes, which no
            prediction depends on.

    Returns:
        (N, W) float32, computed when asked for. With one hidden layer W is at most its units:
        ``<G_i, G_j> = r_i' M r_j`` with M the product, entry by entry, of ``W' W`` and
        ``W_1 W_1'``. With more it is at most C d.

    Raises:
        InputError: shapes that do not fit.

    >>> r = torch.tensor([[1.0, 0.0], [0.5, 2.0], [7.0, 0.0]])
    >>> x = local_functions(r, [[[1.0], [2.0]]], torch.tensor([[1.0, 1.0], [0.0, 1.0]])).tensor()
    >>> torch.cdist(x, x)[0].square().round()
    tensor([0., 8., 0.])
    """
    rows = check("activations", activations)
    head = check("head_weight", head_weight).tensor().double()
    check("hidden_weights", list(hidden_weights))
    layers = [Rows(layer, "hidden_weights").tensor().double() for layer in hidden_weights]
    units = [len(layer) for layer in layers]
    if sum(units) != rows.shape[1]:
        raise InputError(
            f"activations must have a column for each of the {sum(units)} hidden units, got "
            f"{rows.shape[1]}"
        )
    if head.shape[1] != units[-1]:
        raise InputError(
            f"head_weight must have a column for each of the {units[-1]} units of the last "
            f"hidden layer, got {head.shape[1]}"
        )
    if center:
        head = head - head.mean(0)
    layers, head = [layer.to(rows.device) for layer in layers], head.to(rows.device)
    if len(layers) == 1:
        return rows.map(_one_layer(layers[0], head), "local functions")
    # What is multiplied from outside may be turned at will: only as many rows and columns are
    # kept as the matrices have dimensions.
    inner = torch.linalg.qr(layers[0].T, mode="r").R.T
    outer = torch.linalg.qr(head, mode="r").R
    return rows.map(_several_layers([inner, *layers[1:]], outer, units), "local functions")


def _one_layer(layer: Tensor, head: Tensor) -> Callable[[Tensor], Tensor]:
    # In a unit of their own, so that no product of weights is too large or small for a number.
    unit = [max(float(weight.abs().max()), 1e-300) for weight in (head, layer)]
    head, layer = head / unit[0], layer / unit[1]
    values, vectors = torch.linalg.eigh((head.T @ head) * (layer @ layer.T))
    factor = vectors * values.clamp(min=0).sqrt() * unit[0] * unit[1]

    def points(block: Tensor) -> Tensor:
        # Made in double and rounded, so that rows with the same units on are the same point.
        return ((block > 0).double() @ factor).float()

    return points


def _several_layers(
    layers: list[Tensor], head: Tensor, units: list[int]
) -> Callable[[Tensor], Tensor]:
    widest = max(max(layer.shape) for layer in layers)
    chunk = max(1, _CHUNK_BYTES // (8 * len(head) * widest))

    def part(block: Tensor) -> Tensor:
        on = [r.double() for r in (as_float(block) > 0).split(units, dim=1)]
        made = head.expand(len(block), *head.shape)
        for layer, r in zip(reversed(layers), reversed(on)):
            made = (made * r[:, None]) @ layer
        return made.flatten(1).float()

    def points(block: Tensor) -> Tensor:
        out = torch.empty(len(block), len(head) * layers[0].shape[1], device=block.device)
        for start in range(0, len(block), chunk):
            some = block[start : start + chunk]
            out[start : start + len(some)] = part(some)
        return out

    return points


@strategy(
    cite="Liu et al., arXiv 2020",
    cost=dami_work,
    costs=(
        "As k-center: 2 N W (L + n), W the hidden units of one layer, or C d with more, made anew "
        "in every pass."
    ),
    fails=(
        "For perceptrons on tables alone; like k-center it goes for odd rows, and units that are "
        "on by chance count as much as any."
    ),
)
def dami(
    activations: Rows,
    hidden_weights: Sequence[Any],
    head_weight: Rows,
    labeled: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    center: bool = False,
) -> Chosen:
    """Pick rows one at a time, each with the local function farthest from those asked about.

    A ReLU network is linear in every region where the same units are on. A row stands for its
    region's function, see `local_functions`; picks cover these as `k_center` covers points. With
    nothing labeled the first pick is the candidate nearest the mean.

    Args:
        activations: (N, H) outputs of all hidden layers of a perceptron, side by side.
        hidden_weights: weights of its hidden layers, first to last. Where inputs differ in unit
            pass those of standardized inputs, as our learners do.
        head_weight: (C, D).
        labeled: (L,) rows whose functions are covered already.
        center: see `local_functions`; by default G is taken as it is.

    Returns:
        Rows in the order picked; the score of each is its squared distance to the nearest
        labeled or earlier pick, infinity for a first one. Of rows with the same units on one is
        drawn; when every function is covered the rest, at distance 0, is random.

    Raises:
        InputError: shapes that do not fit.

    Source:
        Liu, Liu, Zhu & Xiu, "Deep Active Learning by Model Interpretability", 2020 (the last
        version: k-center on tables; nothing to tune). There is no code by the authors; the text
        does not say which classes' functions count, and all do here.
    """
    points = local_functions(activations, hidden_weights, head_weight, center)
    geometry = Euclidean(points, hold=hold_limit(memory))
    found = farthest_first(geometry, n, covered=labeled, candidates=candidates, memory=memory)
    return _any_alike(found, check("activations", activations), candidates, generator)


def _any_alike(
    found: Chosen, activations: Rows, candidates: Tensor, generator: Generator
) -> Chosen:
    """The picks, each exchanged for any candidate that is the same point: ties go by noise."""
    free = candidates.cpu().numpy()
    free = free[np.argsort(generator.child("ties").uniform(free), kind="stable")]
    member = _regions(activations)
    first = np.argsort(member[free], kind="stable")
    starts = np.searchsorted(member[free][first], member[found.rows.cpu().numpy()])
    left = dict.fromkeys(free.tolist())
    picks = []
    for gain, start in zip(found.gains.tolist(), starts.tolist()):
        if gain == 0:
            row = next(iter(left))
        else:
            row = next(int(free[at]) for at in first[start:] if int(free[at]) in left)
        del left[row]
        picks.append(row)
    return Chosen(torch.tensor(picks), found.gains)


def _regions(activations: Rows) -> NDArray[np.int64]:
    """A number for each row, the same where the same units are on."""
    bits = np.empty((len(activations), -(-activations.shape[1] // 8)), np.uint8)
    for start, block in activations.blocks():
        bits[start : start + len(block)] = np.packbits((block > 0).cpu().numpy(), axis=1)
    found: NDArray[np.int64] = np.unique(bits, axis=0, return_inverse=True)[1].ravel()
    return found
