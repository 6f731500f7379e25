"""Save a fitted network as safetensors and JSON, and load it again; never a pickle."""

from __future__ import annotations

import copy
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from labelwise._version import __version__
from labelwise.errors import DataError, InputError, ResourceError
from labelwise.learners.backbones import file_stamp
from labelwise.learners.checkpoint import difference, write_in_place
from labelwise.learners.network import NetworkLearner, NetworkModel
from labelwise.learners.networks import find_head
from labelwise.learners.objectives import Objective, Setting, list_objectives, make_objective
from labelwise.learners.recipe import Recipe
from labelwise.learners.registry import list_learners, make_learner

FORMAT = 1
_OBJECTIVE = "labelwise.objectives."
"""What names of objectives' tensors begin with, and no module's."""

WEIGHTS, CARD = "model.safetensors", "model.json"

_NO_OPTIONS = (
    "name",
    "recipe",
    "objectives",
    "widths",
    "weights",
    "source_centers",
    "source_layers",
)
"""What a signature has besides options of its learner, or as hashes of what is not needed here."""


def save_model(model: NetworkModel, folder: Path | str) -> Path:
    """Write a fitted network to a folder: its tensors, and a card that says what made it.

    Both files are written aside and moved into place, the card last.

    Args:
        model: a fitted network: of `MLP`, `ResNet18`, `Fused`, `Finetune` or `Network`. (A linear
            head is refitted from its recipe, seed and label ids in less time than it takes to
            load; of an ensemble, save its members.)
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
    history = None
    if model.history is not None:
        losses = dict(model.history.player_losses)
        history = model.history._replace(player_losses=losses)._asdict()
    card = {
        "format": FORMAT,
        "labelwise": __version__,
        "torch": torch.__version__,
        "learner": model.signature,
        "classes": model.classes,
        "item_shape": list(model.item_shape),
        "history": history,
    }
    held = dict(model.network.state_dict())
    for place, objective in enumerate(model.objectives):
        for name, value in objective.state_dict().items():
            held[f"{_OBJECTIVE}{place}.{name}"] = value
    # Copies: weights that two layers share are each their own in the file.
    tensors = {
        name: value.clone(memory_format=torch.contiguous_format) for name, value in held.items()
    }
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        aside = target / f".{WEIGHTS}"
        save_file(tensors, aside)
        card["weights"] = file_stamp(str(aside))
        aside.replace(target / WEIGHTS)
        write_in_place(target / CARD, json.dumps(card, indent=1).encode())
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
            is not saved, for objectives of your own, and for the source centers of a `Finetune`.
        device: where to put it; None takes CUDA where there is one.

    Raises:
        InputError: a ``learner`` that is needed and not given, or another than the model's.
        DataError: no model there, of another version, or of another architecture.
    """
    source = Path(folder)
    card = _read_card(source)
    made = card["learner"]
    if learner is None:
        try:
            learner = _learner(made)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{str(source)!r} holds no saved model: {error!r}") from error
    else:
        here = json.loads(json.dumps(learner.signature()))
        if here != made:
            raise InputError(
                f"learner must be the one that made {str(source)!r}: {difference(made, here)}"
            )
    shape, classes = tuple(card["item_shape"]), int(card["classes"])
    network = learner.empty(shape, classes)
    if card.get("weights", stamp := file_stamp(str(source / WEIGHTS))) != stamp:
        raise DataError(
            f"the weights in {str(source)!r} are not those of its {CARD}: it was not written to "
            "the end, save the model again"
        )
    try:
        tensors = load_file(source / WEIGHTS)
        objectives = _objectives(learner, network, shape, classes, tensors)
        network.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"the weights in {str(source)!r} cannot be loaded: {reason}") from error
    placed = copy.copy(learner)
    placed.recipe = replace(learner.recipe, device=device)
    model = placed.wrap(network, shape, classes, None, objectives)
    model.signature = made  # that of what was fitted: weights it began from have gone into it
    return model


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
    """The learner of a signature, as far as the network's shape goes.

    Raises:
        InputError: it, or one of its objectives, is code of the user's.
    """
    name = made["name"]
    ours = list_learners()
    foreign = [each["name"] for each in made["objectives"] if each["name"] not in list_objectives()]
    if foreign or (name not in ours and f"{name.partition(':')[0]}:<...>" not in ours):
        whose = f"objective {foreign[0]!r} of the model" if foreign else f"model {name!r}"
        raise InputError(
            f"{whose} was made by code of yours: give load_model(..., learner=...) the learner"
        )
    recipe = {field.name for field in fields(Recipe)} & set(made["recipe"])
    options = {name: made["recipe"][name] for name in sorted(recipe)}
    options["objectives"] = [make_objective(**objective) for objective in made["objectives"]]
    own = {option: value for option, value in made.items() if option not in _NO_OPTIONS}
    learner = make_learner(name, **own, **options)
    assert isinstance(learner, NetworkLearner)  # others are not saved
    return learner
