"""Texts as the tokens of a pretrained network, for learners that tune one."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from labelwise.errors import InputError
from labelwise.learners.base import Progress
from labelwise.learners.hub_transformers import (
    NO_TOKEN,
    folder_stamp,
    most_tokens,
    open_tokenizer,
    tokenize,
)
from labelwise.pools import Pool, TextPool

CHUNK = 1024
"""Texts that are cut into tokens between two calls of ``progress``."""


class Tokens:
    """The numbers of each text's tokens, by the tokenizer of a network of transformers.

    A row is as long as the longest text may be, with -1 behind a shorter one: a network is told
    by that which tokens there are. To ``finetune:transformers:<name>`` this is what ``pixels``
    is to networks of images.

    Args:
        model: a name on the hub, or the path of a folder with the tokenizer.
        length: L, the most tokens of a text; longer ones are cut, and those that the network
            cannot take in any case.

    Raises:
        InputError: a length below 1; at `fit`, a pool of another kind.
        MissingDependencyError: at `fit`, transformers is not installed.
        DataError: at `fit`, the tokenizer cannot be fetched or loaded.
    """

    def __init__(self, model: str, *, length: int = 256) -> None:
        if length < 1:
            raise InputError(f"length must be at least 1, got {length}")
        self.name = f"tokens:{model}"
        self.model = model
        self.length = length
        self._tokenizer: Any = None

    def signature(self) -> dict[str, Any]:
        """Name, version of the encoding, length, and the content of a folder."""
        stamp = folder_stamp(self.model)
        return {"name": self.name, "version": 1, "length": self.length, "files": stamp}

    def fit(self, pool: Pool, *, seed: int) -> Self:
        """Load the tokenizer. Nothing is learned from the pool."""
        _texts(self.name, pool)
        self._tokenizer = open_tokenizer(self.model)
        return self

    def item_shape(self) -> tuple[int, ...]:
        """(L,)."""
        return (most_tokens(self._fitted(), self.length),)

    def dtype(self) -> np.dtype[Any]:
        """int32."""
        return np.dtype(np.int32)

    def encode(
        self,
        pool: Pool,
        *,
        out: NDArray[Any] | None = None,
        progress: Progress | None = None,
    ) -> NDArray[Any]:
        """(N, L) int32, -1 behind the last token of each text.

        Raises:
            InputError: not fitted, or a pool of another kind.
        """
        tokenizer, shape = self._fitted(), self.item_shape()
        texts = _texts(self.name, pool)
        if out is None:
            out = np.empty((len(pool), *shape), np.int32)
        for start in range(0, len(pool), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(pool)))
            found = tokenize(tokenizer, texts.texts(rows), shape[0])
            part = out[start : start + len(rows)]
            part[:, : found.shape[1]] = found
            part[:, found.shape[1] :] = NO_TOKEN
            if progress:
                progress(start + len(rows), len(pool))
        return out

    def _fitted(self) -> Any:
        if self._tokenizer is None:
            raise InputError(f"the {self.name} encoder is not fitted; call fit(pool, seed=0) first")
        return self._tokenizer


def _texts(name: str, pool: Pool) -> TextPool:
    if not isinstance(pool, TextPool):
        raise InputError(f"the {name} encoder reads texts, and this is a pool of kind {pool.kind}")
    return pool
