"""How networks are pretrained: what they see of a pool, and the recipe of each method."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from labelwise.errors import InputError
from labelwise.learners.base import Encoder
from labelwise.learners.network import NetworkLearner
from labelwise.learners.objectives import (
    Objective,
    list_objectives,
    objective_class,
    optional_inputs,
    parse_objectives,
    wanted_inputs,
)
from labelwise.learners.objectives.self_supervision import SelfSupervised
from labelwise.learners.registry import make_encoder, make_learner

if TYPE_CHECKING:
    from labelwise.pools import Data

BASES = {"image": ("pixels", "resnet18"), "table": ("table", "mlp"), "array": ("identity", "mlp")}
"""By kind of pool: what makes arrays of items, and the network that is pretrained on them."""

_LARS = {"optimizer": "lars", "learning_rate": 0.3, "weight_decay": 1e-4}
_SGD = {"optimizer": "sgd", "learning_rate": 0.3, "weight_decay": 1e-4}
RECIPES: dict[str, dict[str, Any]] = {
    "simclr": {**_LARS, "learning_rate": 0.4},
    "moco": _SGD,
    "simsiam": {**_SGD, "learning_rate": 0.5, "weight_decay": 1e-5},
    "byol": {**_LARS, "learning_rate": 1.0, "weight_decay": 1e-5},
    "dino": {**_LARS, "weight_decay": 1e-6},
    "rotation": {**_SGD, "learning_rate": 0.1, "weight_decay": 5e-4},
}
"""Of a ResNet, by method: as solo-learn has them for CIFAR-10, learning rates for minibatches of
256 rows and in proportion to others; LARS at 0.3 for those not named. Rotation: its paper's."""


def base_encoder(kind: str, size: int | None = None) -> Encoder:
    """What makes arrays of a pool's items for a network.

    Raises:
        InputError: a kind of pool that no network here is pretrained on.
    """
    if kind not in BASES:
        raise InputError(
            f"pretraining is for pools of images, tables or arrays, got {kind}; "
            "texts have 'transformers:<name>' encoders"
        )
    if size is not None and kind != "image":
        raise InputError(f"size is of images, and this is a pool of kind {kind}")
    return make_encoder(BASES[kind][0], **({} if size is None else {"size": size}))


def list_methods() -> dict[str, str]:
    """Every objective that needs no labels, by name, and one line on it.

    >>> list_methods()["simclr"]
    "a row's other view is found in a minibatch"
    """
    found = list_objectives()
    return {n: line for n, line in found.items() if issubclass(objective_class(n), SelfSupervised)}


def one_objective(method: str | Objective) -> Objective:
    """The objective of a method, by name or as it is.

    Raises:
        InputError: several, one that needs labels, or what `parse_objectives` refuses.
    """
    found = parse_objectives(method if isinstance(method, str) else [method])
    if len(found) != 1:
        raise InputError(
            f"method must be one of {', '.join(list_methods())}, got {len(found)} objectives"
        )
    (objective,) = found
    if "labeled" in set(wanted_inputs(objective)) - optional_inputs(objective):
        name = objective.signature().get("name", type(objective).__name__)
        raise InputError(
            f"method must learn without labels, and {name!r} needs them: take one of "
            f"{', '.join(list_methods())}"
        )
    return objective


def pretraining_learner(
    data: Data,
    objective: Objective,
    network: str | NetworkLearner | None,
    options: dict[str, Any],
    recipe: dict[str, Any],
) -> NetworkLearner:
    """The network's learner with the method's recipe, where none was given.

    Raises:
        InputError: a network that is not trained here, or unknown options.
    """
    if isinstance(network, NetworkLearner):
        if options or recipe:
            raise InputError("options of a network that is already made")
        made = copy.copy(network)
        made.objectives = (objective,)
        return made
    name = network or BASES[data.kind][1]
    count = len(data.pool)
    minibatch = recipe.get("unlabeled_minibatch")
    if minibatch is None:
        # Contrast wants many rows in a step, and a small pool many steps in an epoch.
        minibatch = 64
        while minibatch < 512 and 2 * minibatch <= count // 8:
            minibatch *= 2
    changes: dict[str, Any] = {"learning_rate": 1e-3, "weight_decay": 1e-4, "optimizer": "adam"}
    if name == "resnet18":
        known = RECIPES.get(str(objective.signature().get("name")), _LARS)
        changes = {**known, "learning_rate": known["learning_rate"] * minibatch / 256}
    shared = {"schedule": "one_cycle", "warmup": 0.05, "min_steps": 0}
    shared |= {"unlabeled_minibatch": minibatch}
    made_by_name = make_learner(
        name, objectives=[objective], **{**changes, **shared, **recipe, **options}
    )
    if not isinstance(made_by_name, NetworkLearner):
        raise InputError(f"network must be one that is trained here, such as 'mlp', got {name!r}")
    return made_by_name


def without_epochs(learner: NetworkLearner) -> dict[str, Any]:
    """The learner's signature but for how long it trains."""
    made = learner.signature()
    return {**made, "recipe": {k: v for k, v in made["recipe"].items() if k != "epochs"}}
