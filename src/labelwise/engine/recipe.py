"""Which geometry the rows of a pool make, said so that every shard can make its own part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from labelwise.errors import InputError, nearest
from labelwise.kernels import Cosine, Euclidean, Geometry, GradientEmbedding
from labelwise.kernels.geometry import HOLD_BYTES
from labelwise.kernels.rows import Rows

Kind = Literal["euclidean", "cosine", "gradient"]


@dataclass(frozen=True)
class Recipe:
    """A geometry, but for its rows.

    Attributes:
        kind: ``euclidean`` and ``cosine`` over embeddings, ``gradient`` over class
            distributions, embeddings and, if given, labels.
        bias: of the gradient embedding.
        shift: whether points far from the origin may be shifted; a vector once that is decided.
    """

    kind: Kind = "euclidean"
    bias: bool = False
    shift: bool | Tensor = True

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(
                f"kind must be known, got {self.kind!r}; {nearest(self.kind, get_args(Kind))}"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The arrays that it is made of, the optional one last."""
        gradient = ("probs", "embeddings", "labels")
        return gradient if self.kind == "gradient" else ("embeddings",)

    def named(self, count: int) -> tuple[str, ...]:
        """The names of so many arrays.

        Raises:
            InputError: too many or too few.
        """
        if not len(self.columns[:2]) <= count <= len(self.columns):
            raise InputError(
                f"{self.kind!r} is made of {' and '.join(self.columns[:2])}, got {count} arrays"
            )
        return self.columns[:count]

    def build(
        self,
        arrays: Sequence[Rows | Tensor],
        device: str | torch.device | None = None,
        hold: int = HOLD_BYTES,
    ) -> Geometry:
        """The geometry of some rows, computed where they are or on a device."""
        if self.kind == "gradient":
            probs, embeddings, *rest = arrays
            labels = rest[0] if rest else None
            if isinstance(labels, Rows):
                labels = labels.tensor()
            if labels is not None:
                labels = labels.to(torch.int64)
            return GradientEmbedding(probs, embeddings, self.bias, labels, device, hold)
        kind = Cosine if self.kind == "cosine" else Euclidean
        return kind(arrays[0], device, shift=self.shift, hold=hold)

    def decided(self, sample: Sequence[Tensor]) -> Recipe:
        """The recipe with the origin that a sample of rows gives it, for all shards alike."""
        if self.kind == "gradient":
            return self
        geometry = self.build(sample)
        assert isinstance(geometry, Euclidean)
        origin = geometry.origin
        return replace(self, shift=False if origin is None else origin.cpu())
