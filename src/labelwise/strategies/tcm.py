"""TCM: TypiClust while labels are scarce, then margin."""

from __future__ import annotations

import math

from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows
from labelwise.kernels import Generator
from labelwise.kernels.cost import Sizes, Work, kmeans_work, score_work
from labelwise.strategies.margin import margin
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy
from labelwise.strategies.typiclust import typiclust


def tcm_work(sizes: Sizes) -> Work:
    """Either of the two: which is not known from sizes alone."""
    least, most = score_work(sizes), score_work(sizes) + kmeans_work(sizes)
    return Work(
        products=(least.products[0], most.products[1]),
        passes=(least.passes[0], most.passes[1]),
        numbers=(least.numbers[0], most.numbers[1]),
        steps=(least.steps[0], most.steps[1]),
        held=(least.held[0], most.held[1]),
    )


@strategy(
    cite="Doucet et al., ICLR 2024 workshop",
    cost=tcm_work,
    costs="As typiclust before the switch, k-means with up to 500 clusters; as margin after it.",
    fails="The right moment to switch depends on the embeddings; after it, as margin.",
)
def tcm(
    embeddings: Rows,
    probs: Rows | None = None,
    labeled: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    switch: float = 10.0,
    classes: int | None = None,
) -> Picks:
    """Pick by TypiClust below so many labels a class, by margin from there on.

    Labels only grow in number, so once margin picks it goes on picking.

    Args:
        embeddings: (N, D), best from self-supervised training.
        probs: (N, C), C >= 2; not needed before the switch.
        labeled, labels: (L,) rows that have labels, and their classes, which are used only to
            know how many classes there are.
        switch: >= 0, labels a class (L / C) from which margin picks. The authors switch after a
            few rounds, how many depends on the budget; counted in labels the rule does not
            depend on how large rounds are. 10 is our choice.
        classes: C. By default the columns of probs, or one more than the largest label.

    Returns:
        The picks of `typiclust` or `margin` with their options at the defaults; the notes say
        which. Where C is not known: TypiClust.

    Raises:
        InputError: no probs after the switch, an option out of range, or see these two.

    Source:
        Doucet, Estermann, Aczel & Wattenhofer, "Bridging Diversity and Uncertainty in Active
        Learning with Self-Supervised Pre-Training", ICLR 2024 workshop on practical ML for
        low-resource settings.

    >>> from labelwise import select
    >>> few = select("tcm", 1, embeddings=[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], classes=2)
    >>> few.notes[0]
    'TypiClust: 0 labels of 2 classes'
    """
    if (
        isinstance(switch, bool)
        or not isinstance(switch, int | float)
        or not 0 <= switch < math.inf
    ):
        raise InputError(f"switch must be a number >= 0, got {switch!r}")
    have = 0 if labeled is None else len(labeled)
    count = _classes(classes, probs, labels)
    said = f"{have} labels of {count or 'unknown'} classes"
    if count is None or have < switch * count:
        found = typiclust(embeddings, labeled, n=n, candidates=candidates, generator=generator)
        notes = (f"TypiClust: {said}", *found.notes)
        return Picks(found.rows, scores=found.scores, notes=notes)
    if probs is None:
        raise InputError(f"tcm picks by margin from {switch} labels a class on and needs probs")
    chosen = margin(probs, n=n, candidates=candidates, generator=generator)
    notes = (f"margin: {said}",)
    return Picks(chosen.rows.numpy(), scores=chosen.gains.numpy(), notes=notes)


def _classes(classes: int | None, probs: Rows | None, labels: Tensor | None) -> int | None:
    if classes is not None:
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
            raise InputError(f"classes must be a whole number >= 1, got {classes!r}")
        return classes
    if probs is not None:
        return int(probs.shape[1])
    return int(labels.max()) + 1 if labels is not None and len(labels) else None
