"""LSA: a linear sum of strategies' scores whose weights are learned, and handed on."""

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
    Scale,
    Settings,
    aggregated,
    aggregation_work,
)
from labelwise.strategies.arms import Arm, bound_arms
from labelwise.strategies.experience import Experience, bound_experience
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy


@strategy(
    cite="Chu & Lin, ICDM 2016",
    cost=aggregation_work,
    costs="What its arms cost, scores asked for all candidates; N K^2 and a few N K n operations.",
    fails=(
        "The reward says little of accuracy on new rows, and contexts drift as the model learns; "
        "without experience from elsewhere the first rounds explore."
    ),
)
def lsa(
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
    arms: str | Sequence[Arm] = "margin+entropy+badge+k_center",
    experience: str | Mapping[str, Any] | Experience | None = None,
    alpha: float = 0.1,
    ridge: float = 1.0,
    scale: Scale = "zscore",
    reward: Reward = "increase",
) -> Picks:
    """Pick by a weighted sum of strategies' scores, with weights that LinUCB learns.

    The context of a candidate is s, the scores that the arms give it, each on one scale; an arm
    that only picks scores 1 for its first pick, falling to 1/n for its last, and 0 for the rest;
    with z-scores its picks then stand out the more, the more candidates there are.
    Picks are made one after another at the largest ``w . s + alpha sqrt(s' A^-1 s)``, with
    ``A = ridge I + sum s s'`` over all picks so far. Once a batch has its labels, each of its
    picks is rewarded with the same reward r, and ``w = A^-1 (sum r s + ridge w0)``: the weights
    are drawn towards w0, the experience of earlier runs, or towards 0 where there is none.

    Args:
        probs: (N, C), of the present model; also of labeled rows.
        labeled, labels: (L,), the rewards come from them.
        state: `Picks.state` of its last query; the first query has none.
        validation_accuracy: in [0, 1], of the present model on rows held out for this, where
            ``reward="validation"``.
        arms: strategies, joined by ``+``.
        experience: what an earlier run learned, see `Experience`: a path, or the record itself.
            Of the same arms and scale. With a state it is not looked at: that began with one.
        alpha: >= 0, how much the unknown is worth.
        ridge: > 0, how strongly the weights are held to the experience.
        scale: ``"zscore"`` or ``"unit"``, see
            `labelwise.strategies.aggregate.standardized`; per query.
        reward: ``"increase"``: how much more of the rows labeled now the present model gets
            right than the last one did; ``"accuracy"``: the share that it gets right;
            ``"validation"``: the increase of ``validation_accuracy``.

    Returns:
        Rows in the order picked; the score of each is its bound at that time. ``state`` is what
        the next query needs, its ``"experience"`` what another run may start from. Notes tell
        the weights.

    Raises:
        InputError: a state or an experience of other arms, scale or another version; labels or
            the validation accuracy missing for the reward; an option out of range; scores that
            are not finite.

    Source:
        Chu & Lin, "Can Active Learning Experience Be Transferred?", ICDM 2016, for the linear
        sum, LinUCB and biased regularization. The scale, the reward and the values of alpha and
        ridge are ours: there is no public code to take them from. Picks are not drawn, so
        importance weights would all be 1.

    >>> from labelwise import select
    >>> p = [[0.9, 0.1], [0.5, 0.5], [0.8, 0.2]]
    >>> before = {"format": "labelwise experience", "version": 1, "scale": "zscore",
    ...           "arms": ["margin", "least_confidence"], "weights": [1.0, 0.0]}
    >>> select("lsa", 1, probs=p, arms="margin+least_confidence", experience=before).rows
    array([1])
    """
    return aggregated(
        "lsa",
        bound_arms(arms, "lsa"),
        Past(check("probs", probs), labeled, labels, state, validation_accuracy, ids),
        bound_experience(experience, "lsa"),
        Settings(alpha, ridge, scale, reward),
        n=n,
        candidates=candidates,
        generator=generator,
    )
