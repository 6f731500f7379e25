"""GLISTER: rows whose gradients lower the loss of a validation set most, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from labelwise.errors import InputError, ResourceError, nearest
from labelwise.evidence import Rows, as_float, check
from labelwise.kernels import (
    Generator,
    GradientEmbedding,
    Progress,
    Similarity,
    greedy,
    hold_limit,
    linear,
)
from labelwise.kernels.cost import Sizes, Work
from labelwise.kernels.functions import SetFunction
from labelwise.kernels.sums import MOST_NUMBERS, LinearSums, Total
from labelwise.strategies.pickers import predicted, top
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy

Validation = Literal["auto", "query", "labeled", "pool"]
FirstStep = Literal["sum", "mean", "none"]

_CLOSE = (1024, 1 / 64)
"""Rows decided in float64, at least and of all, before all gains are computed again."""


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


class ValidationSet:
    """Points whose loss is to fall, with the logits that a linear head gives them.

    Args:
        probs: (V, C); logits are their logarithms, which is the same to a softmax.
        embeddings: (V, D). labels: (V,) int64.
    """

    def __init__(self, probs: Rows, embeddings: Rows, labels: Tensor) -> None:
        self._h, self._y = embeddings, labels.to(embeddings.device)
        self._logits = torch.empty(probs.shape, device=embeddings.device)
        for start, block in probs.blocks():
            self._logits[start : start + len(block)] = as_float(block).log()

    def __len__(self) -> int:
        return len(self._h)

    def move(self, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Take what a change of the head does off the logits; the mean loss's gradient then.

        Args:
            change: from (b, D) embeddings to what their (b, C) logits fall by.

        Returns:
            (C, D + 1) float64, the bias last.
        """
        classes, width = self._logits.shape[1], self._h.shape[1]
        total = self._logits.new_zeros(classes, width + 1, dtype=torch.float64)
        for start, block in self._h.blocks():
            h, part = block.float(), slice(start, start + len(block))
            if change is not None:
                self._logits[part] -= change(h)
            away = self._logits[part].softmax(1)
            away[torch.arange(len(h), device=h.device), self._y[part]] -= 1
            total[:, :width] += away.T @ h
            total[:, width] += away.sum(0, dtype=torch.float64)
        return total / len(self)


class ValidationGain(SetFunction):
    """By how much a gradient step along each row lowers the validation loss, to first order.

    The gain of row j is ``<g_j, G>``: G is the gradient of the validation loss after steps of
    length ``lr`` along the gradients of all picks. Not a set function in the strict sense.

    Gains are float64 where they may be the largest. For the others a bound is answered: since
    all gains were last computed they rose by at most ``|g_j| |G - G_then|``.

    Args:
        geometry: N gradients g, with the bias.
        validation: whose loss.
        lr: the length of a step.
        start: (C, D + 1) a gradient along which the first step goes.
    """

    submodular = False

    def __init__(
        self,
        geometry: GradientEmbedding,
        validation: ValidationSet,
        lr: float,
        start: Tensor | None = None,
    ) -> None:
        super().__init__()
        self._geometry, self._validation, self._lr = geometry, validation, lr
        sums = LinearSums.of(Similarity(geometry, "dot"))
        if sums is None:
            raise ResourceError(
                f"a gradient has {math.prod(geometry.widths):.3g} numbers, more than "
                f"{MOST_NUMBERS:.3g}; use fewer classes or narrower embeddings"
            )
        self._sums = sums
        self._norms = geometry.squared_norms().sqrt()
        if start is None:
            self._now = validation.move()
        else:
            step = (lr * start).float()
            self._now = validation.move(lambda h: linear(h, step[:, :-1]) + step[:, -1])
        self._then: Tensor | None = None  # the gradient that `_base` belongs to
        self._base = self._norms

    def __len__(self) -> int:
        return len(self._norms)

    @property
    def device(self) -> torch.device:
        """Where gains are computed."""
        return self._geometry.device

    def _exactly(self, rows: Tensor) -> Tensor:
        return self._sums.values(Total(0.0, 0.0, [self._now]), rows)

    def gains(self, rows: Tensor | None = None) -> Tensor:
        """Gains of some rows, or of all, (m,) float64; see `SetFunction.gains`."""
        where = torch.arange(len(self)) if rows is None else rows.cpu()
        if len(where) <= min(_CLOSE[0], len(self) // 8):
            found = self._exactly(where)
            self._set_rounding(found)
            return found.cpu()
        if self._then is None:
            self._renew()
        found, close = self._bounds(where)
        if len(close) > max(_CLOSE[0], _CLOSE[1] * len(where)):
            self._renew()
            found, close = self._bounds(where)
        found[close] = self._exactly(where[close.cpu()])
        self._set_rounding(found[close])
        return found.cpu()

    def _set_rounding(self, found: Tensor) -> None:
        size = float(self._norms.max() * self._now.norm()) if len(self) else 0.0
        self.rounding = 1e-13 * max(size, float(found.abs().max()) if len(found) else 0.0)

    def _bounds(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """The most that each row may gain, and the places of those that may gain most."""
        assert self._then is not None
        moved = float((self._now - self._then).norm())
        rounded = self._geometry.error * float(self._then.norm())
        place = where.to(self.device)
        slack = self._norms[place] * (moved + rounded)
        high = self._base[place] + slack
        low = high - 2 * slack
        if len(where) == len(self) and self.chosen:
            low[torch.tensor(self.chosen)] = -torch.inf
        # A gradient of length 0 gains exactly 0: nothing to decide.
        return high, ((high >= low.max()) & (slack > 0)).nonzero()[:, 0]

    def _renew(self) -> None:
        """Gains of all rows in single precision, in one pass."""
        self._then = self._now
        self._base = torch.empty_like(self._norms)
        along = self._now.float()
        for start, points in self._geometry.blocks():
            a, h = points.factors
            self._base[start : start + len(a)] = (linear(h, along) * a).sum(1)

    def _add(self, row: int) -> None:
        a, h = (factor[0] for factor in self._geometry.take(torch.tensor([row])).factors)
        step = self._lr * a
        self._now = self._validation.move(lambda block: (block @ h[:-1] + h[-1])[:, None] * step)

    def bytes_needed(self, n: int) -> int:
        """Bounds of N rows, V x C logits and a few gradients."""
        classes = self._geometry.widths[0]
        return 56 * len(self) + 4 * len(self._validation) * classes + 40 * self._sums.numbers


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
        random_share: of the picks, drawn at random in the end, in [0, 1): one of the authors'
            regularizers.

    Returns:
        Rows in the order picked; the score of each is its inner product with the gradient of
        the validation loss then, 0 for random ones. Equal ones go by noise.

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
    _check_options(lr, validation, first_step, random_share)
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
    objective = ValidationGain(geometry, points, lr, start)
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


def _check_options(lr: float, validation: str, first_step: str, share: float) -> None:
    if not 0 < lr < math.inf:
        raise InputError(f"lr must be a finite number > 0, got {lr}")
    if not 0 <= share < 1:
        raise InputError(f"random_share must be in [0, 1), got {share}")
    choices = {"validation": (validation, Validation), "first_step": (first_step, FirstStep)}
    for name, (value, choice) in choices.items():
        known = get_args(choice)
        if value not in known:
            raise InputError(f"{name} must be known, got {value!r}; {nearest(value, known)}")
