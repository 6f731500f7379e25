"""ALFA-Mix: rows whose prediction flips when a little of a labeled class is mixed in."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, as_float, check
from labelwise.kernels import Cosine, Euclidean, Generator, kmeans, per_row
from labelwise.kernels.cost import Sizes, Work, kmeans_work, score_work
from labelwise.strategies.kmeans import nearest_members
from labelwise.strategies.learned_mixture import learned_caps
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy

_ENTRIES = 1 << 21
_CAPS = {"closed form": 0.2, "learned": 0.03125}


def alfa_mix_work(sizes: Sizes) -> Work:
    """A pass with products of classes by classes and columns, then k-means of what flips."""
    least, most = score_work(sizes), kmeans_work(sizes, sizes.n)
    classes = max(1, sizes.classes)
    whole = 2.0 * sizes.rows * classes
    every = Work(
        products=(whole * classes, 4 * whole * (classes + 2 * sizes.width) * classes),
        numbers=(0.0, 40.0 * sizes.rows * (classes + sizes.width) + most.numbers[1]),
        steps=(0.0, most.steps[1]),
        held=(0.0, most.held[1] + 200e6),
    )
    passes = Work(products=(0.0, most.products[1]), passes=(0.0, most.passes[1]))
    return least + every + passes


@strategy(
    cite="Parvaneh et al., CVPR 2022",
    cost=alfa_mix_work,
    costs=(
        "One pass of N C (C + D) operations, N C^2 D where rows and class means share zeros; "
        "k-means with n clusters of what flips; 8 N D bytes."
    ),
    fails="Few labels a class: means are of single rows; where little flips the rest is random.",
)
def alfa_mix(
    logits: Rows,
    embeddings: Rows,
    head_weight: Rows,
    labeled: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    mixture: Literal["closed form", "learned"] = "closed form",
    cap: float | None = None,
    normalize: bool = True,
    iterations: int = 100,
) -> Picks:
    """Of the rows whose prediction a small mixture flips, one near the middle of each cluster.

    1. The anchors are the mean embeddings of the labeled rows of each class, and that of all
       labeled rows if a class has none (or no labels are given).
    2. Candidates are those that flip with at most ``cap`` of an anchor mixed in, see
       `flip_caps`; while they are not more than n, with at most twice the cap, three times,
       and so on until that is 1 or more.
    3. k-means with n clusters of those gives one row each, the nearest to its center. If there
       are no more than n they are all picked, those that flip first before the others, and the
       rest is drawn at random; the notes say so.

    Args:
        logits: (N, C). embeddings: (N, D), the input of the last layer.
        head_weight: (C, D), the last layer's weight.
        labeled, labels: (L,) rows that have labels, and their classes. With none there are no
            anchors, and all picks are drawn at random.
        mixture: the ``"closed form"`` of the paper, or ``"learned"`` for each row, anchor and
            cap in turn, which the example in the authors' code runs; it takes 20 N A C D
            operations a cap for A anchors, see `learned_caps`.
        cap: in [1e-9, 1], how much of an anchor may be mixed in, and the step by which it rises.
            By default 0.2 for the closed form and 0.03125 for the other, as the authors have it.
        normalize: divide the embeddings by their length before k-means, as the authors do.
        iterations: of k-means, at the most.

    Returns:
        Rows, the nearest to its center first among clusters' first picks, then those drawn; the
        score is minus the cap from which a row flips (at which it was seen to, if learned),
        minus infinity for none.

    Raises:
        InputError: an option out of range, or a zero row when normalizing what is clustered.

    Source:
        Parvaneh, Abbasnejad, Teney, Haffari, van den Hengel & Shi, "Active Learning by Feature
        Mixing", CVPR 2022.
    """
    cap = _check_options(mixture, cap, iterations)
    able = candidates.cpu()
    anchors = class_means(embeddings, labeled, labels, logits.shape[1])
    if mixture == "learned":
        weight = head_weight.tensor().to(anchors)
        caps, level = learned_caps(
            logits, embeddings, weight, anchors, able, enough=n, cap=cap, generator=generator
        )
        flips = caps <= level
    else:
        caps = flip_caps(logits, embeddings, head_weight, anchors).cpu()[able]
        flips, level = _flipping(caps, n, cap)
    kept, rest = able[flips], able[~flips].numpy()
    notes = [f"{len(kept)} candidates flip with at most {level:.4g} mixed in"]
    if len(kept) <= n:
        ties = generator.child("ties").uniform(kept.numpy())
        rows = kept.numpy()[np.lexsort((ties, caps[flips].numpy()))]
    else:
        points = (Cosine if normalize else Euclidean)(embeddings)
        stream = generator.child("clusters")
        found = kmeans(points, n, generator=stream, candidates=kept, iterations=iterations)
        chosen = nearest_members(found, kept, len(points), n=n, generator=generator)
        rows = chosen.rows.numpy()
    missing = n - len(rows)
    if missing:
        noise = generator.child("rest").uniform(rest)
        rows = np.concatenate([rows, rest[np.argsort(noise, kind="stable")[:missing]]])
        notes.append(f"{missing} of {n} picks are drawn at random")
    scores = torch.full((len(embeddings),), -torch.inf, dtype=torch.float64)
    scores[able] = -caps
    return Picks(rows, scores=scores[rows].numpy(), notes=tuple(notes))


def flip_caps(
    logits: Rows | Tensor, embeddings: Rows | Tensor, head_weight: Rows | Tensor, anchors: Tensor
) -> Tensor:
    """How much of some anchor has to be mixed in until the prediction flips.

    With g the gradient of the cross-entropy at the predicted class and a cap on the share mixed
    in, the closed form moves an embedding h by ``cap |z - h| / sqrt(D)`` along ``g / |g|``,
    whatever the anchor z; only columns in which z and h are equal cannot be moved by any
    mixture. Logits change linearly on the way, so the cap at which another class wins follows
    without trying any.

    Args:
        logits: (N, C). embeddings: (N, D). head_weight: (C, D).
        anchors: (A, D) float64.

    Returns:
        (N,) float64 >= 0, the least over the anchors; infinity where nothing flips.

    >>> flip_caps(
    ...     torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0]]), torch.tensor([[1.0], [0.0]]),
    ...     torch.tensor([[-3.0]]),
    ... )
    tensor([0.2500], dtype=torch.float64)
    """
    sizes: dict[str, tuple[int, str]] = {}
    z, h = check("logits", logits, sizes), check("embeddings", embeddings, sizes)
    weight = check("head_weight", head_weight, sizes).tensor().double().to(h.device)
    if not len(anchors):
        return torch.full((len(h),), torch.inf, dtype=torch.float64)
    mixing = _Mixing(weight, anchors.double().to(h.device))
    # A few numbers for each class, column and anchor are held in float64.
    step = min(z.block_size(), h.block_size(), max(1, _ENTRIES // (len(weight) + h.shape[1])))
    blocks = ((i, (a, b)) for (i, a), (_, b) in zip(z.blocks(step), h.blocks(step)))
    return per_row(blocks, len(h), lambda block: mixing.caps(*block))


class _Mixing:
    """A linear head and anchors to mix in.

    Args:
        weight: (C, D) float64. anchors: (A, D) float64.
    """

    def __init__(self, weight: Tensor, anchors: Tensor) -> None:
        # What all classes share tells none from another.
        self.weight = weight - weight.mean(0)
        self.anchors = anchors
        self._sorted = anchors.T.sort(1).values.contiguous()

    def caps(self, logits: Tensor, embeddings: Tensor) -> Tensor:
        """The least cap over the anchors for a block of rows, (b,) float64."""
        h = as_float(embeddings).double()
        z = as_float(logits).to(h.device).double()
        best = z.argmax(1, keepdim=True)
        # Only the direction counts. It is of the other classes' shares among themselves: of a
        # sure row their probabilities, and so the gradient, are less than a number holds.
        others = z.scatter(1, best, -torch.inf).softmax(1)
        gradient = others.scatter(1, best, -1.0) @ self.weight
        gap = z.gather(1, best) - z
        far = torch.cdist(h, self.anchors, compute_mode="use_mm_for_euclid_dist")
        meets = self._meets(h)
        furthest = far.amax(1)
        caps = _least_step(gap, gradient @ self.weight.T, best) / furthest
        rows = meets.nonzero()[:, 0]
        if len(rows):
            caps[rows] = torch.inf
        for a in range(len(self.anchors) if len(rows) else 0):
            free = h[rows] != self.anchors[a]
            rise = (gradient[rows] * free) @ self.weight.T
            found = _least_step(gap[rows], rise, best[rows]) / far[rows, a]
            caps[rows] = torch.minimum(caps[rows], torch.where(free.any(1), found, torch.inf))
        caps = caps * gradient.norm(dim=1) * math.sqrt(h.shape[1])
        return torch.where(caps.isnan(), torch.inf, caps)

    def _meets(self, h: Tensor) -> Tensor:
        """Which rows equal some anchor in some column, (b,) bool."""
        columns = h.T.contiguous()
        place = torch.searchsorted(self._sorted, columns).clamp_(max=len(self.anchors) - 1)
        return (self._sorted.gather(1, place) == columns).any(0)


def _least_step(gap: Tensor, rise: Tensor, best: Tensor) -> Tensor:
    """How far along a direction another class catches up, (b,); infinity for never.

    Args:
        gap: (b, C) the best logit less each. rise: (b, C) what each gains for a step of 1.
        best: (b, 1) the predicted class.
    """
    gain = rise - rise.gather(1, best)
    steps = torch.where(gain > 0, gap / gain, torch.inf)
    return steps.scatter(1, best, torch.inf).amin(1)


def class_means(
    embeddings: Rows, labeled: Tensor | None, labels: Tensor | None, classes: int
) -> Tensor:
    """The anchors: (A, D) float64 means of each labeled class, and of all if one has none."""
    if labeled is None or not len(labeled):
        return torch.zeros((0, embeddings.shape[1]), dtype=torch.float64)
    # Summed in the order of rows, whatever the order of labels.
    order = labeled.argsort()
    x = as_float(embeddings.take(labeled[order])).double()
    every = x.mean(0, keepdim=True)
    if labels is None:
        return every
    mine = labels[order].to(x.device)
    known = mine.unique()
    means = [x[mine == c].mean(0, keepdim=True) for c in known]
    return torch.cat(means + [every] * (len(known) < classes))


def _flipping(caps: Tensor, n: int, cap: float) -> tuple[Tensor, float]:
    """Which candidates flip, (M,) bool, and at what cap: the first at which more than n do."""
    times = math.ceil(1 / cap)
    if len(caps) > n:
        last = float(caps.kthvalue(n + 1).values)
        times = min(times, math.floor(min(last, 1) / cap) + 1)
    return caps < times * cap, times * cap


def _check_options(mixture: str, cap: float | None, iterations: int) -> float:
    """The cap to start with."""
    if not isinstance(mixture, str) or mixture not in _CAPS:
        raise InputError(f'mixture must be "closed form" or "learned", got {mixture!r}')
    cap = _CAPS[mixture] if cap is None else cap
    if isinstance(cap, bool) or not isinstance(cap, int | float) or not 1e-9 <= cap <= 1:
        raise InputError(f"cap must be a number in [1e-9, 1], got {cap!r}")
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise InputError(f"iterations must be a whole number >= 0, got {iterations!r}")
    return cap
