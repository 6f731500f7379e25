"""Arms: the strategies that a strategy over strategies chooses among.

Such a strategy has an option ``arms``: names joined by ``+``, or a sequence of names, strategies
and functions. `select` finds them, adds what they need to what the call needs, and hands them over
with their evidence filled in, so that the strategy only has to ask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels import Generator
from labelwise.strategies.answers import as_picks, check_rows
from labelwise.strategies.experience import Experience
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import Strategy, as_strategy


@dataclass(frozen=True)
class Arm:
    """A strategy that another one may ask.

    Attributes:
        name: the strategy's name.
        scored: whether it is a score, which takes a picker: asked for all candidates it scores
            them all.
        function: called with ``n``, ``candidates`` and ``generator``; answers as a strategy does.

    >>> def first(*, n, candidates, generator): return candidates[:n]
    >>> import torch
    >>> Arm("first", False, first)(2, torch.arange(5), Generator(0)).rows
    array([0, 1])
    """

    name: str
    scored: bool
    function: Callable[..., Any]

    def __call__(self, n: int, candidates: Tensor, generator: Generator) -> Picks:
        """Its n picks among some candidates, first choice first.

        Raises:
            InputError: it does not answer with n distinct candidates, or refuses to answer.
        """
        own = generator.child("arm", self.name)
        try:
            answer = self.function(n=n, candidates=candidates, generator=own)
        except InputError as error:  # else nobody would know who of them refuses
            raise InputError(f"the arm {self.name} refuses: {error}") from error
        picks = as_picks(self.name, answer)
        check_rows(self.name, picks.rows, n, candidates)
        return picks


def arms_of(strategy: Strategy, told: Mapping[str, Any]) -> tuple[Strategy, ...]:
    """The arms of a strategy over strategies; none of any other strategy.

    Args:
        strategy: whose option ``arms`` is looked at. Where it is None, the arms are those of
            the option ``experience``.
        told: the options said on its behalf; the others are its defaults.

    Raises:
        InputError: no arms, one named twice, or one that cannot be an arm.

    >>> from labelwise.strategies.registry import get_strategy
    >>> [arm.name for arm in arms_of(get_strategy("albl"), {"arms": "margin+random"})]
    ['margin', 'random']
    >>> arms_of(get_strategy("margin"), {})
    ()
    """
    options = {**strategy.options, **told}
    if "arms" not in strategy.options:
        return ()
    named = options["arms"]
    if named is None:
        found = Experience.find(options.get("experience"))
        named = () if found is None else found.arms
    if isinstance(named, str):
        named = [part.strip() for part in named.split("+")]
    if not isinstance(named, Sequence) or not named:
        raise InputError(f"arms must be strategies, such as 'margin+badge', got {named!r}")
    arms = tuple(as_strategy(arm) for arm in named)
    names = [arm.name for arm in arms]
    for arm in arms:
        if names.count(arm.name) > 1:
            raise InputError(f"arms must be distinct, got {arm.name!r} more than once")
        if "arms" in arm.options:
            raise InputError(f"{arm.name} chooses among arms itself and cannot be one")
        if "state" in arm.needs:
            raise InputError(f"{arm.name} needs a state of its own and cannot be an arm")
        if arm.simulation_only:
            raise InputError(f"{arm.name} knows the pool's true labels and cannot be an arm")
    return arms


def bound_arms(arms: Any, by: str) -> tuple[Arm, ...]:
    """The arms as a strategy gets them from `select`, checked for who calls it by hand.

    Raises:
        InputError: names or functions instead of `Arm`.
    """
    if isinstance(arms, str) or arms is None or not all(isinstance(arm, Arm) for arm in arms):
        raise InputError(
            f"{by} was called by hand with arms={arms!r}: call select({by!r}, ...), or pass "
            "labelwise.strategies.arms.Arm objects"
        )
    return tuple(arms)


class Proposals:
    """What some arms propose next, while rows are being taken.

    Args:
        arms: each is asked once, for n of the candidates.
        n: how many rows will be taken at most.
        candidates: (M,) rows. generator: of the call.
    """

    def __init__(
        self, arms: Sequence[Arm], n: int, candidates: Tensor, generator: Generator
    ) -> None:
        self._lists = [arm(n, candidates, generator).rows.tolist() for arm in arms]
        self._at = [0] * len(arms)
        self.taken: set[int] = set()

    def next(self) -> list[int]:
        """The first row on each arm's list that is not taken; there is one while n are not."""
        for arm, rows in enumerate(self._lists):
            while rows[self._at[arm]] in self.taken:
                self._at[arm] += 1
        return [rows[at] for rows, at in zip(self._lists, self._at)]


def items_of(rows: Any, ids: Any) -> list[Any]:
    """What identifies some rows in a state: their ids, or the row numbers where there are none.

    >>> items_of([2, 0], np.array(["a", "b", "c"])), items_of([2, 0], None)
    (['c', 'a'], [2, 0])
    """
    numbers = np.asarray(rows, dtype=np.int64)
    found: list[Any] = (numbers if ids is None else np.asarray(ids)[numbers]).tolist()
    return found


def taken_up(
    state: Mapping[str, Any] | None,
    *,
    strategy: str,
    version: int,
    arms: Sequence[str],
    sound: Callable[[Mapping[str, Any]], bool],
) -> Mapping[str, Any] | None:
    """What a strategy's last query left behind; None at the first.

    Args:
        state: as given. strategy, version, arms: what it has to be of.
        sound: whether it holds all that the strategy is going to read; it may fail in doing so.

    Raises:
        InputError: a state of another strategy, version or other arms, or a damaged one.

    >>> taken_up({"strategy": "albl", "version": 1, "arms": ["a"]}, strategy="albl", version=1,
    ...          arms=["b"], sound=bool)
    Traceback (most recent call last):
    labelwise.errors.InputError: state is of albl with the arms a, and now they are b: pass the
    same arms, or no state to start afresh
    """
    if state is None:
        return None
    if state.get("strategy") != strategy:
        raise InputError(
            f"state is of {state.get('strategy')!r}, not of {strategy}: pass what the last "
            f"{strategy} picks have as their state, or none to start afresh"
        )
    if state.get("version") != version:
        raise InputError(
            f"state is of version {state.get('version')!r} of {strategy}'s states, and this "
            f"labelwise reads version {version}: pass no state to start afresh"
        )
    before = state.get("arms")
    if not isinstance(before, Sequence) or not all(isinstance(arm, str) for arm in before):
        raise _damaged(strategy)
    if list(before) != list(arms):
        raise InputError(
            f"state is of {strategy} with the arms {', '.join(before)}, and now they are "
            f"{', '.join(arms)}: pass the same arms, or no state to start afresh"
        )
    try:
        whole = sound(state)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _damaged(strategy) from error
    if not whole:
        raise _damaged(strategy)
    return state


def _damaged(strategy: str) -> InputError:
    return InputError(
        f"state is a damaged state of {strategy}: pass what the last {strategy} picks have as "
        "their state, as it was, or none to start afresh"
    )


def is_count(value: Any, least: int = 0) -> bool:
    """Whether an entry of a state is a whole number, and not too small."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def are_numbers(value: Any, *shape: int) -> bool:
    """Whether an entry of a state is an array of finite numbers.

    >>> are_numbers([[1, 2.5]], 1, 2), are_numbers([1, None], 2), are_numbers([1], 2)
    (True, False, False)
    """
    array = np.asarray(value)
    return array.shape == shape and array.dtype.kind in "iuf" and bool(np.isfinite(array).all())


def known_classes(labeled: Tensor | None, labels: Tensor | None, by: str) -> dict[int, int]:
    """The class of each labeled row.

    Raises:
        InputError: labeled rows without their classes.
    """
    if labeled is None or not len(labeled):
        return {}
    if labels is None:
        raise InputError(f"{by} learns from the labels of its earlier picks: pass labels= too")
    return dict(zip(labeled.tolist(), labels.tolist()))
