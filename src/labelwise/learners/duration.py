"""How many epochs fit into a time: what each part of a pretraining costs, and the sum."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple


class Costs(NamedTuple):
    """Seconds that the parts of a pretraining take.

    Attributes:
        start: spent before the first step, and for warming up in it.
        epoch: a pass over the pool.
        stop: what comes after every so many epochs and after the last: a look at the embeddings
            and a checkpoint.
        end: what comes once, after all of it.
    """

    start: float
    epoch: float
    stop: float
    end: float

    def seconds(self, epochs: int, every: int) -> float:
        """Of the whole, with a stop every so many epochs and after the last.

        >>> Costs(start=5.0, epoch=10.0, stop=2.0, end=3.0).seconds(epochs=5, every=2)
        64.0
        """
        stops = -(-epochs // every)
        return self.start + epochs * self.epoch + stops * self.stop + self.end

    def epochs(self, seconds: float, every: int, most: int) -> int:
        """The largest number of epochs that ends in time; at least 1, and at most ``most``.

        >>> Costs(start=5.0, epoch=10.0, stop=2.0, end=3.0).epochs(64.0, every=2, most=100)
        5
        """
        counts = range(1, most + 1)
        return max(1, bisect_right(counts, seconds, key=lambda each: self.seconds(each, every)))
