"""What a round leaves behind: a model with its evidence, and what became of the query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from labelwise.learners import Model
from labelwise.loop.shared import SharedEvidence
from labelwise.loop.state import State
from labelwise.loop.tasks import Balance

Made = tuple[Model, float]
"""A model that was fitted elsewhere, and the seconds that this took."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A model, and what strategies may ask of it.

    Attributes:
        model: None where nothing is labeled yet.
        round: the round it was fitted in.
        seconds: of the fit.
        evidence: of the model over the pool, computed when a strategy first asks and then
            kept: strategies that query the same model share it.
    """

    model: Model | None
    round: int
    seconds: float
    evidence: SharedEvidence


@dataclass(frozen=True, eq=False)
class Round:
    """One round, or as much of it as could be done.

    Attributes:
        state: after it.
        picked: the ids asked for, in pick order.
        scores: the strategy's scores of them, larger = asked first; None where it gives none.
        balance: how evenly the answers of this round fall on the classes.
        fitted: the model fitted to all labels; None while answers are missing.
        measures: how good that model is on the test set, by measure; empty without either.
        select_seconds: of the query with all evidence it used, also where another strategy
            had computed it already.
        evaluate_seconds: of the prediction on the test set, and the measures.
    """

    state: State
    picked: tuple[str, ...]
    scores: NDArray[np.float64] | None
    balance: Balance
    fitted: Fitted | None
    measures: Mapping[str, float] = field(default_factory=dict)
    select_seconds: float = 0.0
    evaluate_seconds: float = 0.0

    @property
    def waiting(self) -> bool:
        """Whether answers are missing, so that no model was fitted."""
        return self.fitted is None
