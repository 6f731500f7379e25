"""What a practitioner may rule out whatever the strategy: costs, quotas, near-duplicates.

A limit looks at a strategy's picks in order and passes over those it rules out; the strategy is
asked again for as many more as are missing. So limits go with any strategy, and a list of scores
is cut as if rows that are ruled out had never been there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Evidence, Rows, check
from labelwise.strategies.pickers import predicted

_PAIRS = 1 << 22


@dataclass(frozen=True)
class Kept:
    """Which picks stay.

    Attributes:
        positions: of the picks that stay, in order.
        copies: how many were passed over as near-duplicates.
        crowded: how many for a class whose quota was full.
        unpaid: how many for costing more than was left.
        full: classes whose quota is used up.
        money: what is left of the budget; infinity without one.
    """

    positions: NDArray[np.int64]
    copies: int
    crowded: int
    unpaid: int
    full: tuple[int, ...]
    money: float


class Limits:
    """The limits of one call; see `select` for what each means.

    Args:
        evidence: of the call, for ``costs`` (budget), ``probs`` (quota) and ``embeddings``
            (duplicates).
        budget: the most that the picks may cost together.
        quota: the most picks of any class, of each class (C,), or of the classes named.
        duplicates: the cosine similarity from which on rows count as one.

    Raises:
        InputError: a limit out of range, or the evidence for one missing.
    """

    def __init__(
        self,
        evidence: Evidence,
        *,
        budget: float | None = None,
        quota: Any = None,
        duplicates: float | None = None,
    ) -> None:
        if budget is not None:
            if not (_is_number(budget) and 0 < budget < math.inf):
                raise InputError(f"budget must be a positive number, got {budget!r}")
            evidence.require(["costs"], "budget")
        if duplicates is not None and not (_is_number(duplicates) and 0 < duplicates <= 1):
            raise InputError(
                f"duplicates must be a cosine similarity in (0, 1], got {duplicates!r}"
            )
        self.budget, self.duplicates = budget, duplicates
        self.costs: NDArray[np.float64] | None = None
        if "costs" in evidence:
            self.costs = evidence["costs"].tensor().cpu().double().numpy()
        self._classes: NDArray[np.int64] | None = None
        if quota is not None:
            evidence.require(["probs"], "quota")
            self._classes = predicted(evidence["probs"]).numpy()
            self._quota = _quotas(quota, evidence["probs"].shape[1])
        self._embeddings: Rows | None = None
        self._known = torch.zeros(0, 0, dtype=torch.float64)
        if duplicates is not None:
            evidence.require(["embeddings"], "duplicates")
            rows = self._embeddings = check("embeddings", evidence["embeddings"])
            labeled = torch.zeros(0, dtype=torch.int64)
            if "labeled" in evidence:
                labeled = torch.as_tensor(evidence["labeled"]).cpu()
            self._known = _unit(rows.take(labeled))

    @property
    def any(self) -> bool:
        """Whether there is anything to keep to."""
        return self.budget is not None or self._classes is not None or self._embeddings is not None

    def possible(self, candidates: Tensor) -> Tensor:
        """The candidates that no limit rules out from the start."""
        rows = candidates.numpy()
        free = np.ones(len(rows), dtype=bool)
        if self.costs is not None and self.budget is not None:
            free &= self.costs[rows] <= self._money
        if self._classes is not None:
            free &= self._quota[self._classes[rows]] > 0
        return candidates[torch.from_numpy(free)]

    @property
    def _money(self) -> float:
        """The budget, and what adding up costs may lose to rounding."""
        return math.inf if self.budget is None else self.budget * (1 + 1e-12)

    def first_guess(self, candidates: Tensor) -> int:
        """How many rows a budget may buy; at least one."""
        assert self.costs is not None
        mean = float(self.costs[candidates.numpy()].mean())
        return max(1, math.ceil(min(len(candidates), self._money / mean)))

    def keep(self, rows: NDArray[np.int64], n: int | None) -> Kept:
        """Go through picks in order and keep at most n that no limit rules out.

        Args:
            rows: (m,) picks. n: how many are wanted; None for all that the budget buys.
        """
        alike = None if self._embeddings is None else _Alike(self, rows)
        left = None if self._classes is None else self._quota.copy()
        money = self._money
        kept: list[int] = []
        copies = crowded = unpaid = 0
        for at, row in enumerate(rows.tolist()):
            if n is not None and len(kept) == n:
                break
            price = 0.0 if self.costs is None else float(self.costs[row])
            if left is not None and self._classes is not None and left[self._classes[row]] < 1:
                crowded += 1
            elif price > money:
                unpaid += 1
            elif alike is not None and not alike.add(at):
                copies += 1
            else:
                kept.append(at)
                money -= price
                if left is not None and self._classes is not None:
                    left[self._classes[row]] -= 1
        full = () if left is None else tuple(np.flatnonzero(left < 1).tolist())
        return Kept(np.asarray(kept, dtype=np.int64), copies, crowded, unpaid, full, money)

    def after(self, candidates: Tensor, rows: NDArray[np.int64], kept: Kept) -> tuple[Tensor, int]:
        """What to ask for again, and how many more rows that may bring at most.

        Returns:
            The rows kept, and candidates that may still be: of classes that are not full, and
            for no more than is left. How many of these can be had.
        """
        pool = candidates.numpy()
        mine = np.isin(pool, rows[kept.positions])
        open_ = np.ones(len(pool), dtype=bool)
        if self._classes is not None and kept.crowded:
            open_ &= ~np.isin(self._classes[pool], kept.full)
        if self.costs is not None:
            open_ &= self.costs[pool] <= kept.money
        new = pool[open_ & ~mine]
        more = len(new)
        if more and self.costs is not None:
            more = max(1, int(min(more, kept.money / self.costs[new].min())))
        return candidates[torch.from_numpy(open_ | mine)], more

    def notes(self, kept: Kept, rows: NDArray[np.int64], n: int | None) -> tuple[str, ...]:
        """What has to be said of the picks that stay."""
        told: list[str] = []
        reasons = {
            "near-duplicates of labeled or picked rows": kept.copies,
            "of classes whose quota was full": kept.crowded,
            "that cost more than was left": kept.unpaid,
        }
        passed = [f"{count} {why}" for why, count in reasons.items() if count]
        if passed:
            told.append(f"passed over: {', '.join(passed)}")
        if self.costs is not None:
            spent = float(self.costs[rows[kept.positions]].sum())
            of = "" if self.budget is None else f" of {self.budget:.6g}"
            told.append(f"the picks cost {spent:.6g}{of}")
        if n is not None and len(kept.positions) < n:
            told.append(f"{len(kept.positions)} picks, not {n}: the limits leave no more")
        return tuple(told)


class _Alike:
    """Which picks are near-duplicates of a labeled row or of an earlier pick that stays."""

    def __init__(self, limits: Limits, rows: NDArray[np.int64]) -> None:
        assert limits._embeddings is not None
        assert limits.duplicates is not None
        self._least = limits.duplicates - 1e-12
        self._points = _unit(limits._embeddings.take(torch.from_numpy(rows)))
        self._stays = torch.zeros(len(rows), dtype=torch.bool)
        self._copy = torch.zeros(len(rows), dtype=torch.bool)
        self._step = max(1, _PAIRS // max(1, len(limits._known), len(rows)))
        self._known = limits._known
        self._ready = 0
        self._inside = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, at: int) -> bool:
        """Whether a pick is like none before; if so it stays. To be asked in order."""
        while at >= self._ready:
            self._advance()
        start = self._ready - len(self._inside)
        mine = self._inside[at - start, : at - start]
        if self._copy[at] or bool((mine[self._stays[start:at]] >= self._least).any()):
            return False
        self._stays[at] = True
        return True

    def _advance(self) -> None:
        """Compare the next picks with labeled rows, with what stays, and with one another."""
        part = slice(self._ready, self._ready + self._step)
        points = self._points[part]
        for others in (self._known, self._points[: self._ready][self._stays[: self._ready]]):
            if len(others):
                self._copy[part] |= (points @ others.T).amax(1) >= self._least
        self._inside = points @ points.T
        self._ready += len(points)


def _unit(x: Tensor) -> Tensor:
    """Rows of length one in float64, with a last coordinate by which zeros are alike."""
    x = x.cpu().double()
    # Squares of very large or small entries would be infinite or zero.
    x = x / x.abs().amax(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    length = x.norm(dim=1, keepdim=True)
    nothing = (length == 0).double()
    return torch.cat([x / (length + nothing), nothing], 1)


def _quotas(quota: Any, classes: int) -> NDArray[np.int64]:
    """The most picks of each class, (C,)."""
    unlimited = np.iinfo(np.int64).max
    if isinstance(quota, Mapping):
        found = np.full(classes, unlimited)
        for name, count in quota.items():
            if isinstance(name, bool) or not isinstance(name, int | np.integer):
                raise InputError(f"quota must name classes by number, got {name!r}")
            if not 0 <= name < classes:
                raise InputError(f"quota must name classes in 0..{classes - 1}, got {name}")
            found[name] = _count(count)
        return found
    if isinstance(quota, int | np.integer) and not isinstance(quota, bool):
        return np.full(classes, _count(quota))
    counts = quota.tolist() if isinstance(quota, Tensor | np.ndarray) else quota
    if not isinstance(counts, list | tuple) or len(counts) != classes:
        raise InputError(
            f"quota must be a whole number, one for each of the {classes} classes, or a mapping "
            f"from classes, got {counts!r:.60}"
        )
    return np.array([_count(count) for count in counts], dtype=np.int64)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise InputError(f"quota must be whole numbers >= 0, got {value!r:.60}")
    return min(int(value), np.iinfo(np.int64).max)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
