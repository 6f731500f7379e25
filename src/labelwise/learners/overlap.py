"""Reading, transfer and computation of minibatches at the same time."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

AHEAD = 2
"""Minibatches that are read before they are asked for."""

Item = TypeVar("Item")

Batch = Mapping[str, Tensor]


def overlapped(
    read: Callable[[Item], Batch],
    items: Iterable[Item],
    compute: Callable[[Batch], Tensor],
    device: torch.device,
) -> Generator[Tensor, None, None]:
    """``compute(read(item))`` of one item after the other, on the CPU, without gradients.

    A thread of its own reads `AHEAD` items before they are needed. On a GPU, what was read goes
    to page-locked memory, is copied while the one before it is computed on, and a result is
    waited for when the next computation has been started.

    Args:
        read: makes an item's tensors, on the CPU. It is called by another thread, by one at a
            time and in order.
        items: what is read. compute: from an item's tensors on the device to its result.
        device: where ``compute`` works.

    Yields:
        A tensor on the CPU per item, in order. It is the caller's to keep.

    Raises:
        Whatever ``read`` or ``compute`` raise, when the item's turn comes.

    >>> read = lambda item: {"x": torch.tensor([item])}
    >>> found = overlapped(read, [1, 2], lambda batch: 10 * batch["x"], torch.device("cpu"))
    >>> [int(value) for value in found]
    [10, 20]
    """
    mover = _Mover(device) if device.type == "cuda" else None
    with contextlib.closing(_ahead(read, items, mover is not None)) as batches:
        for batch in batches:
            if mover is None:
                with torch.inference_mode():
                    made = compute({name: value.to(device) for name, value in batch.items()})
                yield made.cpu()
            else:
                yield from mover.step(batch, compute)
    if mover is not None:
        yield from mover.rest()


def _ahead(
    read: Callable[[Item], Batch], items: Iterable[Item], locked: bool
) -> Generator[Batch, None, None]:
    """What is read of each item, by a thread that is `AHEAD` items before the caller."""

    def work(item: Item) -> Batch:
        batch = read(item)
        return {name: value.pin_memory() for name, value in batch.items()} if locked else batch

    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(1, "labelwise-reader") as reader:
        try:
            for item in items:
                waiting.append(reader.submit(work, item))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class _Mover:
    """Copies to and from a GPU beside its computations: results come one item late.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._copies = torch.cuda.Stream(device)
        self._late: tuple[Tensor, torch.cuda.Event] | None = None

    def step(self, batch: Batch, compute: Callable[[Batch], Tensor]) -> Iterator[Tensor]:
        """Start one item's work, and give the result of the one before."""
        work = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copies):
            moved = {
                name: value.to(self.device, non_blocking=True) for name, value in batch.items()
            }
        work.wait_stream(self._copies)
        for value in moved.values():
            value.record_stream(work)
        with torch.inference_mode():
            made = compute(moved)
        result = torch.empty(made.shape, dtype=made.dtype, pin_memory=True)
        result.copy_(made, non_blocking=True)
        done = torch.cuda.Event()
        done.record(work)
        before, self._late = self._late, (result, done)
        yield from self._wait(before)

    def rest(self) -> Iterator[Tensor]:
        """The last item's result."""
        before, self._late = self._late, None
        yield from self._wait(before)

    @staticmethod
    def _wait(late: tuple[Tensor, torch.cuda.Event] | None) -> Iterator[Tensor]:
        if late is not None:
            late[1].synchronize()
            yield late[0]
