"""ActiveFT: rows nearest to points that were moved until they look like the pool."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import InputError, ResourceError
from labelwise.evidence import Rows, check
from labelwise.kernels import (
    Chosen,
    Cosine,
    Generator,
    Subset,
    farthest_first,
    hold_limit,
    nearest_neighbors,
)
from labelwise.kernels.assign import Assignment
from labelwise.kernels.cost import Sizes, Work
from labelwise.kernels.grouped import group_sums
from labelwise.strategies.registry import strategy

Loss = Literal["code", "paper"]

_ROWS = 1024
_SHORTLIST = 8
_LISTED = 1 << 20


def active_ft_work(sizes: Sizes) -> Work:
    """300 times: every row's nearest point, and sums over the rows of each."""
    steps, entries = 300.0, float(sizes.rows) * sizes.width
    one = 2.0 * sizes.rows * sizes.width * sizes.n + 4.0 * sizes.n**2 * sizes.width
    held = _held(sizes.rows, sizes.n, sizes.width)
    copy = 4.0 * entries if not sizes.streamed else 2.6e8
    return Work(
        products=(0.3 * steps * one, 2 * steps * one),
        passes=(steps, steps + 20),
        numbers=(steps * entries, steps * (10 * entries + 4.0 * sizes.rows * sizes.n)),
        steps=(20 * steps, 400 * steps + 20.0 * sizes.n),
        held=(held, 3 * held + copy),
    )


@strategy(
    cite="Xie et al., CVPR 2023",
    cost=active_ft_work,
    costs="2 N D n operations in products, 300 times; 24 N bytes and 64 n D.",
    fails=(
        "Meant for one query, before any label: it ignores what is labeled; as good as the "
        "embeddings; large n takes long."
    ),
)
def active_ft(
    embeddings: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    loss: Loss = "code",
    temperature: float = 0.07,
    balance: float = 1.0,
    lr: float = 1e-3,
    iterations: int = 300,
    init: Literal["random", "farthest"] = "random",
) -> Chosen:
    """Move n points on the unit sphere until they match the pool, and pick the rows nearest.

    With f the rows of the pool and t the points, all of length one, c(i) the point nearest to
    row i and T the temperature, the mean over all rows is minimized of

        ``log(1 + balance * sum_k exp(t_k . t_c(i) / T) / exp(f_i . t_c(i) / T))``,

    where t_k counts as fixed: points are drawn to their rows and pushed from each other. Then
    each point in turn picks the candidate nearest to it that is not picked yet, the lowest row
    on a tie. Labeled rows are part of the pool like any others.

    Args:
        embeddings: (N, D), best from self-supervised training; divided by their lengths.
        loss: ``"code"`` as above, which the authors' numbers were made with; ``"paper"`` for
            ``mean_i -f_i . t_c(i) / T + balance * mean_j log sum_{k != j} exp(t_j . t_k / T)``,
            where both points of a pair move, as their paper writes it.
        temperature: T > 0. balance: >= 0, how much points repel each other.
        lr: > 0, of Adam. iterations: how many steps; the authors take 300 for CIFAR, 100 for
            ImageNet.
        init: where points start: ``"random"`` candidates, or ``"farthest"`` first.
        memory: bytes; 24 N + 64 n D are needed at the least. A converted pool that does not fit
            is read in blocks.

    Returns:
        Rows by point; the score is the cosine of the row and its point.

    Raises:
        InputError: an option out of range, or a row of zeros.
        ResourceError: ``memory`` is less than the call needs.

    Source:
        Xie, Lu, Yan, Yang, Tomizuka & Zhan, "Active Finetuning: Exploiting Annotation Budget in
        the Pretraining-Finetuning Paradigm", CVPR 2023.

    >>> from labelwise import select
    >>> two = [[1.0, 0.0], [0.99, 0.1], [0.99, -0.1], [0.1, 1.0], [0.0, 1.0], [-0.1, 1.0]]
    >>> sorted(select("active_ft", 2, embeddings=two, lr=0.01).rows.tolist())
    [0, 4]
    """
    _check_options(loss, temperature, balance, lr, iterations, init)
    pool = check("embeddings", embeddings)
    _check_memory(len(pool), n, pool.shape[1], memory)
    geometry = Cosine(pool, shift=False, hold=hold_limit(memory))
    if init == "farthest":
        rows = farthest_first(geometry, n, candidates=candidates, memory=memory).rows
    else:
        noise = generator.child("init").uniform(candidates.cpu().numpy())
        rows = candidates.cpu()[torch.from_numpy(np.argsort(noise, kind="stable")[:n])]
    pull = Pull(geometry, float(temperature), float(balance), loss)
    raw = geometry.double(rows)[0].clone()
    optimizer = torch.optim.Adam([raw], lr=lr)
    for _ in range(iterations):
        raw.grad = pull.gradient(raw)
        optimizer.step()
    return _snap(geometry, candidates.cpu(), unit(raw), memory)


def unit(points: Tensor) -> Tensor:
    """Points divided by their lengths, (n, D)."""
    return points / points.norm(dim=1, keepdim=True)


class Pull:
    """The loss of ActiveFT and its gradient.

    Rows enter by sums over those nearest to each point alone, so nothing of size N x n is held.

    Args:
        geometry: the pool's directions.
        temperature, balance, loss: see `active_ft`.

    Attributes:
        value: the loss where `gradient` was asked for last.
    """

    def __init__(self, geometry: Cosine, temperature: float, balance: float, loss: Loss) -> None:
        self._geometry = geometry
        self._temperature, self._balance, self._loss = temperature, balance, loss
        self._assignment = Assignment(geometry, lambda rows: geometry.double(rows.cpu())[0])
        self.value = math.nan

    def gradient(self, raw: Tensor) -> Tensor:
        """The gradient at points that need not have length one, (n, D) float64."""
        points = unit(raw)
        self._assignment.update(points)
        inner = self._contrast(points) if self._loss == "code" else self._separate(points)
        # Lengths do not matter, so what remains is at a right angle to each point.
        along = (inner * points).sum(1, keepdim=True)
        return (inner - along * points) / raw.norm(dim=1, keepdim=True)

    def _contrast(self, points: Tensor) -> Tensor:
        """With Z_c the sum over k, row i's part is softplus(log Z_c + log balance - s_i)."""
        repel, mean = _others(points, self._temperature, itself=True)
        log_balance = math.log(self._balance) if self._balance else -math.inf
        level = repel + log_balance
        size = len(self._geometry)
        total = torch.zeros_like(points)
        weight = torch.zeros(len(points), dtype=torch.float64, device=points.device)
        value = 0.0
        for start, block in self._geometry.blocks():
            member, x, own = self._own(start, block.factors[0], points)
            gap = level[member] - own.double() / self._temperature
            value += float(torch.nn.functional.softplus(gap).sum())
            part = gap.sigmoid()
            weight += group_sums(torch.ones_like(own)[:, None], member, part.float(), len(points))[
                :, 0
            ]
            total += group_sums(x, member, part.float(), len(points))
        self.value = value / size
        return (weight[:, None] * mean - total) / (self._temperature * size)

    def _separate(self, points: Tensor) -> Tensor:
        """Rows pull with equal strength; every pair of points repels."""
        size, count = len(self._geometry), len(points)
        total = torch.zeros_like(points)
        value = 0.0
        for start, block in self._geometry.blocks():
            member, x, own = self._own(start, block.factors[0], points)
            value -= float(own.double().sum())
            total += group_sums(x, member, torch.ones_like(own), count)
        self.value = value / (self._temperature * size)
        inner = -total / (self._temperature * size)
        if count > 1:
            repel, mean = _others(points, self._temperature, itself=False)
            self.value += self._balance * float(repel.mean())
            back = _back(points, repel, self._temperature)
            inner += self._balance * (mean + back) / (self._temperature * count)
        return inner

    def _own(self, start: int, x: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each row's point, the rows, and their cosines, (b,) float32."""
        part = slice(start, start + len(x))
        member = self._assignment.member[part]
        # Distances less the rows' own norms are 1 - 2 cos.
        return member, x, (1 - self._assignment.first[part]) / 2


def _others(points: Tensor, temperature: float, itself: bool) -> tuple[Tensor, Tensor]:
    """Of each point: the log of the sum of exponentials over others, and their mean by these.

    Returns:
        (n,) and (n, D) float64. ``itself``: whether a point is one of its others.
    """
    log_sum = torch.empty(len(points), dtype=torch.float64, device=points.device)
    mean = torch.empty_like(points)
    for start in range(0, len(points), _ROWS):
        part = slice(start, start + _ROWS)
        alike = points[part] @ points.T / temperature
        if not itself:
            at = torch.arange(len(alike), device=points.device)
            alike[at, at + start] = -torch.inf
        log_sum[part] = alike.logsumexp(1)
        mean[part] = alike.softmax(1) @ points
    return log_sum, mean


def _back(points: Tensor, log_sum: Tensor, temperature: float) -> Tensor:
    """What a point does to its others' sums of exponentials, (n, D) float64."""
    out = torch.empty_like(points)
    for start in range(0, len(points), _ROWS):
        part = slice(start, start + _ROWS)
        alike = (points[part] @ points.T / temperature - log_sum).exp()
        at = torch.arange(len(alike), device=points.device)
        alike[at, at + start] = 0
        out[part] = alike @ points
    return out


def _snap(geometry: Cosine, candidates: Tensor, points: Tensor, memory: int | None) -> Chosen:
    """For each point in turn the nearest candidate not taken yet, and their cosines."""
    some = Subset(geometry, candidates)
    taken: set[int] = set()
    rows: list[int] = []
    gains: list[float] = []
    count = _SHORTLIST
    while len(rows) < len(points):
        count = min(count, len(some))
        left = points[len(rows) :][: max(1, _LISTED // count)]
        near = nearest_neighbors(some, count, queries=geometry.points(left), memory=memory)
        for line, squared in zip(near.rows.tolist(), near.squared_distances.tolist()):
            free = next((i for i, row in enumerate(line) if row not in taken), None)
            if free is None:  # this point has to look farther
                count *= 4
                break
            taken.add(line[free])
            rows.append(line[free])
            gains.append(1 - squared[free] / 2)
    return Chosen(candidates[torch.tensor(rows)], torch.tensor(gains, dtype=torch.float64))


def _check_memory(size: int, n: int, width: int, memory: int | None) -> None:
    need = _held(size, n, width)
    if memory is not None and memory < need:
        raise ResourceError(
            f"memory must be at least {need / 1e6:.3g} MB for active_ft with {size} rows and {n} "
            f"points, got {memory / 1e6:.3g} MB"
        )


def _held(size: int, n: int, width: int) -> float:
    """Bytes: assignments, the points and what Adam knows of them, a few rows of their products."""
    return 24.0 * size + 64.0 * n * width + 16.0 * n * min(n, _ROWS)


def _check_options(
    loss: str, temperature: float, balance: float, lr: float, iterations: int, init: str
) -> None:
    if loss not in ("code", "paper"):
        raise InputError(f'loss must be "code" or "paper", got {loss!r}')
    if init not in ("random", "farthest"):
        raise InputError(f'init must be "random" or "farthest", got {init!r}')
    for name, value in (("temperature", temperature), ("lr", lr)):
        if isinstance(value, bool) or not 0 < value < math.inf:
            raise InputError(f"{name} must be a positive number, got {value!r}")
    if isinstance(balance, bool) or not 0 <= balance < math.inf:
        raise InputError(f"balance must be a number >= 0, got {balance!r}")
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise InputError(f"iterations must be a whole number >= 0, got {iterations!r}")
