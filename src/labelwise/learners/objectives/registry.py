"""Objectives by name: what a plan, the command line or a user writes."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Sequence
from typing import Any

from labelwise.errors import InputError, nearest
from labelwise.learners.objectives.base import Objective, check_sum
from labelwise.options import parse_values

_HERE = "labelwise.learners.objectives"

_OBJECTIVES = {
    "cross_entropy": (f"{_HERE}.cross_entropy:CrossEntropy", "the labels, learned"),
    "joint_entropy": (f"{_HERE}.joint_entropy:JointEntropy", "sure of unlabeled rows"),
    "pseudo_label": (f"{_HERE}.pseudo_label:PseudoLabel", "sure rows, by the network's own labels"),
    "fixmatch": (f"{_HERE}.fixmatch:FixMatch", "hard looks get the labels of easy ones"),
    "flexmatch": (f"{_HERE}.flexmatch:FlexMatch", "FixMatch, lower thresholds for slow classes"),
    "freematch": (f"{_HERE}.freematch:FreeMatch", "FixMatch, thresholds that follow confidence"),
    "mixmatch": (f"{_HERE}.mixmatch:MixMatch", "labels and guesses, mixed (alone)"),
    "remixmatch": (f"{_HERE}.remixmatch:ReMixMatch", "aligned guesses, hard looks, mixed (alone)"),
    "simclr": (f"{_HERE}.simclr:SimCLR", "a row's other view is found in a minibatch"),
    "moco": (f"{_HERE}.moco:MoCo", "a row's other view is found in a queue, by a momentum encoder"),
    "simsiam": (f"{_HERE}.simsiam:SimSiam", "a view is predicted from the other"),
    "byol": (f"{_HERE}.byol:BYOL", "a momentum encoder's view is predicted"),
    "barlow_twins": (f"{_HERE}.barlow_twins:BarlowTwins", "views correlate, entries do not"),
    "vicreg": (f"{_HERE}.vicreg:VICReg", "views agree, entries vary apart"),
    "dino": (f"{_HERE}.dino:DINO", "a student finds prototypes as its own average does"),
    "rotation": (f"{_HERE}.rotation:Rotation", "by how many quarter turns an image is turned"),
    "tod": (f"{_HERE}.tod:TemporalDiscrepancy", "outputs stay near those of a moving average"),
    "vaal": (f"{_HERE}.vaal:VariationalAdversarial", "labeled and unlabeled, told apart (VAAL)"),
    "waal": (
        f"{_HERE}.waal:Wasserstein",
        "unlabeled embeddings are drawn near labeled ones (WAAL)",
    ),
    "learning_loss": (f"{_HERE}.learning_loss:LearningLoss", "a module predicts the loss (LPL)"),
}


def list_objectives() -> dict[str, str]:
    """Every objective's name and one line on it."""
    return {name: line for name, (_, line) in _OBJECTIVES.items()}


def objective_class(name: str) -> type[Objective]:
    """The class of the objective of that name.

    Raises:
        InputError: an unknown name, with the nearest ones.

    >>> objective_class("waal").gives
    ('critic',)
    """
    if name not in _OBJECTIVES:
        raise InputError(f"no objective is called {name!r}; {nearest(name, _OBJECTIVES)}")
    module, _, attribute = _OBJECTIVES[name][0].partition(":")
    found: type[Objective] = getattr(importlib.import_module(module), attribute)
    return found


def make_objective(name: str | Objective, **options: Any) -> Objective:
    """An objective by name.

    Args:
        name: one of `list_objectives`, or an objective, which is returned as it is.
        options: the keyword arguments of its class.

    Raises:
        InputError: an unknown name or option, with the nearest ones, or an option out of range.

    >>> make_objective("cross_entropy", smoothing=0.1).smoothing
    0.1
    """
    if isinstance(name, Objective):
        if options:
            raise InputError(f"options of an objective already made: {', '.join(options)}")
        return name
    factory = objective_class(name)
    known = list(inspect.signature(factory).parameters)
    for option in options:
        if option not in known:
            raise InputError(
                f"objective {name!r} has no option {option!r}; {nearest(option, known)}"
            )
    try:
        return factory(**options)
    except TypeError as error:  # a text where a number belongs, or an option that must be given
        raise InputError(f"objective {name!r} cannot be made of {options}: {error}") from error


def parse_objectives(given: str | Sequence[str | Objective]) -> tuple[Objective, ...]:
    """Objectives written ``name:option=value:...``, joined by ``+``, or a sequence of such.

    Numbers with commas between are a tuple, as in ``cross_entropy:class_weights=1,2.5``.

    Raises:
        InputError: what `make_objective` and `check_sum` refuse, an option that is no
            ``name=value`` or is given twice, or what is neither text nor objectives.

    >>> [type(each).__name__ for each in parse_objectives("cross_entropy:smoothing=0.1")]
    ['CrossEntropy']
    """
    # A plus before a digit belongs to a number, such as 1e+3.
    parts = re.split(r"\+(?!\s*\d)", given) if isinstance(given, str) else given
    listed = isinstance(parts, Sequence)
    if not listed or not all(isinstance(part, str | Objective) for part in parts):
        raise InputError(
            "objectives must be names joined by +, such as cross_entropy:smoothing=0.1, or a "
            f"sequence of names and objectives, got {given!r}"
        )
    found = tuple(_parsed(part) if isinstance(part, str) else part for part in parts)
    check_sum(found)
    return found


def _parsed(text: str) -> Objective:
    name, *pairs = (part.strip() for part in text.split(":"))
    options: dict[str, Any] = {}
    for pair in pairs:
        option, equals, value = pair.partition("=")
        if not equals or not option.isidentifier():
            raise InputError(f"options of objective {name!r} must be name=value, got {pair!r}")
        if option in options:
            raise InputError(f"option {option!r} of objective {name!r} is given twice")
        options[option] = parse_values(value)
    return make_objective(name, **options)
