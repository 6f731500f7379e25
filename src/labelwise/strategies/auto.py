"""auto: the weighted sum of strategies that experience on other data recommends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from labelwise.evidence import Rows, check
from labelwise.kernels import Generator
from labelwise.strategies.aggregate import (
    Past,
    Reward,
    Settings,
    aggregated,
    aggregation_work,
)
from labelwise.strategies.arms import Arm, bound_arms
from labelwise.strategies.experience import SHIPPED, Experience, bound_experience
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy


@strategy(
    cite="Chu & Lin, ICDM 2016; learned by `python -m perf.experience learn`",
    cost=aggregation_work,
    costs="What its arms cost, scores asked for all candidates; N K^2 and a few N K n operations.",
    fails="Learned on small tables with a linear model: nothing says that it suits other data.",
)
def auto(
    probs: Rows,
    labeled: Tensor | None = None,
    labels: Tensor | None = None,
    state: Mapping[str, Any] | None = None,
    validation_accuracy: float | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    ids: NDArray[Any] | None = None,
    arms: str | Sequence[Arm] | None = None,
    experience: str | Mapping[str, Any] | Experience | None = SHIPPED,
    alpha: float = 0.0,
    ridge: float = 1e6,
    reward: Reward = "increase",
) -> Picks:
    """`lsa` that starts from the experience shipped with the package, and holds on to it.

    Its weights were learned with `lsa` on a few tabular classification sets, a set after the
    other; ``labelwise.strategies.Experience.shipped().learned`` says which. It explores nothing
    (alpha 0), and its weights are held so strongly to those shipped that they hardly move: where
    an arm only picks, the scores of its picks have squares of about (candidates / n).

    Args:
        probs, labeled, labels, state, validation_accuracy, reward: see `lsa`.
        arms: those of the experience; another set of names is refused.
        experience: ``"shipped"``, or one of your own, see `lsa`.
        alpha, ridge: see `lsa`.

    Returns:
        As `lsa`.

    Raises:
        InputError: as `lsa`.

    Source:
        Chu & Lin, "Can Active Learning Experience Be Transferred?", ICDM 2016, see `lsa`.
    """
    found = bound_experience(experience, "auto")
    return aggregated(
        "auto",
        bound_arms(arms, "auto"),
        Past(check("probs", probs), labeled, labels, state, validation_accuracy, ids),
        found,
        Settings(alpha, ridge, "zscore", reward),
        n=n,
        candidates=candidates,
        generator=generator,
    )
