"""GLISTER: rows whose gradients lower the loss of a validation set most, step by step."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from labelwise.errors import InputError, nearest
from labelwise.evidence import Rows, check
from labelwise.kernels import (
    Generator,
    GradientEmbedding,
    Progress,
    greedy,
    hold_limit,
)
from labelwise.kernels.cost import Sizes, Work
from labelwise.strategies.pickers import predicted, top
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy
from labelwise.strategies.validation_gain import Crowding, ValidationGain, ValidationSet

Validation = Literal["auto", "query", "labeled", "pool"]
FirstStep = Literal["sum", "mean", "none"]


def glister_work(sizes: Sizes) -> Work:
    """At most all gains and the loss of as many validation rows at each pick."""
    n, whole = float(sizes.n), 2.0 * sizes.rows * max(1, sizes.classes) * max(1, sizes.width)
    entries = sizes.rows * (2.0 * sizes.classes + sizes.width)
    return Work(
        products=(whole, (4 + 6 * n) * whole),
        passes=(2, 6 + 3 * n),
        numbers=(sizes.rows * n, 30 * (n + 2) * (entries + 4 * sizes.rows)),
        steps=(n, 60 * n),
        held=(40.0 * sizes.rows, 160.0 * sizes.rows + 12.0 * entries + 6e6),
    )


@strategy(
    cite="Killamsetty et al., AAAI 2021",
    cost=glister_work,
    costs="At most 2 (N + 2 V) C D operations a pick; 4 V C + 100 N bytes.",
    fails=(
        "Gains are linear in gradients: picks are alike unless lr moves the validation loss; "
        "with the pool as validation set it believes the model's own labels."
    ),
)
def glister(
    probs: Rows,
    embeddings: Rows,
    labeled: Tensor | None = None,
    labels: Tensor | None = None,
    query_probs: Rows | None = None,
    query_embeddings: Rows | None = None,
    query_labels: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    progress: Progress | None = None,
    lr: float = 0.01,
    validation: Validation = "auto",
    first_step: FirstStep = "sum",
    diversity: float = 0.0,
    random_share: float = 0.0,
) -> Picks:
    """Pick rows whose gradient points most along that of a validation loss, stepping after each.

    Gradients are the last layer's, bias and all, at predicted labels. The model of the
    validation loss is one gradient step away: ``theta - lr (labeled gradients + picks'
    gradients)``, whose logits follow exactly, since only the last layer moves. The next pick has
    the largest inner product with the loss's gradient there, which is by how much a step along
    it lowers the loss to first order.

    Args:
        probs: (N, C). embeddings: (N, D), the input of the last layer.
        labeled, labels: (L,) rows with labels and their classes.
        query_probs, query_embeddings, query_labels: (Q, C), (Q, D), (Q,): validation points.
        lr: the length of a step, > 0: the training's, for embeddings as trained.
        validation: ``"query"`` points; ``"labeled"`` rows; the whole ``"pool"``, at predicted
            labels where it has no others, as the authors' code does without a validation set.
            ``"auto"``: the query points if there are any, else the pool.
        first_step: along the ``"sum"`` of labeled gradients, as the authors do, their
            ``"mean"``, or ``"none"``. Without ``labels`` there is none, of which a note tells.
        diversity: what likeness to earlier picks costs, >= 0: so many times the sum of
            ``exp(-|g - g'|^2 / 2)`` over gradients g' of picks; another of the authors'
            regularizers. (Their third takes all pairs of the pool and is not here.)
        random_share: of the picks, drawn at random in the end, in [0, 1): the one that the
            authors use.

    Returns:
        Rows in the order picked; the score of each is its inner product with the gradient of
        the validation loss then, less what its likeness costs; 0 for random ones. Equal ones
        go by noise.

    Raises:
        InputError: an option out of range, or what the validation set needs is missing.
        ResourceError: C x D over 2^27 numbers, or ``memory`` too small.

    Source:
        Killamsetty, Sivasubramanian, Ramakrishnan & Iyer, "GLISTER: Generalization based Data
        Subset Selection for Efficient and Robust Learning", AAAI 2021 (GLISTER-ACTIVE), and
        DISTIL, by the same authors, where lr is 0.01. The N x (C D) gradients are never built.

    >>> from labelwise import select
    >>> probs, h = [[0.5, 0.5], [0.4, 0.6], [0.9, 0.1]], [[1.0], [1.0], [1.0]]
    >>> query = {"query_probs": [[0.8, 0.2]], "query_embeddings": [[1.0]], "query_labels": [1]}
    >>> select("glister", 1, probs=probs, embeddings=h, **query).rows
    array([1])
    """
    _check_options(lr, validation, first_step, diversity, random_share)
    p, h = check("probs", probs), check("embeddings", embeddings)
    known = _labeled(labeled, labels, p.shape[1])
    given = {
        "query_probs": query_probs,
        "query_embeddings": query_embeddings,
        "query_labels": query_labels,
    }
    if validation == "auto":
        validation = "pool" if all(part is None for part in given.values()) else "query"
    notes = []
    start = None
    if known is not None and first_step != "none":
        rows, classes = known
        mine = GradientEmbedding(p.take(rows), h.take(rows), True, classes, h.device)
        start = mine.total() / (len(rows) if first_step == "mean" else 1)
    elif labeled is not None and len(labeled) and labels is None:
        notes.append("labels are not given: labeled rows count at predicted labels, if at all")
    geometry = GradientEmbedding(p, h, bias=True, hold=hold_limit(memory))
    points = _validation_set(validation, p, h, known, given)
    crowding = Crowding(geometry, memory) if diversity else None
    objective = ValidationGain(geometry, points, lr, start, crowding, diversity)
    count = math.ceil(round((1 - random_share) * n, 9))
    found = greedy(
        objective,
        count,
        candidates=candidates,
        ties=generator.child("ties"),
        progress=progress,
        memory=memory,
    )
    rest = candidates[~torch.isin(candidates, found.rows)]
    more = found.rows[:0]
    if count < n:
        drawn = generator.child("random")
        more = top(torch.zeros(len(p)), n=n - count, candidates=rest, generator=drawn).rows
        notes.append(f"{n - count} of the picks are random, as asked")
    scores = torch.cat([found.gains, torch.zeros(n - count, dtype=torch.float64)])
    picked = torch.cat([found.rows, more])
    return Picks(picked.numpy(), scores=scores.numpy(), notes=tuple(notes))


def _labeled(
    labeled: Tensor | None, labels: Tensor | None, classes: int
) -> tuple[Tensor, Tensor] | None:
    """Labeled rows and their classes, by row; None where either is missing."""
    if labeled is None or labels is None or not len(labeled):
        return None
    _check_classes("labels", labels, classes)
    order = labeled.argsort()  # sums do not depend on the order rows are given in
    return labeled[order], labels[order]


def _validation_set(
    kind: str,
    probs: Rows,
    embeddings: Rows,
    known: tuple[Tensor, Tensor] | None,
    query: dict[str, Rows | Tensor | None],
) -> ValidationSet:
    """The points whose loss is to fall, at the best labels there are."""
    if kind == "query":
        if missing := [name for name, part in query.items() if part is None]:
            raise InputError(f"a validation set of query points is needed: pass {missing[0]}")
        p, h, y = (check(name, part) for name, part in query.items())
        _check_classes("query_labels", y, probs.shape[1])
        return ValidationSet(p, Rows(h.tensor().to(embeddings.device), "embeddings"), y)
    if kind == "labeled":
        if known is None:
            raise InputError('validation="labeled" needs labeled rows and their labels')
        rows, classes = known
        p, h = Rows(probs.take(rows), "probs"), Rows(embeddings.take(rows), "embeddings")
        return ValidationSet(p, h, classes)
    labels = predicted(probs)
    if known is not None:
        rows, classes = known
        labels[rows] = classes
    return ValidationSet(probs, embeddings, labels)


def _check_classes(name: str, labels: Tensor, classes: int) -> None:
    if len(labels) and int(labels.max()) >= classes:
        raise InputError(f"{name} must be classes 0..{classes - 1}, got {int(labels.max())}")


def _check_options(
    lr: float, validation: str, first_step: str, diversity: float, share: float
) -> None:
    if not 0 < lr < math.inf:
        raise InputError(f"lr must be a finite number > 0, got {lr}")
    if not 0 <= diversity < math.inf:
        raise InputError(f"diversity must be a finite number >= 0, got {diversity}")
    if not 0 <= share < 1:
        raise InputError(f"random_share must be in [0, 1), got {share}")
    choices = {"validation": (validation, Validation), "first_step": (first_step, FirstStep)}
    for name, (value, choice) in choices.items():
        known = get_args(choice)
        if value not in known:
            raise InputError(f"{name} must be known, got {value!r}; {nearest(value, known)}")
