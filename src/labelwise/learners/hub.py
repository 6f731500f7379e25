"""Pretrained networks by name: timm and open_clip for images, transformers for texts too.

The libraries are optional and fetch weights when a name is first used. Without a network, give
the path of weights in safetensors form; a file of any other form is refused.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labelwise.errors import InputError
from labelwise.learners.backbones import Backbone, file_stamp, open_open_clip, open_timm
from labelwise.learners.base import Progress
from labelwise.learners.hub_transformers import (
    folder_stamp,
    most_tokens,
    open_texts,
    open_tokenizer,
    open_transformers,
    tokenize,
)
from labelwise.learners.overlap import Batch, overlapped
from labelwise.learners.recipe import pick_device
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
        spans = range(0, len(pool), self.minibatch)

        def read(start: int) -> Batch:
            return self._read(pool, np.arange(start, min(start + self.minibatch, len(pool))))

        device = pick_device(self.device)
        with contextlib.closing(overlapped(read, spans, self._features, device)) as parts:
            for start, features in zip(spans, parts, strict=True):
                out[start : start + len(features)] = features.numpy()
                if progress:
                    progress(start + len(features), len(pool))
        return out

    @abstractmethod
    def _read(self, pool: Pool, rows: NDArray[np.int64]) -> Batch:
        """What the network needs of some rows, on the CPU; called by a thread of its own."""

    @abstractmethod
    def _features(self, batch: Batch) -> Tensor:
        """(n, D) float32 features of what was read, on the network's device."""


class _Images(_Pretrained):
    """Features of an image network; images are scaled, cut and standardized as it expects."""

    def __init__(
        self,
        family: str,
        opened: Callable[..., Backbone],
        model: str,
        weights: str | None,
        minibatch: int,
        device: str | None,
    ) -> None:
        super().__init__(family, model, minibatch, device)
        self.weights = weights
        self._open = opened

    def signature(self) -> dict[str, Any]:
        """Name, version of the encoding, and the weights' content when they are a file."""
        return {"name": self.name, "version": 1, "weights": file_stamp(self.weights)}

    def fit(self, pool: Pool, *, seed: int) -> Self:
        """Load the network. Nothing is learned from the pool."""
        _check_kind(self.name, pool, ImagePool)
        made = self._open(self.model, weights=self.weights)
        self._size, self._width = made.size, made.width
        device = pick_device(self.device)
        self._mean = torch.tensor(made.mean, device=device).reshape(3, 1, 1)
        self._spread = torch.tensor(made.spread, device=device).reshape(3, 1, 1)
        self._network = made.network.to(device).eval()
        return self

    def item_shape(self) -> tuple[int, ...]:
        """(D,), the width of the network's features."""
        self._loaded()
        return (self._width,)

    def _read(self, pool: Pool, rows: NDArray[np.int64]) -> Batch:
        images = _check_kind(self.name, pool, ImagePool).images(rows, self._size)
        return {"images": torch.from_numpy(images)}

    def _features(self, batch: Batch) -> Tensor:
        pixels = batch["images"].permute(0, 3, 1, 2).float() / 255
        features: Tensor = self._loaded()((pixels - self._mean) / self._spread)
        return features.float()


class Timm(_Images):
    """Pooled features of a pretrained image network of timm.

    Images are scaled and cut to the size that the network was trained on, and standardized as
    it expects.

    Args:
        model: timm's name, such as ``"resnet18.a1_in1k"``.
        weights: a ``.safetensors`` file to use instead of fetching the weights.
        minibatch: images at once.
        device: None takes CUDA where there is one.

    Raises:
        InputError: at `fit`, a name that timm does not know, or a pool of another kind.
        MissingDependencyError: timm is not installed.
        DataError: the weights cannot be fetched or loaded, or are no safetensors file.
    """

    def __init__(
        self,
        model: str,
        *,
        weights: str | None = None,
        minibatch: int = 128,
        device: str | None = None,
    ) -> None:
        super().__init__("timm", open_timm, model, weights, minibatch, device)


class OpenCLIP(_Images):
    """Features of the image tower of a network of open_clip, before they are normalized.

    Args:
        model: ``"<architecture>/<weights>"``, such as ``"ViT-B-32/laion2b_s34b_b79k"``; the
            architecture alone with ``weights``.
        weights: a ``.safetensors`` file of the whole network to use instead of fetching.
        minibatch: images at once.
        device: None takes CUDA where there is one.

    Raises:
        InputError: at `fit`, an unknown architecture, or a pool of another kind.
        MissingDependencyError: open_clip is not installed.
        DataError: the weights cannot be fetched or loaded, or are no safetensors file.
    """

    def __init__(
        self,
        model: str,
        *,
        weights: str | None = None,
        minibatch: int = 128,
        device: str | None = None,
    ) -> None:
        super().__init__("open_clip", open_open_clip, model, weights, minibatch, device)


class Transformers(_Images):
    """Features of a pretrained network of transformers: of images or of texts, as the pool is.

    Of an image they are what the network pools itself, else its class token, else the mean over
    positions; of a network for images and texts, the image tower's. Of a text they are the mean
    of the last layer over its tokens.

    Args:
        model: a name on the hub, or the path of a folder with the network in safetensors form.
        minibatch: images or texts at once.
        tokens: longer texts are cut, and those that the network cannot take in any case.
        device: None takes CUDA where there is one.

    Raises:
        InputError: an option out of range; at `fit`, a pool of neither kind, or a network of
            the other.
        MissingDependencyError: at `fit`, transformers is not installed.
        DataError: at `fit`, the network cannot be fetched or loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        minibatch: int = 32,
        tokens: int = 256,
        device: str | None = None,
    ) -> None:
        super().__init__("transformers", open_transformers, model, None, minibatch, device)
        if tokens < 1:
            raise InputError(f"tokens must be at least 1, got {tokens}")
        self.tokens = tokens
        self._tokenizer: Any = None

    def signature(self) -> dict[str, Any]:
        """Name, version of the encoding, options, and the content of a folder."""
        stamp = folder_stamp(self.model)
        return {"name": self.name, "version": 2, "tokens": self.tokens, "weights": stamp}

    def fit(self, pool: Pool, *, seed: int) -> Self:
        """Load the network, and a tokenizer for texts. Nothing is learned from the pool."""
        self._tokenizer = None
        if not isinstance(pool, TextPool):
            return super().fit(_check_kind(self.name, pool, ImagePool, TextPool), seed=seed)
        self._tokenizer = open_tokenizer(self.model)
        self._length = most_tokens(self._tokenizer, self.tokens)
        network, self._width = open_texts(self.model, length=self._length)
        self._network = network.to(pick_device(self.device))
        return self

    def _read(self, pool: Pool, rows: NDArray[np.int64]) -> Batch:
        if self._tokenizer is None:
            return super()._read(pool, rows)
        texts = _check_kind(self.name, pool, TextPool).texts(rows)
        return {"tokens": torch.from_numpy(tokenize(self._tokenizer, texts, self._length))}

    def _features(self, batch: Batch) -> Tensor:
        if self._tokenizer is None:
            return super()._features(batch)
        features: Tensor = self._loaded()(batch["tokens"])
        return features.float()


def _check_kind(name: str, pool: Pool, *kinds: type[Any]) -> Any:
    if not isinstance(pool, kinds):
        told = " or ".join(each.kind for each in kinds)
        raise InputError(
            f"the {name} encoder reads pools of kind {told}, and this one is {pool.kind}"
        )
    return pool
