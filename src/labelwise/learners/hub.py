"""Pretrained networks by name: timm for images, transformers for texts.

Both libraries are optional and fetch weights when a name is first used. Without a network, give
the path of weights in safetensors form; a file of any other form is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from labelwise.errors import DataError, InputError, MissingDependencyError
from labelwise.learners.base import Progress
from labelwise.learners.recipe import pick_device
from labelwise.learners.torchvision_import import prepare_torchvision
from labelwise.pools import ImagePool, Pool, TextPool


class _Pretrained(ABC):
    """What both families share: options, and encoding minibatch by minibatch."""

    def __init__(self, family: str, model: str, minibatch: int, device: str | None) -> None:
        if minibatch < 1:
            raise InputError(f"minibatch must be at least 1, got {minibatch}")
        self.name = f"{family}:{model}"
        self.model = model
        self.minibatch = minibatch
        self.device = device
        self._network: nn.Module | None = None

    def _loaded(self) -> nn.Module:
        if self._network is None:
            raise InputError(f"the {self.name} encoder is not fitted; call fit(pool, seed=0) first")
        return self._network

    @abstractmethod
    def item_shape(self) -> tuple[int, ...]:
        """(D,), the width of the network's features."""

    def dtype(self) -> np.dtype[Any]:
        """float32."""
        return np.dtype(np.float32)

    def encode(
        self,
        pool: Pool,
        *,
        out: NDArray[Any] | None = None,
        progress: Progress | None = None,
    ) -> NDArray[Any]:
        """(N, D) float32 features.

        Raises:
            InputError: not fitted, or a pool of another kind.
        """
        self._loaded()
        if out is None:
            out = np.empty((len(pool), *self.item_shape()), np.float32)
        for start in range(0, len(pool), self.minibatch):
            rows = np.arange(start, min(start + self.minibatch, len(pool)))
            with torch.inference_mode():
                out[start : start + len(rows)] = self._features(pool, rows).float().cpu().numpy()
            if progress:
                progress(start + len(rows), len(pool))
        return out

    @abstractmethod
    def _features(self, pool: Pool, rows: NDArray[np.int64]) -> Tensor: ...


class Timm(_Pretrained):
    """Pooled features of a pretrained image network of timm.

    Images are scaled and cut to the size that the network was trained on, and standardized as
    it expects.

    Args:
        model: timm's name, such as ``"resnet18.a1_in1k"``.
        weights: a ``.safetensors`` file to use instead of fetching the weights.
        minibatch: images at once.
        device: None takes CUDA where there is one.

    Raises:
        InputError: a name that timm does not know, or weights that are no safetensors file.
        MissingDependencyError: timm is not installed.
        DataError: the weights cannot be fetched or loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        weights: str | None = None,
        minibatch: int = 128,
        device: str | None = None,
    ) -> None:
        super().__init__("timm", model, minibatch, device)
        self.weights = weights

    def signature(self) -> dict[str, Any]:
        """Name, version of the encoding, and the weights' content when they are a file."""
        return {"name": self.name, "version": 1, "weights": _stamp(self.weights)}

    def fit(self, pool: Pool, *, seed: int) -> Self:
        """Load the network. Nothing is learned from the pool."""
        _check_kind(self.name, pool, ImagePool)
        timm = _library("timm", "vision")
        if not timm.is_model(self.model):
            raise InputError(f"timm knows no model {self.model!r}; see timm.list_models()")
        with _loading(self.name, "weights='<file>.safetensors'"):
            network = timm.create_model(self.model, pretrained=self.weights is None, num_classes=0)
            if self.weights is not None:
                _load_weights(network, self.weights)
        settings = timm.data.resolve_model_data_config(network)
        _, height, width = settings["input_size"]
        self._size = (int(height), int(width))
        device = pick_device(self.device)
        self._mean = torch.tensor(settings["mean"], device=device).reshape(3, 1, 1)
        self._spread = torch.tensor(settings["std"], device=device).reshape(3, 1, 1)
        self._network = network.to(device).eval()
        return self

    def item_shape(self) -> tuple[int, ...]:
        """(D,), the width of the network's features."""
        network: Any = self._loaded()
        return (int(network.num_features),)

    def _features(self, pool: Pool, rows: NDArray[np.int64]) -> Tensor:
        images = _check_kind(self.name, pool, ImagePool).images(rows, self._size)
        pixels = torch.from_numpy(images).to(self._mean.device).permute(0, 3, 1, 2)
        features: Tensor = self._loaded()((pixels.float() / 255 - self._mean) / self._spread)
        return features


class Transformers(_Pretrained):
    """Mean over tokens of the last layer of a pretrained text network of transformers.

    Args:
        model: a name on the hub, or the path of a folder with the network in safetensors form.
        minibatch: texts at once.
        tokens: longer texts are cut.
        device: None takes CUDA where there is one.

    Raises:
        MissingDependencyError: transformers is not installed.
        DataError: the network cannot be fetched or loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        minibatch: int = 32,
        tokens: int = 256,
        device: str | None = None,
    ) -> None:
        super().__init__("transformers", model, minibatch, device)
        if tokens < 1:
            raise InputError(f"tokens must be at least 1, got {tokens}")
        self.tokens = tokens

    def signature(self) -> dict[str, Any]:
        """Name, version of the encoding, and options."""
        weights = Path(self.model) / "model.safetensors"
        stamp = _stamp(str(weights)) if weights.is_file() else None
        return {"name": self.name, "version": 1, "tokens": self.tokens, "weights": stamp}

    def fit(self, pool: Pool, *, seed: int) -> Self:
        """Load tokenizer and network. Nothing is learned from the pool."""
        _check_kind(self.name, pool, TextPool)
        library = _library("transformers", "text")
        with _loading(self.name, "the path of a folder with the network as its name"):
            self._tokenizer = library.AutoTokenizer.from_pretrained(self.model)
            network = library.AutoModel.from_pretrained(self.model, use_safetensors=True)
        self._network = network.to(pick_device(self.device)).eval()
        return self

    def item_shape(self) -> tuple[int, ...]:
        """(D,), the width of the network's last layer."""
        config: Any = self._loaded().config
        return (int(config.hidden_size),)

    def _features(self, pool: Pool, rows: NDArray[np.int64]) -> Tensor:
        network = self._loaded()
        given = self._tokenizer(
            _check_kind(self.name, pool, TextPool).texts(rows),
            padding=True,
            truncation=True,
            max_length=self.tokens,
            return_tensors="pt",
        ).to(next(network.parameters()).device)
        states: Tensor = network(**given).last_hidden_state
        mask = given["attention_mask"][:, :, None].to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1).clamp(min=1)


@contextlib.contextmanager
def _loading(name: str, instead: str) -> Iterator[None]:
    """Turns what a hub's library raises when it cannot load into one line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"encoder {name!r} cannot be loaded ({reason[:200]}); without a network give {instead}"
        ) from error


def _library(name: str, extra: str) -> Any:
    prepare_torchvision()  # timm needs it, and transformers imports it where it is installed
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise MissingDependencyError(
            f"{name} is needed for '{name}:<...>' encoders and cannot be imported ({error}); "
            f"pip install 'labelwise[{extra}]'"
        ) from error


def _load_weights(network: nn.Module, path: str) -> None:
    """Weights from a file; those of a classifier on top are not needed and left out."""
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"weights must be a .safetensors file, got {path!r}")
    wanted = network.state_dict()
    found = load_file(path)
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise ValueError(f"{path!r} has no {missing[0]!r} ({len(missing)} tensors are missing)")
    network.load_state_dict({name: found[name] for name in wanted})


def _stamp(path: str | None) -> str | None:
    """What identifies a weights file in a signature: a hash of its bytes."""
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    except OSError as error:
        raise DataError(f"weights {path!r} cannot be read: {error.strerror}") from error


def _check_kind(name: str, pool: Pool, kind: type[Any]) -> Any:
    if not isinstance(pool, kind):
        raise InputError(
            f"the {name} encoder reads pools of kind {kind.kind}, and this one is {pool.kind}"
        )
    return pool
