"""What a fit minimizes: objectives, which add up in the one training loop."""

from labelwise.learners.objectives.base import (
    NETWORK,
    VIEWS,
    Losses,
    Objective,
    Player,
    Setting,
    Step,
    check_learns_labels,
    optional_inputs,
    wanted_inputs,
)
from labelwise.learners.objectives.cross_entropy import CrossEntropy
from labelwise.learners.objectives.registry import (
    list_objectives,
    make_objective,
    objective_class,
    parse_objectives,
)
from labelwise.learners.objectives.views import Augment, Looks, Sight, Tapped, View

__all__ = [
    "NETWORK",
    "VIEWS",
    "Augment",
    "CrossEntropy",
    "Looks",
    "Losses",
    "Objective",
    "Player",
    "Setting",
    "Sight",
    "Step",
    "Tapped",
    "View",
    "check_learns_labels",
    "list_objectives",
    "make_objective",
    "objective_class",
    "optional_inputs",
    "parse_objectives",
    "wanted_inputs",
]
