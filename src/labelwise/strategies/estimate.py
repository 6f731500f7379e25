"""What a selection will take, said before it is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.evidence import RULES, Rows
from labelwise.kernels import derive
from labelwise.kernels.cost import Interval, Sizes, bytes_held, measure_rates, seconds
from labelwise.strategies.call import Call, call_sizes, check_count, usable_device
from labelwise.strategies.registry import Cost, Strategy, as_strategy
from labelwise.strategies.selection import select

_SAMPLE_SECONDS = 1.0
_FIRST_SAMPLE = 256
_UNSURE = 0.35
"""How far the power by which time grows may be off what two samples show."""


@dataclass(frozen=True)
class Estimate:
    """The least and the most that a call of `select` will take on this machine, as it is now.

    Attributes:
        strategy: its name.
        seconds: wall time.
        memory: bytes beyond what the process holds already; None where a strategy of your own
            does not say (see its ``cost``).

    >>> Estimate("k_center", (95.0, 300.0), (4e8, 9e8))
    k_center: 1.6 to 5 min, 400 to 900 MB beyond the input
    """

    strategy: str
    seconds: Interval
    memory: Interval | None

    def __repr__(self) -> str:
        told = f"{self.strategy}: {_span(*self.seconds, _TIMES)}"
        if self.memory is not None:
            told += f", {_span(*self.memory, _AMOUNTS)} beyond the input"
        return told


_TIMES = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
_AMOUNTS = ((1e9, "GB"), (1e6, "MB"))


def _span(least: float, most: float, units: tuple[tuple[float, str], ...]) -> str:
    """Two amounts in the largest unit that the larger one fills."""
    scale, unit = next((entry for entry in units if most >= entry[0]), units[-1])
    return f"{_rounded(least / scale)} to {_rounded(most / scale)} {unit}"


def _rounded(value: float) -> str:
    """Two digits, without an exponent where there need not be one."""
    return f"{float(f'{value:.2g}'):g}"


def estimate(
    strategy: str | Strategy | Callable[..., Any],
    n: int,
    *,
    seed: int = 0,
    labeled: Any = None,
    labels: Any = None,
    candidates: Any = None,
    exclude: Any = None,
    device: torch.device | str | None = None,
    ids: Any = None,
    providers: Iterable[Callable[..., Any]] = (),
    **evidence_and_options: Any,
) -> Estimate:
    """What `select` with the same arguments will take, in time and memory, as an interval.

    In about a second, most of it spent on measuring this machine; evidence is not checked.
    Strategies say how much work they do; one that does not, such as a function of your own, is
    run on small samples of the pool instead.

    Args:
        strategy, n, seed, labeled, labels, candidates, exclude, device, ids, providers: as for
            `select`, which may ask a strategy more than once where other limits are set.
        **evidence_and_options: as for `select`.

    Raises:
        InputError: an argument or a name that `select` would refuse; evidence missing.

    >>> probs = np.full((1000, 2), 0.5)
    >>> estimate("margin", 10, probs=probs).seconds[1] < 60
    True
    """
    found = as_strategy(strategy)
    given = evidence_and_options
    call = Call(found, given, providers, labeled, labels, ids, usable_device(device))
    left = call.candidates(candidates, exclude)
    check_count(n, len(left))
    missing = [name for name in call.needs if name not in call.evidence]
    call.evidence.require(missing, found.name)
    sizes, arrays = call_sizes(call.evidence, call.evidence_used, int(n))
    if (cost := call.cost) is not None:
        return declared(found, cost, sizes, arrays)
    sample = _Sample(found, call, left, providers, seed)
    return sampled(found, len(left), int(n), seed, sample.run)


class _Sample:
    """Runs of a strategy on some rows of the pool, as if they were all of it."""

    def __init__(
        self, strategy: Strategy, call: Call, left: Tensor, providers: Any, seed: int
    ) -> None:
        self._strategy, self._call, self._left = strategy, call, left
        self._providers, self._seed = tuple(providers), seed
        # What a provider gives is of the whole pool, so it is had once and cut like the rest.
        optional = [name for name in strategy.optional if name in call.evidence]
        asked = {*call.needs, *optional} - {"labeled", "labels", "oracle_labels"}
        self._evidence = {**call.evidence.given, **{name: call.evidence[name] for name in asked}}

    def run(self, positions: NDArray[np.int64], count: int) -> None:
        """Pick ``count`` of the candidates at some positions, as many labeled rows beside them."""
        evidence = self._evidence
        mine = self._left[torch.from_numpy(positions)]
        known: dict[str, Any] = {}
        if "labeled" in evidence:
            shown = Rows(evidence["labeled"], "labeled").tensor()[: len(mine)]
            known["labeled"] = torch.arange(len(shown))
            if evidence.get("labels") is not None:
                known["labels"] = Rows(evidence["labels"], "labels").tensor()[: len(mine)]
            mine = torch.cat([shown, mine])
        for name, value in evidence.items():
            if name in ("labeled", "labels"):
                continue
            axes = RULES[name].axes if name in RULES else ()
            if "N" in axes:
                rows = value if isinstance(value, Rows) else Rows(value, name)
                swapped = axes[0] != "N"
                part = (rows.swapped() if swapped else rows).take(mine)
                value = part.transpose(0, 1) if swapped else part
            known[name] = value
        select(
            self._strategy,
            count,
            seed=self._seed,
            providers=self._providers,
            **known,
            **self._call.told,
        )


def declared(strategy: Strategy, cost: Cost, sizes: Sizes, arrays: list[Rows]) -> Estimate:
    """From what the strategy says of its work, at rates measured now."""
    work = cost(sizes)
    device = next((rows.device for rows in arrays), torch.device("cpu"))
    rates = measure_rates(arrays, sizes.width, device)
    return Estimate(strategy.name, seconds(work, rates, sizes), bytes_held(work))


def sampled(
    strategy: Strategy, size: int, n: int, seed: int, run: Callable[[Any, int], object]
) -> Estimate:
    """From runs on small samples of the pool, pool and picks shrunk alike.

    Args:
        strategy: whose time is measured.
        size: N. n: picks. seed: of the samples.
        run: runs the strategy on some rows (m,), for so many picks.
    """
    times: list[tuple[int, float]] = []
    rows = min(size, _FIRST_SAMPLE)
    began = time.perf_counter()
    while True:
        order = np.random.default_rng(derive(seed, "sample", rows)).permutation(size)[:rows]
        start = time.perf_counter()
        run(np.sort(order), max(1, round(n * rows / size)))
        times.append((rows, time.perf_counter() - start))
        spent = time.perf_counter() - began
        if rows == size or (spent > _SAMPLE_SECONDS / 4 and len(times) > 1):
            break
        rows = min(size, 2 * rows)
    (before, slow), (last, took) = times[-2] if len(times) > 1 else (1, 0.0), times[-1]
    if last == size:
        return Estimate(strategy.name, (0.5 * took, 2 * took + 0.1), None)
    power = float(np.clip(np.log(took / slow) / np.log(last / before), 1.0, 2.5))
    growth = size / last
    return Estimate(
        strategy.name,
        (took * growth ** max(1.0, power - _UNSURE) / 2, 2 * took * growth ** (power + _UNSURE)),
        None,
    )
