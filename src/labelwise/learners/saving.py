"""Save a fitted network as safetensors and JSON, and load it again; never a pickle."""

from __future__ import annotations

import copy
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from labelwise._version import __version__
from labelwise.errors import DataError, InputError, ResourceError
from labelwise.learners.mlp import MLP
from labelwise.learners.network import NetworkLearner, NetworkModel
from labelwise.learners.networks import find_head
from labelwise.learners.objectives import Objective, Setting, make_objective
from labelwise.learners.recipe import Recipe
from labelwise.learners.resnet import ResNet18

FORMAT = 1
_OBJECTIVE = "labelwise.objectives."
"""What names of objectives' tensors begin with, and no module's."""

WEIGHTS, CARD = "model.safetensors", "model.json"


def save_model(model: NetworkModel, folder: Path | str) -> Path:
    """Write a fitted network to a folder: its tensors, and a card that says what made it.

    Both files are written aside and moved into place, the card last.

    Args:
        model: a fitted `MLP`, `ResNet18` or `Network`. (A linear head is refitted from its
            recipe, seed and label ids in less time than it takes to load.)
        folder: made when absent.

    Returns:
        The folder.

    Raises:
        InputError: another kind of model.
        ResourceError: the folder cannot be written.
    """
    if not isinstance(model, NetworkModel):
        raise InputError(
            f"model must be a fitted network to be saved, got {type(model).__name__}; keep its "
            "learner, seed and labeled ids, and fit it again"
        )
    history = model.history
    card = {
        "format": FORMAT,
        "labelwise": __version__,
        "torch": torch.__version__,
        "learner": model.signature,
        "classes": model.classes,
        "item_shape": list(model.item_shape),
        "history": None if history is None else history._asdict(),
    }
    tensors = {name: value.contiguous() for name, value in model.network.state_dict().items()}
    for place, objective in enumerate(model.objectives):
        for name, value in objective.state_dict().items():
            tensors[f"{_OBJECTIVE}{place}.{name}"] = value.contiguous()
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        aside = target / f".{WEIGHTS}"
        save_file(tensors, aside)
        aside.replace(target / WEIGHTS)
        aside = target / f".{CARD}"
        aside.write_text(json.dumps(card, indent=1), encoding="utf-8")
        aside.replace(target / CARD)
    except (OSError, SafetensorError) as error:
        raise ResourceError(f"the model cannot be written to {str(target)!r}: {error}") from error
    return target


def load_model(
    folder: Path | str, *, learner: NetworkLearner | None = None, device: str | None = None
) -> NetworkModel:
    """Read a model that `save_model` wrote.

    Args:
        folder: where it is.
        learner: the learner that made it; needed for a `Network`, whose factory is code and
            is not saved.
        device: where to put it; None takes CUDA where there is one.

    Raises:
        InputError: a ``learner`` that is needed and not given, or another than the model's.
        DataError: no model there, of another version, or of another architecture.
    """
    source = Path(folder)
    card = _read_card(source)
    made = card["learner"]
    if learner is None:
        learner = _learner(made)
    elif learner.signature() != made:
        raise InputError(
            f"learner must be the one that made {str(source)!r}, {json.dumps(made)}, "
            f"got {json.dumps(learner.signature())}"
        )
    shape, classes = tuple(card["item_shape"]), int(card["classes"])
    network = learner.empty(shape, classes)
    try:
        tensors = load_file(source / WEIGHTS)
        objectives = _objectives(learner, network, shape, classes, tensors)
        network.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"the weights in {str(source)!r} cannot be loaded: {reason}") from error
    return NetworkModel(
        network,
        classes=classes,
        recipe=Recipe(**{**made["recipe"], "device": device}),
        item_shape=shape,
        signature=made,
        objectives=objectives,
    )


def _objectives(
    learner: NetworkLearner,
    network: nn.Module,
    item_shape: tuple[int, ...],
    classes: int,
    tensors: dict[str, Tensor],
) -> tuple[Objective, ...]:
    """The learner's objectives with what they learned, which is taken out of the tensors."""
    cpu, none = torch.device("cpu"), torch.zeros(0, dtype=torch.int64)
    width = find_head(network, classes).in_features
    setting = Setting(
        classes, none, width, cpu, torch.Generator(), network, item_shape, pool=0, unlabeled=0
    )
    found = []
    for place, objective in enumerate(learner.objectives):
        made, prefix = copy.deepcopy(objective), f"{_OBJECTIVE}{place}."
        made.prepare(setting)
        names = [name for name in tensors if name.startswith(prefix)]
        state = {name.removeprefix(prefix): tensors.pop(name) for name in names}
        made.load_state_dict(state)
        found.append(made.eval())
    return tuple(found)


def _read_card(source: Path) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads((source / CARD).read_text(encoding="utf-8"))
        version, known = card["format"], {"learner", "classes", "item_shape"} <= set(card)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{str(source)!r} holds no saved model: {error}") from error
    if version != FORMAT or not known:
        raise DataError(
            f"{str(source)!r} holds a model of format {version}, and this version reads {FORMAT}"
        )
    return card


def _learner(made: dict[str, Any]) -> NetworkLearner:
    """The learner of a signature, as far as the network's shape goes."""
    recipe = {field.name for field in fields(Recipe)} & set(made["recipe"])
    options = {name: made["recipe"][name] for name in sorted(recipe)}
    options["objectives"] = [make_objective(**objective) for objective in made["objectives"]]
    if made["name"] == MLP.name:
        return MLP(**_own(made, "hidden", "dropout", "corruption"), **options)
    if made["name"] == ResNet18.name:
        own = _own(made, "width", "pad", "flip", "strong", "distorted")
        return ResNet18(**own, **options)
    raise InputError(
        f"model {made['name']!r} was made by code of yours: give load_model(..., learner=...) "
        "the learner"
    )


def _own(made: dict[str, Any], *names: str) -> dict[str, Any]:
    """Those options of a learner's own that its signature tells."""
    return {name: made[name] for name in names if name in made}
