"""ActiveLab: another opinion on a labeled row, or a first label for a new one?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, check
from labelwise.kernels import Chosen, Generator, per_row
from labelwise.kernels.cost import score_work
from labelwise.strategies.pickers import Picker, pick
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy

Floats = NDArray[np.float64]

LEAST_WEIGHT = 1e-6
"""What an annotator, or the model, weighs that is worse than always saying one class."""


@dataclass(frozen=True)
class Votes:
    """What annotators said, a line for each row that has an annotation.

    Attributes:
        rows: (L,) int64, ascending.
        line: (A,) int64, the place among ``rows`` of each annotation's row.
        who: (A,) int64, its annotator, numbered from 0 without gaps.
        said: (A,) int64, its class.
        counts: (L, C), annotations of each class.
    """

    rows: NDArray[np.int64]
    line: NDArray[np.int64]
    who: NDArray[np.int64]
    said: NDArray[np.int64]
    counts: Floats

    def sums(self, values: Floats) -> Floats:
        """A value of each annotation (A,), added up by row and class, (L, C)."""
        size, classes = self.counts.shape
        flat = np.bincount(self.line * classes + self.said, values, size * classes)
        return flat.reshape(size, classes).astype(np.float64)


@dataclass(frozen=True)
class Trust:
    """How much annotators and model weigh.

    Attributes:
        annotators: (J,) their weights. model: that of the model.
        agreement: the chance that an annotator says the consensus; None where no row has two
            annotations, so that nothing is known of it.
    """

    annotators: Floats
    model: float
    agreement: float | None


def activelab_scores(
    probs: Rows | Tensor,
    annotations: Rows | Tensor | None = None,
    *,
    calibrate: bool = True,
    against: Literal["consensus", "majority"] = "consensus",
) -> Tensor:
    """How likely each row's best-known label is wrong, were one more annotator asked.

    The consensus of a row is the likeliest class of an ensemble of its annotators and the
    model, each weighted by how much better it is than always saying the commonest class
    (annotators against one another, the model against what the rows are taken for). A row
    without annotations has the model alone. One unknown annotator, who says any class alike, is
    added with the average weight: so a second opinion is worth less the more there are already.

    Args:
        probs: (N, C), C >= 2, from a model that did not train on these rows (cross-validated)
            where they are annotated.
        annotations: (A, 3) whole numbers: row of the pool, annotator, class.
        calibrate: first scale the logarithms of ``probs`` by the temperature that fits the
            annotations best, unless no row has two, as the authors' code does (cleanlab 2.9 errs
            in counting them: its temperatures are far too high).
        against: what the model is weighed by: ``"majority"`` votes; or, as in the authors'
            code, the ``"consensus"`` that is found with these weights, once more.

    Returns:
        (N,) float64 in [0, 1), 1 - quality. Larger = asked first.

    Raises:
        InputError: one class; an annotation out of range, or two by one annotator of one row;
            ``against`` neither of the two.

    Source:
        Goh & Mueller, "ActiveLab: Active Learning with Re-Labeling by Multiple Annotators",
        2023; its weights are those of Goh, Tkachenko & Mueller, "CROWDLAB", 2022.

    >>> probs = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    >>> activelab_scores(probs).argmax()
    tensor(1)
    """
    if against not in ("consensus", "majority"):
        raise InputError(f'against must be "consensus" or "majority", got {against!r}')
    rows = check("probs", probs)
    classes = rows.shape[1]
    if classes < 2:
        raise InputError("activelab weighs classes against each other: probs has one column")
    votes = _votes(annotations, len(rows), classes)
    if votes is None:
        return _unlabeled(rows, 1.0, Trust(np.ones(1), 1.0, None))
    known = rows.take(torch.from_numpy(votes.rows)).cpu().double().numpy()
    several = bool((votes.counts.sum(1) > 1).any())
    power = best_power(known, votes.counts) if calibrate and several else 1.0
    known = _tempered(known, power)
    majority = (votes.counts + known / 2).argmax(1)  # the model decides between equal counts
    trust, consensus = weigh(known, votes, majority), majority
    if trust.agreement is not None:
        consensus = _likeliest(_ensemble(known, votes, trust), majority)
        if against == "consensus":
            trust = weigh(known, votes, consensus)
    scores = _unlabeled(rows, power, trust)
    scores[torch.from_numpy(votes.rows)] = torch.from_numpy(
        _labeled(known, votes, trust, consensus)
    )
    return scores


def weigh(probs: Floats, votes: Votes, consensus: NDArray[np.int64]) -> Trust:
    """Weights of the annotators and of the model, from rows with two annotations or more.

    Args:
        probs: (L, C) the model's, of the annotated rows.
        votes: the annotations.
        consensus: (L,) the class that each row is taken for.
    """
    annotators = int(votes.who.max()) + 1
    count = votes.counts.sum(1)
    several = count > 1
    if not several.any():
        return Trust(np.ones(annotators), 1.0, None)
    share = votes.counts[np.arange(len(count)), consensus] / count
    common = np.bincount(consensus[several]).argmax()
    guess_error = max(float((consensus[several] != common).mean()), LEAST_WEIGHT)
    agreed = votes.counts[votes.line, votes.said] - 1
    others = count[votes.line] - 1
    met = np.bincount(votes.who, others, annotators)
    seen = met > 0
    agreement = np.empty(annotators)
    agreement[seen] = np.bincount(votes.who, agreed, annotators)[seen] / met[seen]
    agreement[~seen] = agreement[seen].mean()  # who met nobody is like the others
    model_error = float((probs[several].argmax(1) != consensus[several]).mean())
    return Trust(
        np.maximum(1 - (1 - agreement) / guess_error, LEAST_WEIGHT),
        max(1 - model_error / guess_error, LEAST_WEIGHT) * float(np.sqrt(count.mean())),
        float(share[several].mean()),
    )


def best_power(probs: Floats, counts: Floats) -> float:
    """The power of the model's probabilities, scaled to one again, that fits annotations best.

    Args:
        probs: (L, C). counts: (L, C) annotations of each class.

    Returns:
        The inverse of the temperature in [0.1, 8], where the authors' code looks for it, of
        least cross-entropy with each row's share of annotations, a convex function of it.
    """
    from scipy.optimize import minimize_scalar

    logs = np.log(np.maximum(probs, np.finfo(np.float64).tiny))
    share = counts / counts.sum(1, keepdims=True)

    def cross_entropy(power: float) -> float:
        scaled = power * logs
        top = scaled.max(1)
        return float(
            (top + np.log(np.exp(scaled - top[:, None]).sum(1)) - (share * scaled).sum(1)).mean()
        )

    return float(minimize_scalar(cross_entropy, bounds=(1 / 8, 10.0), method="bounded").x)


def _votes(annotations: Rows | Tensor | None, size: int, classes: int) -> Votes | None:
    if annotations is None:
        return None
    said = check("annotations", annotations).tensor().cpu().numpy().astype(np.int64)
    if not len(said):
        return None
    for column, most, what in ((0, size, "rows"), (2, classes, "classes")):
        wrong = (said[:, column] < 0) | (said[:, column] >= most)
        if wrong.any():
            at = int(wrong.nonzero()[0][0])
            raise InputError(
                f"annotations must be of {what} in 0..{most - 1}, but entry {at} has "
                f"{said[at, column]}"
            )
    pairs, times = np.unique(said[:, :2], axis=0, return_counts=True)
    if (times > 1).any():
        row, who = pairs[times > 1][0]
        raise InputError(
            f"annotations must have one class a row and annotator, but {who} has two of row {row}"
        )
    rows, line = np.unique(said[:, 0], return_inverse=True)
    who = np.unique(said[:, 1], return_inverse=True)[1]
    counts = np.bincount(line * classes + said[:, 2], minlength=len(rows) * classes)
    return Votes(rows, line, who, said[:, 2], counts.reshape(-1, classes).astype(np.float64))


def _tempered(probs: Floats, power: float) -> Floats:
    logs = power * np.log(np.maximum(probs, np.finfo(np.float64).tiny))
    found: Floats = np.exp(logs - logs.max(1, keepdims=True))
    return found / found.sum(1, keepdims=True)


def _ensemble(probs: Floats, votes: Votes, trust: Trust) -> Floats:
    """What annotators and model together say of the annotated rows, (L, C)."""
    assert trust.agreement is not None
    voice = votes.sums(trust.annotators[votes.who])
    total = voice.sum(1, keepdims=True)
    slip = (1 - trust.agreement) / (probs.shape[1] - 1)
    heard = voice * trust.agreement + (total - voice) * slip
    found: Floats = (trust.model * probs + heard) / (trust.model + total)
    return found


def _likeliest(ensemble: Floats, majority: NDArray[np.int64]) -> NDArray[np.int64]:
    """The likeliest class of each row; of several the majority's, if that is one."""
    tied = ensemble[np.arange(len(ensemble)), majority] == ensemble.max(1)
    return np.where(tied, majority, ensemble.argmax(1))


def _labeled(probs: Floats, votes: Votes, trust: Trust, consensus: NDArray[np.int64]) -> Floats:
    """Scores of the annotated rows, (L,)."""
    # Of single opinions only the model can tell how good they are.
    alone = trust.agreement is None
    quality = (probs if alone else _ensemble(probs, votes, trust))[np.arange(len(probs)), consensus]
    weight = votes.sums(trust.annotators[votes.who]).sum(1) + trust.model
    return _with_unknown(quality, weight, trust, probs.shape[1])


def _unlabeled(rows: Rows, power: float, trust: Trust) -> Tensor:
    """Scores of all rows as if none were annotated, (N,) float64."""

    def score(block: Tensor) -> Tensor:
        tempered = _tempered(block.cpu().double().numpy(), power)
        quality: Floats = tempered.max(1)
        weight = np.full(len(quality), trust.model)
        return torch.from_numpy(_with_unknown(quality, weight, trust, tempered.shape[1]))

    return per_row(rows.blocks(), len(rows), score)


def _with_unknown(quality: Floats, weight: Floats, trust: Trust, classes: int) -> Floats:
    """1 - quality, once an average annotator has joined who says any class alike."""
    mean = float(trust.annotators.mean())
    return 1 - (weight * quality + mean / classes) / (weight + mean)


@strategy(
    cite="Goh & Mueller, 2023",
    cost=score_work,
    costs="One pass over N x C probabilities and A annotations; 8 N bytes and 8 L C.",
    fails=(
        "Needs probabilities of annotated rows from a model that did not train on them; "
        "annotators that all err alike are trusted."
    ),
)
def activelab(
    probs: Rows,
    annotations: Rows | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    calibrate: bool = True,
    against: Literal["consensus", "majority"] = "consensus",
    picker: str | Picker = "top",
) -> Picks | Chosen:
    """The n rows with the largest `activelab_scores`, to be labeled or labeled again.

    Rows with annotations may be picked, for another opinion: pass ``annotations`` and leave
    ``labeled`` out, which says what is never to be asked again. Notes say how many picks are
    which.

    Args:
        probs: (N, C), of annotated rows out of sample.
        annotations: (A, 3) row, annotator, class. Without any, rows rank as by
            ``least_confidence``.
        calibrate, against: see `activelab_scores`.
    """
    scores = activelab_scores(probs, annotations, calibrate=calibrate, against=against)
    chosen = pick(scores, n=n, candidates=candidates, generator=generator, picker=picker)
    if annotations is None:
        return chosen
    known = torch.as_tensor(check("annotations", annotations).tensor()[:, 0]).cpu()
    again = int(torch.isin(chosen.rows, known).sum())
    return Picks(
        chosen.rows.numpy(),
        scores=chosen.gains.numpy(),
        notes=(f"{again} rows to label again, {n - again} to label for the first time",),
    )
