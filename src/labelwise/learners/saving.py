"""Save a fitted network as safetensors and JSON, and load it again; never a pickle."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from labelwise._version import __version__
from labelwise.errors import DataError, InputError, ResourceError
from labelwise.learners.mlp import MLP
from labelwise.learners.network import NetworkLearner, NetworkModel
from labelwise.learners.recipe import Recipe
from labelwise.learners.resnet import ResNet18

FORMAT = 1
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
        network.load_state_dict(load_file(source / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"the weights in {str(source)!r} cannot be loaded: {reason}") from error
    return NetworkModel(
        network,
        classes=classes,
        recipe=Recipe(**{**made["recipe"], "device": device}),
        item_shape=shape,
        signature=made,
    )


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
    if made["name"] == MLP.name:
        return MLP(hidden=made["hidden"], dropout=made["dropout"], **options)
    if made["name"] == ResNet18.name:
        own = {name: made[name] for name in ("width", "pad", "flip")}
        return ResNet18(**own, **options)
    raise InputError(
        f"model {made['name']!r} was made by code of yours: give load_model(..., learner=...) "
        "the learner"
    )
