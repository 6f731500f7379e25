"""Embedding a pool on a Ray cluster: blocks stream through workers into one file."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.engine.cluster import Session
from labelwise.errors import InputError, ResourceError

Block = Callable[[Any], Any]
"""From a block of items to its (b, ...) numbers."""

AHEAD = 2
"""Blocks a worker has at hand: one that it works on, one that waits."""

MOST_LOSSES = 5
"""How often one block may cost its worker before that is an error."""


def embed(
    make: Callable[[], Block],
    items: Sequence[Any] | NDArray[Any] | int,
    out: Path | str,
    *,
    block: int = 256,
    workers: int | None = None,
    address: str | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Map every block of a pool to numbers, and write them to one ``.npy`` file, in order.

    A worker calls ``make`` once, to load its model, and then what that returned for one block
    after another. What is held at any time is two blocks for each worker, in and out. A worker
    that is lost is replaced and its blocks are done again. The file appears when it is whole.

    Args:
        make: called once in each worker; returns a function from a block of items to an array or
            tensor of as many rows. Both are sent to the workers by value.
        items: what is cut into blocks by ``items[start:stop]``: paths, texts, an array or a
            memory map; or a number N, whose blocks are row numbers, for workers that read the
            items themselves.
        out: the file to write.
        block: items in a block.
        workers: how many; one for each processor of the cluster by default.
        address: of the cluster; RAY_ADDRESS by default, and one of this machine without it.
        cpus, gpus: what each worker asks for.
        progress: called with items done and items in all.

    Returns:
        The file's path, ready for `RayShards` and for every kernel.

    Raises:
        InputError: nothing to embed, or a block whose numbers do not fit it or the blocks
            before. What the function itself raises comes through.
        MissingDependencyError: Ray is not installed.
        ResourceError: the cluster cannot be reached, a block costs one worker after the other,
            or the file cannot be written.
    """
    count = items if isinstance(items, int) else len(items)
    if count < 1 or block < 1:
        raise InputError(f"embed needs items and blocks of >= 1, got {count} and {block}")
    path = Path(out)
    session = Session(address)
    try:
        team = _Team(session, make, workers or session.cpus, cpus, gpus)
        file = _File(path, count)
        try:
            for start, array in team.map(_blocks(items, count, block)):
                file.write(start, array)
                if progress is not None:
                    progress(file.done, count)
            file.finish()
        finally:
            file.discard()
            team.close()
    finally:
        session.close()
    return path


Task = tuple[int, int, Callable[[], Any]]
"""A block's first item, the one after its last, and what gives its items."""


def _blocks(items: Any, count: int, block: int) -> list[Task]:
    def part(start: int, stop: int) -> Any:
        if isinstance(items, int):
            return np.arange(start, stop)
        some = items[start:stop]
        return np.ascontiguousarray(some) if isinstance(some, np.ndarray) else some

    spans = [(start, min(start + block, count)) for start in range(0, count, block)]
    return [(start, stop, partial(part, start, stop)) for start, stop in spans]


class Embedder:
    """What a worker runs."""

    def __init__(self, make: Callable[[], Block]) -> None:
        self._make = make
        self._function: Block | None = None

    def embed(self, start: int, stop: int, items: Any) -> NDArray[Any]:
        """The numbers of one block."""
        if self._function is None:
            self._function = self._make()
        with torch.no_grad():
            found = self._function(items)
        array = found.cpu().numpy() if isinstance(found, Tensor) else np.asarray(found)
        if array.ndim < 1 or len(array) != stop - start or array.dtype.kind not in "biuf":
            raise InputError(
                f"items {start} to {stop - 1} must be embedded as {stop - start} rows of numbers, "
                f"got shape {array.shape} of {array.dtype}"
            )
        return array


class _Team:
    """Workers, and the blocks that each has at hand."""

    def __init__(
        self, session: Session, make: Callable[[], Block], size: int, cpus: float, gpus: float
    ) -> None:
        self._ray = session.ray
        actor = self._ray.remote(Embedder).options(
            num_cpus=cpus, num_gpus=gpus, scheduling_strategy="SPREAD"
        )
        made = self._ray.put(make)
        self._hire = lambda: actor.remote(made)
        self._actors = [self._hire() for _ in range(size)]
        self._losses: dict[int, int] = {}

    def map(self, blocks: list[Task]) -> Iterator[tuple[int, NDArray[Any]]]:
        """Pairs of a block's first item and its numbers, as they are done."""
        waiting: deque[Task] = deque(blocks)
        at_work: dict[Any, tuple[int, Task]] = {}
        while waiting or at_work:
            busy = [worker for worker, _ in at_work.values()]
            for worker in sorted(range(len(self._actors)), key=busy.count):
                if waiting and busy.count(worker) < AHEAD:
                    task = waiting.popleft()
                    at_work[self._send(worker, task)] = (worker, task)
                    busy.append(worker)
            if waiting and len(at_work) < AHEAD * len(self._actors):
                continue
            (done, *_), _ = self._ray.wait(list(at_work), num_returns=1)
            worker, task = at_work[done]
            try:
                yield task[0], self._ray.get(done)
            except (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError) as e:
                lost = [other for other, (who, _) in at_work.items() if who == worker]
                again = [at_work.pop(other)[1] for other in lost]
                waiting.extendleft(reversed(again))
                # Blocks are worked on in the order sent: the first of them was at work.
                self._replace(worker, again[0][0], e)
                continue
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from None
            del at_work[done]

    def _send(self, worker: int, task: Task) -> Any:
        start, stop, items = task
        return self._actors[worker].embed.remote(start, stop, items())

    def _replace(self, worker: int, start: int, error: Exception) -> None:
        self._losses[start] = self._losses.get(start, 0) + 1
        if self._losses[start] > MOST_LOSSES:
            raise ResourceError(
                f"the block from item {start} on has cost {self._losses[start]} workers "
                f"({str(error).strip().splitlines()[0]}); smaller blocks take less memory"
            ) from error
        self._ray.kill(self._actors[worker])
        self._actors[worker] = self._hire()

    def close(self) -> None:
        """Let the workers go."""
        for actor in self._actors:
            self._ray.kill(actor)


class _File:
    """A ``.npy`` file that is written aside, block by block, and appears when it is whole."""

    def __init__(self, path: Path, count: int) -> None:
        self._path, self._aside = path, path.with_name(f".{path.name}.{os.getpid()}")
        self._count = count
        self._array: NDArray[Any] | None = None
        self.done = 0

    def write(self, start: int, array: NDArray[Any]) -> None:
        """The numbers of one block."""
        if self._array is None:
            self._array = self._reserve(array)
        if array.shape[1:] != self._array.shape[1:] or array.dtype != self._array.dtype:
            raise InputError(
                f"the block from item {start} on must be {self._array.shape[1:]} of "
                f"{self._array.dtype} a row like the others, got {array.shape[1:]} of {array.dtype}"
            )
        self._array[start : start + len(array)] = array
        self.done += len(array)

    def _reserve(self, first: NDArray[Any]) -> NDArray[Any]:
        shape = (self._count, *first.shape[1:])
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            found: NDArray[Any] = np.lib.format.open_memmap(self._aside, "w+", first.dtype, shape)
            # Room is taken now: writing to a map of a file on a full disk kills the process.
            if hasattr(os, "posix_fallocate"):
                with self._aside.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, self._aside.stat().st_size)
        except OSError as error:
            raise ResourceError(
                f"{str(self._path)!r} cannot be written: {error.strerror or error}; it takes "
                f"{int(np.prod(shape)) * first.dtype.itemsize:,} bytes"
            ) from error
        return found

    def finish(self) -> None:
        """Put the file in its place."""
        assert isinstance(self._array, np.memmap)
        self._array.flush()
        self._array = None
        os.replace(self._aside, self._path)

    def discard(self) -> None:
        """Leave nothing aside."""
        self._array = None
        self._aside.unlink(missing_ok=True)
