"""Images as they are: uint8 pixels, decoded once, for networks."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from labelwise.errors import DataError, InputError
from labelwise.learners.base import Progress
from labelwise.pools import ImagePool, Pool

CHUNK = 1024
"""Images that are decoded between two calls of ``progress``."""


class Pixels:
    """Red, green and blue of every pixel as uint8.

    Args:
        size: (height, width) or one number for both, to scale and cut to; None takes the images
            as they are, and they must be of one size.

    Raises:
        InputError: at `fit`, a pool of another kind.
    """

    name = "pixels"

    def __init__(self, *, size: int | tuple[int, int] | None = None) -> None:
        self.size = size if size is None or isinstance(size, int) else (size[0], size[1])
        self._shape: tuple[int, ...] | None = None

    def signature(self) -> dict[str, Any]:
        """Name, version of the encoding, and size."""
        size = list(self.size) if isinstance(self.size, tuple) else self.size
        return {"name": self.name, "version": 1, "size": size}

    def fit(self, pool: Pool, *, seed: int) -> Self:
        """Look at the first image's size. Nothing is random, so the seed does nothing."""
        self._shape = _images(pool).images(np.arange(min(1, len(pool))), self.size).shape[1:]
        return self

    def item_shape(self) -> tuple[int, ...]:
        """(height, width, 3)."""
        if self._shape is None:
            raise InputError("the pixels encoder is not fitted; call fit(pool, seed=0) first")
        return self._shape

    def dtype(self) -> np.dtype[Any]:
        """uint8."""
        return np.dtype(np.uint8)

    def encode(
        self,
        pool: Pool,
        *,
        out: NDArray[Any] | None = None,
        progress: Progress | None = None,
    ) -> NDArray[Any]:
        """(N, H, W, 3) uint8.

        Raises:
            InputError: not fitted, or a pool of another kind.
            DataError: images that cannot be read, or that differ in size.
        """
        shape = self.item_shape()
        images = _images(pool)
        if out is None:
            out = np.empty((len(pool), *shape), np.uint8)
        for start in range(0, len(pool), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(pool)))
            pixels = images.images(rows, self.size)
            if pixels.shape[1:] != shape:
                raise DataError(
                    f"images must have one size, but {pool.ids[start]!r} is {pixels.shape[1]}x"
                    f"{pixels.shape[2]} (height x width) and the pool's first is {shape[0]}x"
                    f"{shape[1]}; give the pixels encoder size=(height, width)"
                )
            out[start : start + len(rows)] = pixels
            if progress:
                progress(start + len(rows), len(pool))
        return out


def _images(pool: Pool) -> ImagePool:
    if not isinstance(pool, ImagePool):
        raise InputError(f"the pixels encoder reads images, and this is a pool of kind {pool.kind}")
    return pool
