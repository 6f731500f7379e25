"""Pretrained image networks of other libraries, loaded by name or from a file of weights."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from labelwise.errors import DataError, InputError, MissingDependencyError, nearest
from labelwise.learners.networks import isolated_random_state
from labelwise.learners.torchvision_import import prepare_torchvision

INSTEAD = "weights='<file>.safetensors'"
"""What to give instead of a name on the hub."""

REACH_SECONDS = 5.0
"""What the hub is given to answer a first call."""


class Backbone(NamedTuple):
    """A pretrained network, and what it expects of images.

    Attributes:
        network: (n, 3, height, width) standardized images to (n, width) features, or to logits
            of K source classes where that was asked for.
        width: of the features.
        size: (height, width) of the images it was pretrained on.
        mean, spread: of the channels, for pixels in [0, 1].
    """

    network: nn.Module
    width: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    spread: tuple[float, ...]


def open_timm(
    model: str, *, weights: str | None = None, pretrained: bool = True, classes: int = 0
) -> Backbone:
    """A network of timm.

    Args:
        model: timm's name, such as ``"resnet18.a1_in1k"``.
        weights: a ``.safetensors`` file to use instead of fetching the weights.
        pretrained: False leaves the parameters as timm makes them, of seed 0.
        classes: K source classes of its own classifier; 0 takes the classifier off.

    Raises:
        InputError: a name that timm does not know.
        MissingDependencyError: timm is not installed.
        DataError: the weights cannot be fetched or loaded.
    """
    timm = load_library("timm", "vision")
    if not timm.is_model(model):
        near = nearest(model, timm.list_models())
        hint = near if near.startswith("did") else "timm.list_models() has their names"
        raise InputError(f"timm knows no model {model!r}; {hint}")
    fetch = pretrained and weights is None
    with loading(f"timm:{model}", INSTEAD, fetch=fetch), seeded():
        network = timm.create_model(model, pretrained=fetch, num_classes=classes)
        if pretrained and weights is not None:
            load_weights(network, weights)
    found = timm.data.resolve_model_data_config(network)
    _, height, width = found["input_size"]
    size = (int(height), int(width))
    return Backbone(network, int(network.num_features), size, found["mean"], found["std"])


def open_open_clip(
    model: str, *, weights: str | None = None, pretrained: bool = True, classes: int = 0
) -> Backbone:
    """The image tower of a network of open_clip; its features are those the texts are near to.

    Args:
        model: ``"<architecture>/<weights>"`` as ``open_clip.list_pretrained`` has them, such as
            ``"ViT-B-32/laion2b_s34b_b79k"``; the architecture alone with ``weights``.
        weights: a ``.safetensors`` file of the whole network.
        pretrained: False leaves the parameters as open_clip makes them, of seed 0.
        classes: must be 0: such a network has no classifier.

    Raises:
        InputError: an unknown architecture, none of its weights named, or classes asked for.
        MissingDependencyError: open_clip is not installed.
        DataError: the weights cannot be fetched or loaded.
    """
    if classes:
        raise InputError(f"open_clip:{model} was pretrained on texts, and has no source classes")
    library = load_library("open_clip", "clip")
    architecture, _, tag = model.partition("/")
    known = library.list_models()
    if architecture not in known:
        raise InputError(
            f"open_clip knows no architecture {architecture!r}; {nearest(architecture, known)}"
        )
    fetch = pretrained and weights is None
    if fetch and not tag:
        tags = [each for name, each in library.list_pretrained() if name == architecture]
        raise InputError(
            f"open_clip:{model} must say which weights, as in '{architecture}/{tags[0]}'"
            if tags
            else f"open_clip has no weights of {architecture!r}: give weights='<file>.safetensors'"
        )
    with loading(f"open_clip:{model}", INSTEAD, fetch=fetch), seeded(), _unsaid():
        network = library.create_model(
            architecture,
            pretrained=tag if fetch else None,
            pretrained_text=False,  # of another hub
            require_pretrained=fetch,
        )
        if pretrained and weights is not None:
            load_weights(network, weights)
    tower = network.visual
    edge = tower.image_size
    size = (int(edge), int(edge)) if isinstance(edge, int) else (int(edge[0]), int(edge[1]))
    mean, spread = tower.image_mean, tower.image_std
    mean = mean or library.constants.OPENAI_DATASET_MEAN
    spread = spread or library.constants.OPENAI_DATASET_STD
    return Backbone(_Tower(tower), int(tower.output_dim), size, tuple(mean), tuple(spread))


@contextlib.contextmanager
def _unsaid() -> Iterator[None]:
    """Inside, nothing is logged without a logger's name, as open_clip does.

    It calls a network random whose weights are loaded later, and says twice what it raises.
    """
    root = logging.getLogger()

    def refuse(record: logging.LogRecord) -> bool:
        return False

    root.addFilter(refuse)
    try:
        yield
    finally:
        root.removeFilter(refuse)


class _Tower(nn.Module):
    """Only the pooled features of a tower that may give its tokens as well."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, height, width) to (n, D)."""
        made = self.tower(images)
        features: torch.Tensor = made[0] if isinstance(made, tuple) else made
        return features


@contextlib.contextmanager
def loading(name: str, instead: str, *, fetch: bool = False) -> Iterator[None]:
    """Turns what a hub's library raises when it cannot load into one line.

    Args:
        name: what is loaded. instead: what to give where there is no network.
        fetch: whether it may come from the hub. Where that cannot be reached, only what was
            fetched before is looked for; the libraries would try again for most of a minute.
    """
    try:
        with _fetching() if fetch else contextlib.nullcontext():
            yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"network {name!r} cannot be loaded ({reason[:200]}); without a network give {instead}"
        ) from error


@contextlib.contextmanager
def _fetching() -> Iterator[None]:
    """Inside, the hub is known to be out of reach, where it is.

    Raises:
        OSError: nothing was fetched before either.
    """
    try:
        known = importlib.import_module("huggingface_hub").constants
    except ImportError:  # then the library fetches from elsewhere
        yield
        return
    host = urlsplit(known.ENDPOINT)
    before = known.HF_HUB_OFFLINE
    if not before and not getproxies():
        try:
            port = host.port or (80 if host.scheme == "http" else 443)
            socket.create_connection((host.hostname or "", port), REACH_SECONDS).close()
        except OSError:
            known.HF_HUB_OFFLINE = True
    try:
        yield
    except OSError as error:
        if known.HF_HUB_OFFLINE:
            said = f"it was not fetched before, and {host.netloc} cannot be reached"
            raise OSError(said) from error
        raise
    finally:
        known.HF_HUB_OFFLINE = before


def load_library(name: str, extra: str) -> Any:
    """Import an optional library of pretrained networks.

    Raises:
        MissingDependencyError: it is not installed, or built for another torch.
    """
    prepare_torchvision()  # timm needs it, and transformers imports it where it is installed
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise MissingDependencyError(
            f"{name} is needed for '{name}:<...>' networks and cannot be imported ({error}); "
            f"pip install 'labelwise[{extra}]'"
        ) from error


def load_weights(network: nn.Module, path: str) -> None:
    """Weights from a file; those of a classifier on top are not needed and left out.

    Raises:
        ValueError: no safetensors file, or one that lacks something.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"weights must be a .safetensors file, got {path!r}")
    wanted = network.state_dict()
    found = load_file(path)
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise ValueError(f"{path!r} has no {missing[0]!r} ({len(missing)} tensors are missing)")
    network.load_state_dict({name: found[name] for name in wanted})


def file_stamp(path: str | None) -> str | None:
    """What identifies a weights file in a signature: a hash of its bytes.

    Raises:
        DataError: it cannot be read.
    """
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    except OSError as error:
        raise DataError(f"weights {path!r} cannot be read: {error.strerror}") from error


def seeded() -> contextlib.AbstractContextManager[None]:
    """Inside, what a library draws while it makes a network is of seed 0, and leaves no trace."""
    return isolated_random_state(0, torch.device("cpu"))
