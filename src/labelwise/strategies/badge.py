"""BADGE: a batch that is uncertain and diverse, by k-means++ on loss gradients."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from labelwise.engine import Engine
from labelwise.errors import InputError
from labelwise.evidence import Rows, check
from labelwise.kernels import (
    Chosen,
    Generator,
    Part,
    Progress,
    hold_limit,
    kmeans_plus_plus,
    partitioned,
)
from labelwise.kernels.cost import kmeans_plus_plus_work
from labelwise.strategies.partitions import find_whole_engine
from labelwise.strategies.registry import strategy


@strategy(
    cite="Ash et al., ICLR 2020",
    cost=kmeans_plus_plus_work,
    costs="About 2 N (C + D) n operations in products; 26 N bytes and the centers.",
    fails=(
        "Needs a trained model: with few labels gradients mean little; slower than scores, "
        "and rarely far from margin."
    ),
)
def badge(
    probs: Rows,
    embeddings: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
    first: Literal["largest", "uniform"] = "largest",
    bias: bool = False,
    partitions: int = 1,
) -> Chosen:
    """Pick each next row with chances proportional to its squared distance to earlier picks.

    Distances are between gradients of the last layer's loss at the predicted label: long
    where the model is unsure, different where rows differ. Labeled rows play no part, as in
    the paper. The N x C x D gradients are never built.

    Args:
        probs: (N, C).
        embeddings: (N, D), the input of the last layer.
        first: how to pick the first row: ``"largest"`` takes the longest gradient, as the
            authors' code does; ``"uniform"`` draws it, as the paper's text says.
        bias: whether the gradient includes the last layer's bias. The authors' does not.
        partitions: cut the candidates and the other rows at random into so many parts and pick
            n / partitions rows in each, as Emam et al. do with ten. It is for comparison: it sees
            less of the pool, and the whole takes hardly longer here. Theirs also starts
            from labeled rows and pools gradients to 512 numbers; neither is done here. Not on a
            cluster.

    Returns:
        Rows in the order picked; the score of each is its squared distance to the nearest
        earlier pick, infinity for the first. In parts: part after part, and distances within
        the part.

    Raises:
        InputError: another ``first``, or partitions out of range or with ``engine="ray"``.

    Source:
        Ash, Zhang, Krishnamurthy, Langford & Agarwal, "Deep Batch Active Learning by Diverse,
        Uncertain Gradient Lower Bounds", ICLR 2020. In parts: Emam et al., "Active Learning at
        the ImageNet Scale", 2021.
    """
    if first not in ("largest", "uniform"):
        raise InputError(f'first must be "largest" or "uniform", got {first!r}')
    where = find_whole_engine(engine, partitions)
    rows = check("probs", probs), check("embeddings", embeddings)

    def seed_part(part: Part) -> Chosen:
        return kmeans_plus_plus(
            part.geometry,
            part.n,
            generator=part.generator,
            candidates=part.candidates,
            first=first,
            memory=part.memory,
            progress=part.progress,
        )

    with where.points("gradient", *rows, bias=bias, hold=hold_limit(memory)) as geometry:
        if partitions > 1:
            return partitioned(
                seed_part,
                geometry,
                n,
                partitions,
                generator=generator,
                candidates=candidates,
                memory=memory,
                progress=progress,
            )
        return kmeans_plus_plus(
            geometry,
            n,
            generator=generator,
            candidates=candidates,
            first=first,
            memory=memory,
            progress=progress,
        )
