"""Data parallel: one fit over several processes, each with its own device.

Under ``torchrun`` (or wherever ``torch.distributed`` is initialized) `train` works on every rank at
once and leaves the same network, history and objectives on all of them. Every rank draws the same
minibatches and looks; each passes its share of the rows through the network, and the outputs are
gathered **with gradient**. So every objective sees the whole minibatch, whatever it does with it
(compare rows, correlate features, keep statistics, play against the network), and no share
needs a weight: the loss is that of one process, and so is its gradient. What is divided is the
work of the network; looks and the objectives' own modules are computed on every rank.

    torchrun --nproc-per-node 2 -m labelwise simulate ...

Source:
    The gathered outputs: as in the authors' code of SimCLR (Chen et al., ICML 2020) and Barlow
    Twins (Zbontar et al., ICML 2021). Batch normalization over all ranks: Peng et al., "MegDet",
    CVPR 2018; moments of parts: Chan, Golub & LeVeque, 1979.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import MethodType
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from labelwise.errors import InputError, LabelwiseError
from labelwise.kernels import derive
from labelwise.learners.networks import Dropout, isolated_random_state

TIMEOUT = 1800.0
"""Seconds that `joined` lets a rank wait for one that is silent; one that ended shows at once."""

BUCKET = 1 << 23
"""Numbers of gradient that are sent at once."""

_Made = TypeVar("_Made", Tensor, tuple[Tensor, Tensor])


class Place(NamedTuple):
    """Which rows of a minibatch of ``whole`` are this rank's: ``first`` up to ``stop``."""

    first: int
    stop: int
    whole: int


class Ranks:
    """The processes of a fit, and this one among them. A single one, by default.

    Args:
        rank: this process, from 0.
        size: how many there are. Above 1 ``torch.distributed`` must be initialized.

    Attributes:
        place: inside `spread`, the rows that this rank passes through; else None.

    >>> alone = Ranks()
    >>> alone.spread(nn.Identity(), torch.ones(2, 1)).shape
    torch.Size([2, 1])
    """

    state_names = ("_passes",)

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self.place: Place | None = None
        self._passes = 0

    @classmethod
    def here(cls) -> Ranks:
        """All ranks of ``torch.distributed`` where it is initialized, else one process."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and reports."""
        return self.rank == 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        # Copies of a network (moving averages, teachers) belong to the same processes.
        return self

    def spread(self, forward: Callable[[Tensor], _Made], inputs: Tensor) -> _Made:
        """What a function makes of rows, computed by shares and gathered with gradient.

        With fewer rows than ranks every rank computes them all. Batch normalizations inside
        (see `lent`) normalize by all rows, and `Dropout` drops what one process would. A module
        that draws from torch's global generator draws differently on every rank.

        Args:
            forward: of (m, ...) rows makes a tensor, or two, of m rows each.
            inputs: (n, ...), the same on every rank.

        Returns:
            The same on every rank, n rows each.
        """
        count = len(inputs)
        if self.size == 1 or self.place is not None or count < self.size:
            return forward(inputs)
        self.place = self.share(count)
        self._passes += 1
        seed = derive(self._passes, "rank", self.rank)
        try:
            with isolated_random_state(seed, inputs.device):
                made = forward(inputs[self.place.first : self.place.stop])
        finally:
            self.place = None
        if isinstance(made, Tensor):
            return self.gather(made, count)
        return self.gather(made[0], count), self.gather(made[1], count)

    def share(self, count: int) -> Place:
        """The rows of a minibatch that are this rank's; shares differ by one at most.

        >>> [Ranks(rank, 2).share(5)[:2] for rank in range(2)]
        [(0, 3), (3, 5)]
        """
        least, more = divmod(count, self.size)
        first = self.rank * least + min(self.rank, more)
        return Place(first, first + least + (self.rank < more), count)

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """(count, ...) rows of all ranks from this rank's share, with gradient.

        For an objective that sees a share: a hook on a layer of the network does, while the
        network runs. Rows that are ``count`` already stay as they are.

        Args:
            rows: (m, ...), this rank's `share` of ``count``.
            count: n.
        """
        if self.size == 1 or len(rows) == count:
            return rows
        place = self.share(count)
        if len(rows) != place.stop - place.first:
            raise InputError(
                f"gather needs the rows {place.first} up to {place.stop} of {count}, which are "
                f"those of rank {self.rank}, got {len(rows)} rows"
            )
        around = [0, 0] * (rows.ndim - 1) + [place.first, count - place.stop]
        return _Sum.apply(F.pad(rows, around), self)

    def backward(self, loss: Tensor, parameters: Sequence[Tensor]) -> None:
        """Fill in the gradients of a loss that is the same on all ranks.

        Each rank follows the loss back through its own rows; the sum over ranks is the gradient
        of one process. Whatever every rank computes alike counts once too, so each starts from
        the loss over the number of ranks.
        """
        if self.size == 1:
            loss.backward()
            return
        (loss / self.size).backward()
        self._each([p.grad for p in parameters if p.grad is not None], self.total)

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over ranks, in place and without gradient.

        Raises:
            LabelwiseError: another rank has ended, or does not answer in time.
        """
        return self._talk(numbers, dist.all_reduce)

    def follow(self, module: nn.Module) -> None:
        """Give a module the weights and buffers that it has on rank 0."""
        if self.size == 1:
            return
        tensors = [*module.parameters(), *module.buffers()]

        def send(numbers: Tensor) -> Tensor:
            return self._talk(numbers, lambda values: dist.broadcast(values, 0))

        with torch.no_grad():
            for kind in {each.dtype: None for each in tensors}:
                self._each([each for each in tensors if each.dtype == kind], send)

    def send(self, content: bytes) -> bytes:
        """The bytes that rank 0 has."""
        if self.size == 1:
            return content
        length = self._talk(torch.tensor([len(content)]), lambda v: dist.broadcast(v, 0))
        held = torch.zeros(int(length), dtype=torch.uint8)
        if self.first:
            held.copy_(
                torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)[: len(held)]
            )
        if len(held):
            self._talk(held, lambda values: dist.broadcast(values, 0))
        return held.numpy().tobytes()

    def agree(self, **given: object) -> None:
        """Refuse what is not the same on all ranks: they would wait for each other for ever.

        Args:
            given: by name, what has a ``repr`` of its own, or tensors.

        Raises:
            InputError: on all ranks, with the names that differ.
        """
        if self.size == 1:
            return
        mine = torch.tensor([_digest(each) for each in given.values()])
        whole = torch.zeros(self.size, len(mine), dtype=torch.int64)
        whole[self.rank] = mine
        self.total(whole)
        apart = [name for name, column in zip(given, whole.T) if len(column.unique()) > 1]
        if apart:
            raise InputError(
                f"the {self.size} ranks of a fit must be given the same {' and '.join(apart)}, "
                "and got different ones: run the same program with the same data on all of them"
            )

    def _each(self, tensors: Sequence[Tensor], talk: Callable[[Tensor], Tensor]) -> None:
        """Replace tensors by what is heard of them, many at once."""
        bucket: list[Tensor] = []
        for number, each in enumerate(tensors, start=1):
            bucket.append(each)
            if sum(held.numel() for held in bucket) < BUCKET and number < len(tensors):
                continue
            heard = talk(torch.cat([held.detach().reshape(-1) for held in bucket]))
            for held, part in zip(bucket, heard.split([held.numel() for held in bucket])):
                held.copy_(part.view_as(held))
            bucket = []

    def _talk(self, numbers: Tensor, how: Callable[[Tensor], object]) -> Tensor:
        if self.size == 1:
            return numbers
        sent = numbers
        if dist.get_backend() == "nccl" and numbers.device.type == "cpu":
            sent = numbers.cuda()
        try:
            how(sent)
        except RuntimeError as error:
            reason = str(error).strip().splitlines() or ["no reason given"]
            raise LabelwiseError(
                f"rank {self.rank} of {self.size} lost the others: one has ended, or did not "
                f"answer in time; what it said is the reason ({reason[0][-160:]})"
            ) from error
        return numbers if sent is numbers else numbers.copy_(sent)


class _Sum(torch.autograd.Function):
    """The sum over ranks; its gradient is the sum of theirs, any number of times."""

    @staticmethod
    def forward(ctx: Any, numbers: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        # Not every backend adds numbers of half precision, and none of them adds them well.
        half = numbers.dtype in (torch.float16, torch.bfloat16)
        held = numbers.float() if half else numbers.clone(memory_format=torch.contiguous_format)
        return ranks.total(held).to(numbers.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(gradients[0], ctx.ranks), None


@contextlib.contextmanager
def lent(ranks: Ranks, modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, batch normalization and dropout in these modules know of the other ranks.

    Only what runs in `Ranks.spread` is different. Copies made inside are lent too.
    """
    modules = list(modules)
    for module in (part for each in modules for part in each.modules()):
        if ranks.size == 1 or "forward" in module.__dict__:
            continue
        if not isinstance(module, _BatchNorm | Dropout):
            continue
        how = _normalized if isinstance(module, _BatchNorm) else _dropped
        module.__dict__.update(ranks=ranks, forward=MethodType(how, module))
    try:
        yield
    finally:
        for module in (part for each in modules for part in each.modules()):
            if getattr(module.__dict__.get("forward"), "__func__", None) in _LENT:
                del module.__dict__["forward"], module.__dict__["ranks"]


def _normalized(norm: Any, x: Tensor) -> Tensor:
    """Batch normalization by mean and variance of the rows of all ranks."""
    ranks: Ranks = norm.ranks
    if ranks.place is None or not (norm.training or norm.running_mean is None):
        return type(norm).forward(norm, x)
    norm._check_input_dim(x)
    axes = [0, *range(2, x.ndim)]
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    spread, center = torch.var_mean(wide, axes, correction=0)
    count = center.new_tensor([x.numel() // x.shape[1]])
    parts = ranks.gather(torch.cat([center, spread, count])[None], ranks.size)
    centers, spreads, counts = parts.split([len(center), len(center), 1], 1)
    total = counts.sum()
    center = (counts * centers).sum(0) / total
    spread = (counts * (spreads + (centers - center).square())).sum(0) / total
    _remember(norm, center.detach(), spread.detach() * total / (total - 1))
    scale = (spread + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -center * scale
    shift = shift if norm.bias is None else shift + norm.bias
    shape = [1, -1] + [1] * (x.ndim - 2)
    return torch.addcmul(shift.reshape(shape), wide, scale.reshape(shape)).to(x.dtype)


@torch.no_grad()
def _remember(norm: Any, center: Tensor, spread: Tensor) -> None:
    """Move the running statistics of a batch normalization as torch does."""
    if norm.running_mean is None or not norm.training:
        return
    norm.num_batches_tracked.add_(1)
    share = norm.momentum
    if share is None:
        share = 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(center.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(spread.to(norm.running_var.dtype), share)


def _dropped(layer: Any, x: Tensor) -> Tensor:
    """Dropout of this rank's rows by the mask that one process would draw for all."""
    place: Place | None = layer.ranks.place
    idle = layer.p == 0 or layer.masks is not None or not layer.training
    if place is None or idle or len(x) % (place.stop - place.first):
        return type(layer).forward(layer, x)
    each = len(x) // (place.stop - place.first)
    # Masks are drawn in the order of memory, which may be channels last.
    order = sorted(range(x.ndim), key=x.stride, reverse=True)
    whole = torch.empty_permuted(
        (place.whole * each, *x.shape[1:]), order, dtype=x.dtype, device=x.device
    )
    kept = whole.bernoulli_(1 - layer.p, generator=layer.generator)
    return x * kept[place.first * each : place.stop * each].div_(1 - layer.p)


_LENT = (_normalized, _dropped)


def _digest(given: object) -> int:
    """A number in [0, 2**63) that is the same for equal values on every machine."""
    if isinstance(given, Tensor):
        content = given.detach().cpu().contiguous().numpy().tobytes()
    else:
        content = repr(given).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 1


@contextlib.contextmanager
def joined(timeout: float = TIMEOUT) -> Iterator[Ranks]:
    """Inside, this process is one of those that ``torchrun`` started; else it is alone.

    Args:
        timeout: seconds that a rank waits for the others before it gives them up.

    Raises:
        LabelwiseError: the others cannot be reached.

    >>> with joined() as ranks:
    ...     ranks.size
    1
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ or dist.is_initialized():
        yield Ranks.here()
        return
    backend = "cpu:gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as error:
        raise LabelwiseError(
            f"rank {os.environ['RANK']} of {size} found no others: {error}"
        ) from error
    try:
        yield Ranks.here()
    finally:
        dist.destroy_process_group()
