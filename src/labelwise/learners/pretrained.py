"""A pretrained network of ours as an encoder like any other."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional as F

from labelwise.errors import DataError, InputError
from labelwise.kernels import Rows
from labelwise.learners.base import Progress
from labelwise.learners.network import NetworkLearner, NetworkModel
from labelwise.learners.pretext import read_finished
from labelwise.learners.pretraining_recipes import BASES, base_encoder
from labelwise.learners.saving import WEIGHTS, load_model
from labelwise.pools import Pool

CHUNK = 2048
"""Items that are encoded between two calls of ``progress``."""


class Pretrained:
    """Embeddings by a network that `pretrain` kept: the input of its head, of norm 1.

    Args:
        folder: what `pretrain` was given as ``out``.
        normalize: whether embeddings have norm 1, as for the neighbors that measured them.
        learner: the network's learner, where it was pretrained by one of your own; see
            `load_model`.
        device: None takes CUDA where there is one.

    Raises:
        DataError: no finished pretraining there; at `fit`, another one than when this was made.
        InputError: at `fit`, a pool of another kind or of items of another shape; another table,
            whose columns mean something else.
    """

    def __init__(
        self,
        folder: str,
        *,
        normalize: bool = True,
        learner: NetworkLearner | None = None,
        device: str | None = None,
    ) -> None:
        self.name = f"pretrained:{folder}"
        self.folder = Path(folder)
        self.normalize = normalize
        self.device = device
        self._learner = copy.copy(learner)
        if self._learner is not None:
            self._learner.objectives = ()  # the network is kept without its objective
        self._made_by = read_finished(self.folder)
        try:
            self._weights = _stamp(self.folder)
        except OSError as error:
            raise DataError(f"{folder!r} holds no pretraining: {error}") from error
        kinds = {encoder: kind for kind, (encoder, _) in BASES.items()}
        self._kind = kinds[self._made_by["encoder"]["name"]]
        self._model: NetworkModel | None = None

    def signature(self) -> dict[str, Any]:
        """Version of the encoding, a checksum of the weights, and options; not the folder."""
        return {
            "name": "pretrained",
            "version": 1,
            "weights": self._weights,
            "encoder": self._made_by["encoder"],
            "normalize": self.normalize,
        }

    def fit(self, pool: Pool, *, seed: int) -> Self:
        """Load the network. Nothing is learned from the pool."""
        if pool.kind != self._kind:
            raise InputError(
                f"{self.name} was pretrained on items of kind {self._kind}, and this is a pool of "
                f"kind {pool.kind}"
            )
        if self._kind == "table" and pool.fingerprint != self._made_by["pool"]:
            raise InputError(
                f"{self.name} was pretrained on another table, whose columns its inputs are: "
                "pretrain on this one"
            )
        self._base = base_encoder(self._kind, self._made_by["encoder"].get("size"))
        self._base.fit(pool, seed=seed)
        model = load_model(self.folder, learner=self._learner, device=self.device)
        if _stamp(self.folder) != self._weights:
            raise DataError(
                f"{str(self.folder)!r} was pretrained anew since this encoder was made: make the "
                "encoder again"
            )
        self._model = model
        return self

    def item_shape(self) -> tuple[int, ...]:
        """(D,), the width of the network's embeddings."""
        weight = self._loaded().head_weight
        assert weight is not None
        return (weight.shape[1],)

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
        """(N, D) float32, a chunk of items decoded and embedded at a time.

        Raises:
            InputError: not fitted, or items of another shape.
        """
        model = self._loaded()
        if out is None:
            out = np.empty((len(pool), *self.item_shape()), np.float32)
        for start in range(0, len(pool), CHUNK):
            part = pool.subset(np.arange(start, min(start + CHUNK, len(pool))))
            rows = Rows(self._base.encode(part))
            if rows.shape[1:] != model.item_shape:
                raise InputError(
                    f"{self.name} was pretrained on items of shape {model.item_shape}, and "
                    f"{part.ids[0]!r} has shape {rows.shape[1:]}; pretrain(size=...) scales images"
                )
            seen: Any = model.predict(rows).embeddings
            seen = F.normalize(seen, dim=1) if self.normalize else seen
            out[start : start + len(part)] = seen.numpy()
            if progress:
                progress(start + len(part), len(pool))
        return out

    def _loaded(self) -> NetworkModel:
        if self._model is None:
            raise InputError(f"the {self.name} encoder is not fitted; call fit(pool, seed=0) first")
        return self._model


def _stamp(folder: Path) -> str:
    """A checksum of the weights in a folder."""
    return hashlib.blake2b((folder / WEIGHTS).read_bytes(), digest_size=16).hexdigest()
