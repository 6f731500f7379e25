"""UHerding: cover the rows the model is unsure of, with balls that shrink as labels come in."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, as_float, check
from labelwise.kernels import Generator, Progress, nearest_neighbors, per_row
from labelwise.kernels.cost import Sizes, Work, coverage_work, score_work
from labelwise.strategies.clusters import unit_rows
from labelwise.strategies.margin import margin_scores
from labelwise.strategies.max_herding import cover, kernel_width, positive
from labelwise.strategies.pickers import predicted
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy

TEMPERATURES = np.round(np.arange(1.0, 20.05, 0.1), 1)
"""The temperatures that are tried, 1.0 to 20.0."""

_SAME = 1e-12


def u_herding_work(sizes: Sizes) -> Work:
    """Margins, then coverage."""
    return score_work(sizes) + coverage_work(sizes)


@strategy(
    cite="Bae, Oliveira & Sutherland, ICLR 2025",
    cost=u_herding_work,
    costs="One pass over N x C probabilities, then as max_herding: up to 12 N^2 D operations.",
    fails=(
        "A temperature fitted on rows the model was trained on makes it too sure: pass one from "
        "rows held out."
    ),
)
def u_herding(
    probs: Rows,
    embeddings: Rows,
    labeled: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    progress: Progress | None = None,
    temperature: float | None = None,
    sigma: float | None = None,
    first_sigma: float = 1.0,
    divisor: float = 1.0,
    normalize: bool = True,
    dense: bool = False,
) -> Picks:
    """Pick in turn the row that adds most to the coverage of uncertain rows.

    `max_herding` where each row counts by its uncertainty ``1 - (first - second)`` of
    predictions at a calibrated temperature. With few labels the temperature is high, all rows
    count alike and it is `max_herding`; with many the balls hold one row and it is `margin`.

    With nothing labeled and no temperature given, or no uncertain row at all, all count alike.

    Args:
        probs: (N, C), C >= 2.
        embeddings: (N, D).
        labeled, labels: (L,) rows that have labels, and their classes; rows alone set sigma.
        temperature: > 0, of the predictions. By default `calibrated_temperature` of the labeled
            rows. The authors hold 30 % of these out, train on the rest and calibrate on what
            was held out. A strategy cannot train, and predictions of rows that the
            model was trained on are surer than others: to do as they do, pass
            ``calibrated_temperature`` of predictions for rows that were held out.
        sigma: the width of the balls, > 0. By default the smallest distance, not zero, between
            two labeled rows.
        first_sigma: > 0, the width while there are no two labeled rows that differ.
        divisor, normalize, dense: see `max_herding`.

    Returns:
        Picks; the score is what the pick added to the coverage, in [0, 1]; the notes tell the
        temperature and the width. Cost and memory as `max_herding`.

    Raises:
        InputError: a single class, an option out of range, a label beyond the columns of
            probs, or a zero row when normalizing.
        ResourceError: see `max_herding`.

    Source:
        Bae, Oliveira & Sutherland, "Uncertainty Herding: One Active Learning Method for All
        Label Budgets", ICLR 2025.
    """
    predictions, rows = check("probs", probs), check("embeddings", embeddings)
    if predictions.shape[1] < 2:
        raise InputError("u_herding compares the two likeliest classes, but probs has one column")
    have = torch.zeros(0, dtype=torch.int64) if labeled is None else labeled
    notes = []
    if sigma is None:
        sigma = closest_pair(rows, have, normalize) or positive(first_sigma, "first_sigma")
        notes.append(f"sigma = {sigma:.4g}")
    weights = margin_scores(predictions)
    if temperature is None and labels is not None and len(labels):
        some = Rows(as_float(predictions.take(have)), "probs")
        temperature = calibrated_temperature(some, labels)
        notes.append(f"temperature = {temperature:.4g}")
    if temperature is not None:
        temperature = positive(temperature, "temperature")
        weights = margin_scores(_tempered(predictions, temperature))
    elif not len(have):
        weights = torch.ones_like(weights)
        notes.append("nothing is labeled, so all rows count alike")
    if not bool((weights > 0).any()):
        weights = torch.ones_like(weights)
        notes.append("no row is uncertain, so all rows count alike")
    found = cover(
        rows,
        labeled,
        n=n,
        candidates=candidates,
        generator=generator,
        memory=memory,
        progress=progress,
        width=kernel_width(sigma, divisor),
        weights=weights.clamp(min=0),
        normalize=normalize,
        dense=dense,
    )
    return Picks(found.rows, scores=found.scores, notes=(*notes, *found.notes))


def calibrated_temperature(probs: Rows | Tensor, labels: Tensor) -> float:
    """The temperature at which predictions are best calibrated.

    Tried are 1.0 to 20.0 in steps of 0.1; the lowest on a tie.

    Args:
        probs: (L, C) predictions for rows that the model was not trained on.
        labels: (L,) their classes.

    Returns:
        The temperature T for which the softmax of ``log(probs) / T`` has the least
        `calibration_error`, with as many bins as classes, as in the authors' code.

    Raises:
        InputError: no row, other lengths, or a label beyond the columns.

    >>> calibrated_temperature(torch.tensor([[0.6, 0.4], [0.6, 0.4]]), torch.tensor([0, 0]))
    1.0
    """
    rows = check("probs", probs)
    truth = labels.cpu()
    if len(truth) != len(rows) or not len(truth):
        raise InputError(f"labels must be one a row ({len(rows)}), got {len(truth)}")
    if int(truth.max()) >= rows.shape[1]:
        raise InputError(
            f"labels must be columns of probs, 0..{rows.shape[1] - 1}, got {int(truth.max())}"
        )
    steps = torch.from_numpy(TEMPERATURES).to(rows.device)

    def confidence(block: Tensor) -> Tensor:
        logs = as_float(block).double().log()
        below = logs - logs.amax(1, keepdim=True)
        return torch.stack([1 / (below / t).exp().sum(1) for t in steps], 1)

    sure = per_row(rows.blocks(), len(rows), confidence).cpu().numpy()
    right = (predicted(rows) == truth).numpy()
    errors = [calibration_error(column, right, rows.shape[1]) for column in sure.T]
    return float(TEMPERATURES[int(np.argmin(errors))])


def calibration_error(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int
) -> float:
    """The expected gap between confidence and accuracy, over equal bins of the confidence.

    Args:
        confidence: (L,) in [0, 1]. right: (L,) whether each guess was right. bins: how many.

    >>> calibration_error(np.array([0.75, 0.75]), np.array([True, False]), 2)
    0.25
    """
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(place, confidence, bins) - np.bincount(place, right, bins)
    return float(np.abs(gap).sum() / len(confidence))


def closest_pair(rows: Rows, some: Tensor, normalize: bool = True) -> float | None:
    """The smallest distance, not zero, between two of some rows; None if they all coincide.

    Args:
        rows: (N, D). some: (L,) of them. normalize: divide each by its length first.

    >>> closest_pair(Rows([[1.0], [1.0], [3.0]], "x"), torch.tensor([0, 1, 2]), False)
    2.0
    """
    if len(some) < 2:
        return None
    kept = rows.take(some).cpu().double()
    kept = unit_rows(Rows(kept, rows.name)).tensor() if normalize else kept
    scale = float(kept.square().sum(1).max())
    while len(kept) > 1:
        found = nearest_neighbors(kept, 1, exclude_self=True)
        squared, near = found.squared_distances[:, 0].cpu(), found.rows[:, 0].cpu()
        same = squared <= _SAME * scale
        if not bool(same.any()):
            return math.sqrt(float(squared.min()))
        # Of copies the one of the lowest number stays; its nearest may then be another.
        kept = kept[~(same & (near < torch.arange(len(kept))))]
    return None


def _tempered(probs: Rows, temperature: float) -> Rows:
    def cooled(block: Tensor) -> Tensor:
        return (as_float(block).double().log() / temperature).softmax(1)

    return probs.map(cooled, "probs")
