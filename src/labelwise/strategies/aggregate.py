"""A linear sum of strategies' scores whose weights LinUCB learns: what `lsa` and `auto` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError, nearest
from labelwise.evidence import Rows
from labelwise.kernels import Generator
from labelwise.kernels.cost import Sizes, Work, score_work
from labelwise.kernels.greedy import greedy
from labelwise.strategies.arms import (
    Arm,
    are_numbers,
    is_count,
    items_of,
    known_classes,
    taken_up,
)
from labelwise.strategies.experience import Experience
from labelwise.strategies.linucb import UpperConfidence, learned_weights
from labelwise.strategies.pickers import largest
from labelwise.strategies.picks import Picks

Scale = Literal["zscore", "unit"]
Reward = Literal["increase", "accuracy", "validation"]

_VERSION = 1


def standardized(scores: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    """Scores of one strategy on a scale that all strategies share.

    Args:
        scores: (M,) finite, of the candidates.
        scale: ``"zscore"`` for mean 0 and standard deviation 1, ``"unit"`` for [0, 1].

    Returns:
        (M,) float64; all zeros where all scores are equal.

    >>> standardized(np.array([1.0, 3.0]), "zscore"), standardized(np.array([1.0, 3.0]), "unit")
    (array([-1.,  1.]), array([0., 1.]))
    """
    # Sums over sorted values do not depend on the order of rows.
    ordered = np.sort(scores)
    low, high = ordered[0], ordered[-1]
    if low == high:
        return np.zeros(len(scores))
    size = max(abs(low), abs(high))
    if not 1e-100 < size < 1e100:  # squares would vanish or overflow
        return standardized(scores / size, scale)
    if scale == "unit":
        return np.asarray((scores - low) / (high - low))
    mean = ordered.mean()
    return np.asarray((scores - mean) / np.sqrt(np.square(ordered - mean).mean()))


def rank_scores(rows: NDArray[np.int64], candidates: NDArray[np.int64]) -> NDArray[np.float64]:
    """A score for what only picks: 1 for its first pick, 1/n for its last, 0 for the others.

    Args:
        rows: (n,) its picks in order, among the candidates. candidates: (M,) ascending.

    Returns:
        (M,) float64 in [0, 1], larger = picked earlier.

    >>> rank_scores(np.array([7, 2]), np.array([2, 5, 7]))
    array([0.5, 0. , 1. ])
    """
    scores = np.zeros(len(candidates))
    scores[np.searchsorted(candidates, rows)] = 1 - np.arange(len(rows)) / len(rows)
    return scores


def aggregation_work(sizes: Sizes) -> Work:
    """Contexts from the arms' scores, and picks by them; what the arms do comes on top."""
    scored = score_work(sizes)
    contexts = 8.0 * sizes.rows
    return scored + Work(
        numbers=(4 * contexts, 100 * contexts),
        steps=(sizes.n, 40.0 * sizes.n),
        held=(4 * contexts, 20 * contexts),
    )


@dataclass(frozen=True, eq=False)
class Past:
    """What a call knows of its earlier picks.

    Attributes:
        probs: (N, C), of the present model.
        labeled, labels: (L,), where there are any.
        state: of the last query; None at the first.
        validation_accuracy: of the present model, where somebody measures it.
        ids: of the pool's rows, where they have any.
    """

    probs: Rows
    labeled: Tensor | None
    labels: Tensor | None
    state: Mapping[str, Any] | None
    validation_accuracy: float | None
    ids: NDArray[Any] | None

    def predicted(self, rows: list[int]) -> list[tuple[Any, int]]:
        """Pairs of item and class for some rows, by the present model."""
        if not rows:
            return []
        classes = self.probs.take(torch.tensor(rows)).argmax(1).tolist()
        return list(zip(items_of(rows, self.ids), classes))

    def classes(self, by: str) -> dict[Any, int]:
        """The class of each labeled item."""
        known = known_classes(self.labeled, self.labels, by)
        return dict(zip(items_of(list(known), self.ids), known.values()))


@dataclass(frozen=True, eq=False)
class Settings:
    """The options of `lsa`, checked; see there.

    Raises:
        InputError: one out of range.
    """

    alpha: float
    ridge: float
    scale: Scale
    reward: Reward

    def __post_init__(self) -> None:
        for name, value, least in (("alpha", self.alpha, 0.0), ("ridge", self.ridge, 1e-12)):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not least <= value < np.inf:
                bound = ">= 0" if least == 0 else "> 0"
                raise InputError(f"{name} must be a number {bound}, got {value!r}")
        kinds = (("scale", self.scale, get_args(Scale)), ("reward", self.reward, get_args(Reward)))
        for name, kind, known in kinds:
            if kind not in known:
                raise InputError(f"{name} must be known, got {kind!r}; {nearest(kind, known)}")


def aggregated(
    by: str,
    arms: Sequence[Arm],
    past: Past,
    experience: Experience | None,
    settings: Settings,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
) -> Picks:
    """The picks of `lsa`, or of another strategy that is `lsa` with other defaults.

    Args:
        by: that strategy's name.
        arms, experience, n, candidates, generator: see `lsa`.
        past: what is known of earlier picks. settings: the other options.
    """
    names = [arm.name for arm in arms]
    found = _begun(by, names, past, experience, settings)
    gram, moment, prior = (np.array(found[key]) for key in ("gram", "moment", "prior"))
    gram, moment = _credited(found, past, settings, gram, moment)
    weights = learned_weights(gram, moment, prior, settings.ridge)
    contexts = _contexts(arms, n, candidates, generator, settings.scale)
    covariance = settings.ridge * np.eye(len(arms)) + gram
    function = UpperConfidence(contexts, weights, covariance, settings.alpha)
    at, scores = _best(function, n, candidates, generator)
    rows = candidates.numpy()[at]
    told = ", ".join(f"{name} {weight:.3g}" for name, weight in zip(names, weights))
    known = [] if past.labeled is None else past.labeled.tolist()
    kept = Experience(
        tuple(names),
        tuple(weights.tolist()),
        settings.scale,
        {**found["experience"]["learned"], "picks": int(found["count"])},
    )
    return Picks(
        rows,
        scores=scores,
        notes=(f"weights: {told}",),
        state={
            **found,
            "count": int(found["count"]) + n,
            "gram": gram.tolist(),
            "moment": moment.tolist(),
            "waiting": [items_of(rows, past.ids), contexts[at].tolist()],
            "predicted": (
                past.predicted(known + rows.tolist()) if settings.reward == "increase" else []
            ),
            "validation_accuracy": past.validation_accuracy,
            "experience": kept.to_dict(),
        },
    )


def _begun(
    by: str, names: list[str], past: Past, experience: Experience | None, settings: Settings
) -> Mapping[str, Any]:
    """The state to go on from; a fresh one at the first query.

    Raises:
        InputError: it is of other settings, or the accuracy that the reward needs is missing.
    """
    if settings.reward == "validation" and past.validation_accuracy is None:
        raise InputError(f"{by} with reward='validation' needs validation_accuracy=")
    found = taken_up(past.state, strategy=by, version=_VERSION, arms=names, sound=_sound)
    if found is None:
        return _fresh(by, names, experience, settings)
    if (found["scale"], found["reward"]) != (settings.scale, settings.reward):
        raise InputError(
            f"state is of {by} with scale {found['scale']!r} and reward {found['reward']!r}, "
            f"and now they are {settings.scale!r} and {settings.reward!r}: pass no state to "
            "start afresh"
        )
    return found


def _sound(state: Mapping[str, Any]) -> bool:
    """Whether a state has what `aggregated` reads."""
    k, (items, contexts) = len(state["arms"]), state["waiting"]
    before = state["validation_accuracy"]
    return (
        is_count(state["count"])
        and {"scale", "reward"} <= set(state)
        and are_numbers(state["prior"], k)
        and are_numbers(state["moment"], k)
        and are_numbers(state["gram"], k, k)
        and len(dict.fromkeys(items)) == len(contexts)
        and (not items or are_numbers(contexts, len(items), k))
        and all(isinstance(label, int) for label in dict(state["predicted"]).values())
        and (before is None or 0 <= before <= 1)
        and bool(Experience.from_dict(state["experience"]))
    )


def _best(
    function: UpperConfidence, n: int, candidates: Tensor, generator: Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Positions among the candidates, in pick order, and the bound of each at its pick."""
    gains = function.gains()
    if gains.any():
        ties = generator.of(candidates.numpy()).child("ties")
        chosen = greedy(function, n, ties=ties)
        return chosen.rows.numpy(), chosen.gains.numpy()
    # No arm tells one candidate from another, or no weight is known.
    at = largest(gains.numpy(), n, candidates, generator)
    return at, gains.numpy()[at]


def _fresh(
    by: str, names: list[str], experience: Experience | None, settings: Settings
) -> dict[str, Any]:
    """The state before the first query."""
    k = len(names)
    prior = np.zeros(k) if experience is None else experience.weights_for(names, settings.scale)
    before = Experience(tuple(names), tuple(prior.tolist()), settings.scale)
    return {
        "strategy": by,
        "version": _VERSION,
        "arms": names,
        "scale": settings.scale,
        "reward": settings.reward,
        "count": 0,
        "prior": prior.tolist(),
        "gram": np.zeros((k, k)).tolist(),
        "moment": [0.0] * k,
        "waiting": [[], []],
        "predicted": [],
        "validation_accuracy": None,
        "experience": before.to_dict(),
    }


def _credited(
    found: Mapping[str, Any],
    past: Past,
    settings: Settings,
    gram: NDArray[np.float64],
    moment: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of s s' and of r s with the picks of the last batch that have their labels."""
    items, contexts = found["waiting"]
    if not items:
        return gram, moment
    classes = past.classes(found["strategy"])
    answered = [at for at, item in enumerate(items) if item in classes]
    reward = _reward(found, past, settings.reward, classes) if answered else None
    if reward is None:
        return gram, moment
    s = np.array(contexts, dtype=np.float64)[answered]
    return gram + s.T @ s, moment + reward * s.sum(0)


def _reward(
    found: Mapping[str, Any], past: Past, kind: Reward, classes: Mapping[Any, int]
) -> float | None:
    """What the last batch was worth; None where nothing tells."""
    if kind == "validation":
        before, now = found["validation_accuracy"], past.validation_accuracy
        return None if before is None or now is None else float(now - before)
    rows = [] if past.labeled is None else past.labeled.tolist()
    said: dict[Any, int] = dict(past.predicted(rows))
    if kind == "accuracy":
        return float(np.mean([said[item] == label for item, label in classes.items()]))
    earlier = {item: label for item, label in found["predicted"] if item in classes}
    if not earlier:
        return None
    now = sum(said[item] == classes[item] for item in earlier)
    return (now - sum(label == classes[item] for item, label in earlier.items())) / len(earlier)


def _contexts(
    arms: Sequence[Arm], n: int, candidates: Tensor, generator: Generator, scale: Scale
) -> NDArray[np.float64]:
    """(M, K) what each arm scores each candidate, on one scale.

    Raises:
        InputError: scores that are not finite.
    """
    rows, columns = candidates.numpy(), []
    for arm in arms:
        picks = arm(len(rows) if arm.scored else n, candidates, generator)
        scores = rank_scores(picks.rows, rows)
        if arm.scored and picks.scores is not None:
            scores[np.searchsorted(rows, picks.rows)] = picks.scores
        if not np.isfinite(scores).all():
            row = rows[~np.isfinite(scores)][0]
            raise InputError(f"{arm.name} cannot be an arm: its score of row {row} is not finite")
        columns.append(standardized(scores, scale))
    return np.stack(columns, axis=1)
