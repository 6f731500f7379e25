"""Several encoders side by side: one array of what each of them sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners.base import Encoder, Progress
from labelwise.learners.encoding import shifted
from labelwise.learners.registry import make_encoder
from labelwise.pools import Pool

SAMPLE = 1024
"""At most this many of the pool's items tell how large an encoder's rows are."""


class Concat:
    """The rows of several encoders, one behind the other.

    Each encoder's part is divided by one number, so that its rows are at distance 1 from their
    mean on average (root of the mean square): no encoder outweighs the others in a distance or
    in a penalty because its numbers are larger.

    Args:
        encoders: two or more, or their names joined by ``+``, as in ``concat:patches+pixels``.
        balance: False leaves the parts as they are.

    Raises:
        InputError: fewer than two, or what `make_encoder` refuses.
    """

    def __init__(self, encoders: str | Sequence[str | Encoder], *, balance: bool = True) -> None:
        given = encoders.split("+") if isinstance(encoders, str) else encoders
        self.encoders = [make_encoder(each) for each in given]
        if len(self.encoders) < 2:
            raise InputError(
                f"concat needs two encoders or more, as in 'concat:patches+pixels', got {given!r}"
            )
        self.balance = balance
        self.name = "concat:" + "+".join(each.name for each in self.encoders)
        self._widths: list[int] = []
        self._scales: list[float] = []

    def signature(self) -> dict[str, Any]:
        """Name, whether parts are balanced, and the signatures of the encoders."""
        parts = [each.signature() for each in self.encoders]
        return {"name": self.name, "version": 1, "balance": self.balance, "encoders": parts}

    def fit(self, pool: Pool, *, seed: int) -> Self:
        """Fit each encoder on the pool, each by the same seed, and measure their rows."""
        step = -(-len(pool) // SAMPLE) or 1
        sample = pool.subset(np.arange(0, len(pool), step))
        self._widths, self._scales = [], []
        for encoder in self.encoders:
            x = _flat(encoder.fit(pool, seed=seed).encode(sample)).astype(np.float64)
            spread = float(np.sqrt(np.square(x - x.mean(0)).sum(1).mean())) if len(x) else 0.0
            self._widths.append(x.shape[1])
            self._scales.append(1 / spread if self.balance and spread > 0 else 1.0)
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Entries of each encoder's part, in their order, once fitted."""
        if not self._widths:
            raise InputError(f"the {self.name} encoder is not fitted; call fit(pool, seed=0) first")
        return tuple(self._widths)

    def item_shape(self) -> tuple[int, ...]:
        """(D,), all parts together."""
        return (sum(self.widths),)

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
        """(N, D) float32. One encoder's part at a time is held beside the result.

        Raises:
            InputError: not fitted.
        """
        total = len(self.encoders) * len(pool)
        if out is None:
            out = np.empty((len(pool), *self.item_shape()), np.float32)
        start = 0
        for place, (encoder, width) in enumerate(zip(self.encoders, self.widths)):
            report = shifted(progress, place * len(pool), total)
            found = Rows(encoder.encode(pool, progress=report))
            for first, block in found.blocks():
                part = _flat(block)
                scaled = part.astype(np.float64) * self._scales[place]  # some parts are float16
                out[first : first + len(part), start : start + width] = scaled
            start += width
        return out


def _flat(made: Any) -> NDArray[Any]:
    """(n, ...) rows as (n, D)."""
    array = np.asarray(made.cpu() if hasattr(made, "cpu") else made)
    return array.reshape(len(array), -1)
