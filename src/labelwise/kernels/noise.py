"""Randomness addressed by (seed, draw, item): the same whatever the order, block or worker.

A sequential generator gives the item that happens to be asked first the first number, so picks
would follow the order of rows, the size of blocks and the number of workers. Here every number
is a hash of what it is for (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011, for the idea of counter-based generation; the mixing function is SplitMix64's, Steele,
Lea & Flood, OOPSLA 2014).
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from labelwise.errors import InputError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def derive(seed: int, *names: str | int) -> int:
    """A seed for one purpose, from a seed for all of them.

    Args:
        seed: any integer.
        names: what it is for, such as ``"weights"`` or a round's number.

    Returns:
        An integer in [0, 2**63), spread evenly and the same on every machine.

    >>> derive(0, "weights") == derive(0, "weights") != derive(0, "order")
    True
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *names))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def numpy_stream(seed: int, *names: str | int) -> np.random.Generator:
    """A sequential NumPy generator for one named purpose."""
    return np.random.default_rng(derive(seed, *names))


def torch_stream(
    seed: int, *names: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A sequential torch generator for one named purpose."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


class Generator:
    """Random numbers for the items of a pool.

    Args:
        seed: any integer.
        ids: (N,) what identifies each item: integers or strings, no two alike. Without them a
            row's number is its identity, and shuffling the rows changes the picks.

    Raises:
        InputError: two items with the same id.

    >>> a = Generator(0, ids=["cat", "dog", "cow"]).uniform()
    >>> b = Generator(0, ids=["cow", "cat", "dog"]).uniform()
    >>> bool((a == b[[1, 2, 0]]).all())
    True
    """

    def __init__(self, seed: int, ids: ArrayLike | None = None) -> None:
        self.seed = int(seed)
        self._keys = None if ids is None else _keys(np.asarray(ids))
        self._first = 0

    def __len__(self) -> int:
        return 0 if self._keys is None else len(self._keys)

    def child(self, *names: str | int) -> Generator:
        """An independent generator over the same items, for one named purpose."""
        twin = Generator(derive(self.seed, *names))
        twin._keys, twin._first = self._keys, self._first
        return twin

    def part(self, start: int, stop: int) -> Generator:
        """The generator of a stretch of the rows, numbered from 0: it gives them the same.

        >>> bool((Generator(0).part(2, 4).uniform(2) == Generator(0).uniform(4)[2:]).all())
        True
        """
        twin = Generator(self.seed)
        twin._keys = None if self._keys is None else self._keys[start:stop]
        twin._first = self._first + start
        return twin

    def of(self, rows: NDArray[np.int64]) -> Generator:
        """The generator of some rows, renumbered from 0: it gives them the same.

        >>> some = Generator(0).of(np.array([3, 1])).uniform()
        >>> bool((some == Generator(0).uniform(4)[[3, 1]]).all())
        True
        """
        twin = Generator(self.seed)
        twin._keys = self._row_keys(rows)
        return twin

    def uniform(
        self, rows: NDArray[np.int64] | int | None = None, draw: int = 0
    ) -> NDArray[np.float64]:
        """One number in the open interval (0, 1) for each row asked for.

        Args:
            rows: (n,) row numbers; an integer means that many rows from the first; None means
                every row of a generator that has ids.
            draw: which of a row's numbers; every draw is independent of the others.
        """
        keys = self._row_keys(rows)
        salt = np.uint64(derive(self.seed, draw))
        with np.errstate(over="ignore"):
            bits = _mix(_mix(keys + salt * _GOLDEN) ^ salt)
        return _unit(bits)

    def exponential(
        self, rows: NDArray[np.int64] | int | None = None, draw: int = 0
    ) -> NDArray[np.float64]:
        """One number of the unit exponential law (mean 1) for each row asked for."""
        return -np.log(self.uniform(rows, draw))

    def gumbel(
        self, rows: NDArray[np.int64] | int | None = None, draw: int = 0
    ) -> NDArray[np.float64]:
        """One number of the standard Gumbel law for each row asked for."""
        return -np.log(self.exponential(rows, draw))

    def arrivals(
        self, draws: NDArray[np.int64], count: int, size: int, start: int = 0
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Visits to the rows of a pool at unit rate each, as (gaps, rows).

        The visits of one draw form a Poisson process: the waiting time for row i's first visit
        is a unit exponential, independent of every other row's. Whoever divides each visit's
        time by a weight of its row and takes the smallest has drawn a row with probability
        proportional to its weight, and needs to look only at early visits.

        Args:
            draws: (B,) which processes; each is independent of the others.
            count: how many visits of each.
            size: N, how many rows the pool has.
            start: how many earlier visits to leave out.

        Returns:
            gaps: (B, count) time since the previous visit, mean 1 / N. rows: (B, count) int64.
        """
        salt = np.uint64(derive(self.seed, "arrivals"))
        with np.errstate(over="ignore"):
            process = _mix(np.asarray(draws, dtype=np.uint64) * _GOLDEN + salt)[:, None]
            visit = np.arange(start + 1, start + count + 1, dtype=np.uint64) * _GOLDEN
            bits = _mix(process + visit[None])
            more = _mix(bits ^ process)
        gaps = -np.log(_unit(bits)) / size
        ranks = np.minimum((_unit(more) * size).astype(np.int64), size - 1)
        if self._keys is None:
            return gaps, ranks
        return gaps, self._order[ranks]

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        """Rows in the order of their ids' keys: the same items for every order of rows."""
        assert self._keys is not None
        return np.argsort(self._keys, kind="stable")

    def _row_keys(self, rows: NDArray[np.int64] | int | None) -> NDArray[np.uint64]:
        if rows is None:
            rows = len(self)
        if isinstance(rows, int | np.integer):
            rows = np.arange(rows)
        rows = np.asarray(rows)
        if self._keys is None:
            return (rows + self._first).astype(np.uint64)
        return self._keys[rows]


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer: every input bit flips half of the output bits."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * _FIRST
        x = (x ^ (x >> np.uint64(27))) * _SECOND
        return x ^ (x >> np.uint64(31))


def _unit(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Numbers in the open interval (0, 1) from the top 53 bits."""
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _keys(ids: NDArray[Any]) -> NDArray[np.uint64]:
    """A distinct 64-bit key for every id."""
    if ids.ndim != 1:
        raise InputError(f"ids must be one-dimensional, got shape {ids.shape}")
    if ids.dtype.kind in "iu":
        keys = ids.astype(np.int64).view(np.uint64)
    else:
        digests = b"".join(
            hashlib.blake2b(str(item).encode(), digest_size=8).digest() for item in ids.tolist()
        )
        keys = np.frombuffer(digests, dtype=np.uint64)
    values, first, counts = np.unique(keys, return_index=True, return_counts=True)
    if len(values) < len(keys):
        twice = int(first[counts > 1][0])
        raise InputError(
            f"ids must be distinct, but {ids.tolist()[twice]!r} (row {twice}) occurs again"
        )
    return keys
