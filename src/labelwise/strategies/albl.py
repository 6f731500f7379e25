"""ALBL: a bandit over strategies, paid by an unbiased estimate of the model's accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, check
from labelwise.kernels import Generator, numpy_stream
from labelwise.kernels.cost import score_work
from labelwise.strategies.arms import (
    Arm,
    Proposals,
    are_numbers,
    bound_arms,
    is_count,
    items_of,
    known_classes,
    taken_up,
)
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy

UNIFORM = "uniform"
_VERSION = 1


@dataclass(frozen=True)
class Exp4P:
    """The bandit EXP4.P whose experts each advise one of K strategies.

    Attributes:
        log_weights: (K,) natural logarithms of the weights, which themselves may overflow.
        horizon: T, how many draws there will be.
        delta: in (0, 1), the chance that the bound on regret does not hold.

    Source:
        Beygelzimer, Langford, Li, Reyzin & Schapire, "Contextual Bandit Algorithms with
        Supervised Learning Guarantees", AISTATS 2011.

    >>> Exp4P(np.zeros(2), horizon=100, delta=0.1).chances()
    array([0.5, 0.5])
    """

    log_weights: NDArray[np.float64]
    horizon: int
    delta: float

    @property
    def least(self) -> float:
        """p_min = sqrt(ln K / (K T)), the least chance of each; at most 1/K."""
        k = len(self.log_weights)
        return min(math.sqrt(math.log(k) / (k * self.horizon)), 1 / k)

    def chances(self) -> NDArray[np.float64]:
        """(K,) chances p = (1 - K p_min) w / sum(w) + p_min."""
        weights = np.exp(self.log_weights - self.log_weights.max())
        share = weights / weights.sum()
        return np.asarray((1 - len(share) * self.least) * share + self.least)

    def update(
        self, reward: float, advice: ArrayLike, chance: float, chances: NDArray[np.float64]
    ) -> Exp4P:
        """The bandit after one draw.

        Args:
            reward: of the draw.
            advice: (K,) with what chance each strategy would have drawn it.
            chance: with what chance it was drawn: the sum of ``chances`` times ``advice``.
            chances: (K,) as they were at the draw.
        """
        k = len(self.log_weights)
        bound = math.sqrt(math.log(k / self.delta) / (k * self.horizon))
        gain = reward * np.asarray(advice, dtype=np.float64) / chance + bound / chances
        return Exp4P(self.log_weights + self.least / 2 * gain, self.horizon, self.delta)


@strategy(
    cite="Hsu & Lin, AAAI 2015",
    cost=score_work,
    costs="What its arms cost, each asked for n picks; its state is a line for each draw.",
    fails="Learns slowly: a reward a round is little to go by; among bad arms it is no better.",
)
def albl(
    probs: Rows,
    labeled: Tensor | None = None,
    labels: Tensor | None = None,
    state: Mapping[str, Any] | None = None,
    round: int | None = None,
    rounds: int | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    ids: NDArray[Any] | None = None,
    arms: str | Sequence[Arm] = "margin+badge+k_center",
    horizon: int | None = None,
    delta: float = 0.1,
) -> Picks:
    """Draw each pick from a mixture of what several strategies propose, and learn the mixture.

    The K arms are the strategies named and the uniform draw from the whole pool, rows that have
    been drawn before included. Every other arm proposes the first row on its list that is not
    in the batch yet. A row is drawn with chance ``q = sum_k p_k * (chance that k would draw it)``
    and keeps the weight 1/q for good. One that has been drawn before costs no label: its weight
    counts once more, and another is drawn; without this the weights would be biased.

    Once a batch has its labels each of its draws is rewarded, in order, with the importance-
    weighted accuracy so far: the sum of the weights of all draws up to it that the present
    model gets right, divided by (pool size * T). Every arm that could have drawn the row is
    credited, by EXP4.P (see `Exp4P`). With one pick a round this is the published rule; with
    more, the draws of a batch share chances and model.

    Args:
        probs: (N, C), of the present model; also of labeled rows.
        labeled, labels: (L,), the rewards come from them.
        state: `Picks.state` of its last query; the first query has none.
        round, rounds: give T where ``horizon`` does not.
        arms: strategies, joined by ``+``. The paper's are uncertainty, QUIRE, a representative
            one, and the uniform draw.
        horizon: T, how many labels will be asked for; by default n in each round that is left,
            or every candidate when nobody says how many rounds there will be. With less than
            K ln K the arms are drawn evenly for good, and a note says so.
        delta: see `Exp4P`; 0.1 is the authors'.

    Returns:
        Rows in the order drawn, without scores; ``probability`` holds the q of each, and
        ``state`` what the next query needs. Notes tell the arms' chances. Rows that were picked
        and got no label are forgotten.

    Raises:
        InputError: a state of other arms or another version, or a damaged one; labels missing
            for the rewards; an option out of range.

    Source:
        Hsu & Lin, "Active Learning by Learning", AAAI 2015, and the authors' libact.

    >>> from labelwise import select
    >>> picks = select("albl", 1, probs=[[0.9, 0.1], [0.5, 0.5]], arms="margin+entropy", seed=1)
    >>> picks.rows, picks.probability.round(3)
    (array([1]), array([0.833]))
    """
    asked = bound_arms(arms, "albl")
    names = [*(arm.name for arm in asked), UNIFORM]
    if UNIFORM in names[:-1]:
        raise InputError(f"{UNIFORM!r} is the name of albl's own arm: rename yours")
    found = taken_up(state, strategy="albl", version=_VERSION, arms=names, sound=_sound)
    size = len(candidates) + (0 if labeled is None else len(labeled))
    if found is None:
        told = n * max(1, rounds - (round or 0)) if rounds is not None else len(candidates)
        found = _fresh(names, _horizon(horizon, told), _delta(delta), size)
    draws = _Draws(found, check("probs", probs), labeled, labels, ids)
    draws.settle()
    pool = draws.pool(candidates)
    generator = generator.child("albl", draws.count)
    proposals = Proposals(asked, n, candidates, generator)
    order = pool[np.argsort(generator.child("order").uniform(pool), kind="stable")]
    stream = numpy_stream(generator.seed, "draws")
    picked: list[tuple[int, float]] = []
    while len(picked) < n:
        chances = draws.bandit.chances()
        arm = min(int(np.searchsorted(chances.cumsum(), stream.random())), len(asked))
        next_ones = proposals.next()
        row = int(order[int(stream.random() * len(order))] if arm == len(asked) else next_ones[arm])
        advised = [k for k, proposed in enumerate(next_ones) if proposed == row]
        chance = float(chances[advised].sum() + chances[-1] / len(order))
        if row not in proposals.taken and not draws.settled(row):
            proposals.taken.add(row)
            picked.append((row, chance))
        draws.add(row, advised, chance, chances, len(order))
    rows, probability = zip(*picked)
    return Picks(
        np.array(rows),
        probability=np.array(probability),
        notes=draws.notes(names),
        state=draws.state(),
    )


def _fresh(names: list[str], horizon: int, delta: float, size: int) -> dict[str, Any]:
    """The state before the first query."""
    return {
        "strategy": "albl",
        "version": _VERSION,
        "arms": names,
        "horizon": horizon,
        "delta": delta,
        "pool": size,
        "log_weights": [0.0] * len(names),
        "count": 0,
        "weights": [],
        "waiting": [],
    }


def _sound(state: Mapping[str, Any]) -> bool:
    """Whether a state has what `_Draws` reads."""
    k = len(state["arms"])
    return (
        is_count(state["horizon"], 1)
        and is_count(state["pool"], 1)
        and is_count(state["count"])
        and 0 < state["delta"] < 1
        and are_numbers(state["log_weights"], k)
        and all(0 < weight < math.inf for weight in dict(state["weights"]).values())
        and all(
            {item: None}
            and set(advised) <= set(range(k - 1))
            and 0 < chance < math.inf
            and are_numbers(chances, k)
            and min(chances) > 0
            and is_count(size, 1)
            for item, advised, chance, chances, size in state["waiting"]
        )
    )


class _Draws:
    """All draws of a run: their weights, and who is credited for those that wait for labels.

    Args:
        found: the state.
        probs, labeled, labels, ids: of the present call.
    """

    def __init__(
        self,
        found: Mapping[str, Any],
        probs: Rows,
        labeled: Tensor | None,
        labels: Tensor | None,
        ids: NDArray[Any] | None,
    ) -> None:
        self._ids, self._found = ids, found
        self.bandit = Exp4P(
            np.array(found["log_weights"], dtype=np.float64), found["horizon"], found["delta"]
        )
        self.count = int(found["count"])
        self._weights: dict[Any, float] = dict(found["weights"])
        self._waiting: list[list[Any]] = []
        self._right: dict[Any, float] = {}
        self._row: dict[Any, int] = {}
        if self._weights or found["waiting"]:
            classes = known_classes(labeled, labels, "albl")
            rows = torch.tensor(list(classes), dtype=torch.int64)
            predicted = probs.take(rows).argmax(1).tolist() if len(rows) else []
            for item, row, said in zip(items_of(rows, ids), classes, predicted):
                self._row[item], self._right[item] = row, float(said == classes[row])
        # What was drawn and got no label is a candidate again, as if it had not been drawn.
        self._weights = {item: w for item, w in self._weights.items() if item in self._row}
        self._settled = {self._row[item] for item in self._weights}
        self._sum = math.fsum(w * self._right[item] for item, w in self._weights.items())

    def pool(self, candidates: Tensor) -> NDArray[np.int64]:
        """All rows that the uniform arm draws from: candidates, and what has been drawn."""
        drawn = np.array(sorted(self._settled), dtype=np.int64)
        return np.union1d(candidates.numpy(), drawn)

    def settle(self) -> None:
        """Reward the draws of the last batch."""
        for item, advised, chance, chances, size in self._found["waiting"]:
            if item in self._row:
                self._reward(item, advised, chance, np.array(chances), size)

    def settled(self, row: int) -> bool:
        """Whether a row was drawn in an earlier batch, and has its label."""
        return row in self._settled

    def add(
        self,
        row: int,
        advised: list[int],
        chance: float,
        chances: NDArray[np.float64],
        size: int,
    ) -> None:
        """One more draw; it is rewarded now where that needs no label that is missing."""
        self.count += 1
        item = items_of([row], self._ids)[0]
        if self._waiting or not self.settled(row):
            self._waiting.append([item, advised, chance, chances.tolist(), size])
        else:
            self._reward(item, advised, chance, chances, size)

    def _reward(
        self,
        item: Any,
        advised: list[int],
        chance: float,
        chances: NDArray[np.float64],
        size: int,
    ) -> None:
        self._weights[item] = self._weights.get(item, 0.0) + 1 / chance
        self._settled.add(self._row[item])
        self._sum += self._right[item] / chance
        reward = self._sum / (self._found["pool"] * self.bandit.horizon)
        advice = np.zeros(len(chances))
        advice[advised] = 1
        advice[-1] = 1 / size
        self.bandit = self.bandit.update(reward, advice, chance, chances)

    def state(self) -> dict[str, Any]:
        """As the next query wants it."""
        return {
            **self._found,
            "log_weights": self.bandit.log_weights.tolist(),
            "count": self.count,
            "weights": [[item, weight] for item, weight in self._weights.items()],
            "waiting": self._waiting,
        }

    def notes(self, names: list[str]) -> tuple[str, ...]:
        """How likely each arm was, and that nothing can be learned where so it is."""
        each = zip(names, self.bandit.chances())
        told = [f"chances: {', '.join(f'{name} {chance:.3g}' for name, chance in each)}"]
        if self.bandit.least == 1 / len(names):
            told.append(
                f"a horizon of {self.bandit.horizon} labels is too short to learn from: the "
                "arms are drawn evenly"
            )
        return tuple(told)


def _horizon(horizon: int | None, default: int) -> int:
    if horizon is None:
        return max(1, default)
    if isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1:
        raise InputError(f"horizon must be a whole number >= 1, got {horizon!r}")
    return horizon


def _delta(delta: float) -> float:
    if isinstance(delta, bool) or not isinstance(delta, int | float) or not 0 < delta < 1:
        raise InputError(f"delta must be between 0 and 1, got {delta!r}")
    return float(delta)
