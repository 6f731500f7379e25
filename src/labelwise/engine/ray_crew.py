"""Shards held by Ray actors, replaced when a worker, its actor or its machine is lost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from labelwise.engine.cluster import Session
from labelwise.engine.crew import Call, Crew
from labelwise.engine.local import plan
from labelwise.engine.parts import Source, Stretch
from labelwise.engine.recipe import Kind, Recipe
from labelwise.engine.shard import Shard
from labelwise.engine.shards import Shards
from labelwise.errors import LabelwiseError, ResourceError

PATIENCE = 120.0
"""Seconds to wait for room in the cluster before saying that there is none."""

MOST_LOSSES = 5
"""How often in a row one shard may be lost before that is an error."""

_SHARED_BYTES = 100_000


class RayShards(Shards):
    """A pool on a Ray cluster, cut into shards that an actor each holds or reads.

    Files are opened by the actors themselves, so they have to lie where every machine sees them
    under the same name; arrays are sent once. An actor that is lost is replaced, and the picks
    stay what they would have been. Close it, or use it in a ``with`` statement.

    Args:
        arrays: for ``euclidean`` and ``cosine`` the (N, D) embeddings; for ``gradient`` the
            (N, C) class distributions, the (N, D) embeddings and perhaps (N,) labels. Arrays,
            memory maps, paths, or lists of paths that follow each other.
        shards: how many; one for each processor of the cluster by default, and at least one for
            each file.
        kind: the geometry.
        bias: of the gradient embedding.
        shift: False keeps the origin of ``euclidean``, as similarities by angle need.
        address: of the cluster; RAY_ADDRESS by default, and one of this machine if that is
            not set.
        device: where actors compute, such as ``"cuda"``.
        gpus: how many of them an actor asks for; 1 by default where ``device`` is an
            accelerator, and less than 1 to share one.
        patience: seconds to wait for room in the cluster.

    Raises:
        InputError: arrays that do not fit each other, or files that an actor cannot read.
        MissingDependencyError: Ray is not installed.
        ResourceError: the cluster cannot be reached, or has no room.
    """

    def __init__(
        self,
        *arrays: Any,
        shards: int | None = None,
        kind: Kind = "euclidean",
        bias: bool = False,
        shift: bool = True,
        address: str | None = None,
        device: str | None = None,
        gpus: float | None = None,
        patience: float = PATIENCE,
    ) -> None:
        recipe = Recipe(kind, bias=bias, shift=shift)
        session = Session(address)
        try:
            count = session.cpus if shards is None else shards
            cuts, sources = plan(recipe, arrays, count)
            crew = RayCrew(session, recipe, cuts, sources, device, gpus, patience)
        except BaseException:
            session.close()
            raise
        try:
            super().__init__(crew, recipe, cuts)
        except BaseException:
            crew.close()
            raise


class Worker:
    """What an actor runs: one shard, made at its first call so that errors are answers."""

    def __init__(
        self, recipe: Recipe, start: int, device: str | None, threads: int, *sources: Source
    ) -> None:
        torch.set_num_threads(threads)
        self._made: Shard | None = None
        self._args = (recipe, list(sources), start, device)

    def call(self, method: str, args: tuple[Any, ...]) -> Any:
        """An answer of the shard."""
        with torch.no_grad():
            if self._made is None:
                self._made = Shard(*self._args)
            return getattr(self._made, method)(*args)


class RayCrew(Crew):
    """Actors, each with one shard.

    Args:
        session: a connection to Ray, closed with the crew.
        recipe, cuts, sources: what the shards are made of.
        device, gpus, patience: see `RayShards`.
    """

    def __init__(
        self,
        session: Session,
        recipe: Recipe,
        cuts: Sequence[int],
        sources: Sequence[Sequence[Source]],
        device: str | None = None,
        gpus: float | None = None,
        patience: float = PATIENCE,
    ) -> None:
        super().__init__()
        self._session, self._ray = session, session.ray
        self._recipe, self._cuts, self._device = recipe, list(cuts), device
        self._patience = patience
        count, cpus = len(sources), session.cpus
        self._threads = max(1, cpus // count)
        accelerated = device is not None and device != "cpu"
        self._options = {
            # A share that lets all of them in, whatever the machines' sizes.
            "num_cpus": 1 / math.ceil(count / cpus),
            "num_gpus": (1.0 if accelerated else 0.0) if gpus is None else gpus,
            "scheduling_strategy": "SPREAD",
            "max_restarts": 0,
        }
        put = self._ray.put
        self._sources = [
            [part if isinstance(part, Stretch) else put(part) for part in parts]
            for parts in sources
        ]
        self._told: list[list[Any]] = [[] for _ in sources]
        self._losses = [0] * count
        self._actors = [self._hire(shard) for shard in range(count)]
        try:
            self._await_room(range(count))
            self.ask_all("ready")
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._sources)

    def _hire(self, shard: int) -> Any:
        """A new actor for a shard, not yet told anything."""
        actor = self._ray.remote(Worker).options(**self._options)
        return actor.remote(
            self._recipe, self._cuts[shard], self._device, self._threads, *self._sources[shard]
        )

    def _await_room(self, shards: Iterable[int]) -> None:
        """Wait until new actors are at work."""
        ready = [self._actors[shard].call.remote("ready", ()) for shard in shards]
        done, _ = self._ray.wait(ready, num_returns=len(ready), timeout=self._patience)
        if len(done) < len(ready):
            raise self._no_room()

    def tell(self, calls: Mapping[int, Call]) -> None:
        """Have shards do something, without waiting."""
        for shard, answer in self._send(calls).items():
            self._told[shard].append(answer)

    def ask(self, calls: Mapping[int, Call]) -> dict[int, Any]:
        """Answers of some shards, by number."""
        sent = self._send(calls)
        return {shard: self._answer(shard, calls[shard], sent[shard]) for shard in calls}

    def _send(self, calls: Mapping[int, Call]) -> dict[int, Any]:
        shared = {id(args): args for _, args in calls.values()}
        put = {key: self._ray.put(args) for key, args in shared.items() if _is_large(args)}
        return {
            shard: self._actors[shard].call.remote(method, put.get(id(args), args))
            for shard, (method, args) in calls.items()
        }

    def _answer(self, shard: int, call: Call, sent: Any) -> Any:
        """An answer, however many actors it takes to get it."""
        errors = self._ray.exceptions
        lost = (errors.RayActorError, errors.WorkerCrashedError, errors.ObjectLostError)
        while True:
            try:
                answer = self._ray.get([*self._told[shard], sent])[-1]
            except lost as error:
                self._losses[shard] += 1
                if self._losses[shard] > MOST_LOSSES:
                    raise self._given_up(shard, error) from error
                sent = self._replace(shard, call)
            except errors.RayTaskError as error:
                if isinstance(error.cause, LabelwiseError):
                    raise error.cause from None
                raise
            else:
                self._told[shard].clear()
                self._losses[shard] = 0
                return answer

    def _replace(self, shard: int, call: Call) -> Any:
        """A new actor in place of a lost one, told all that one was told; then the question."""
        self._ray.kill(self._actors[shard])
        self._actors[shard] = self._hire(shard)
        self._told[shard].clear()
        self._await_room([shard])
        for method, args in self.memoir(shard):
            self.tell({shard: (method, args)})
        return self._send({shard: call})[shard]

    def _given_up(self, shard: int, error: Exception) -> ResourceError:
        start, stop = self._cuts[shard : shard + 2]
        reason = str(error).strip().splitlines()[0]
        return ResourceError(
            f"the worker with rows {start:,} to {stop - 1:,} was lost {self._losses[shard]} times "
            f"in a row ({reason}); more shards take less memory each"
        )

    def _no_room(self) -> ResourceError:
        wanted = self._options
        has = self._ray.cluster_resources()
        return ResourceError(
            f"the cluster had no room for {len(self)} shards within {self._patience:.0f} s: each "
            f"asks for {wanted['num_cpus']:.2g} CPUs and {wanted['num_gpus']:.2g} GPUs, it has "
            f"{has.get('CPU', 0):.0f} and {has.get('GPU', 0):.0f}; ask for fewer shards or wait "
            "until others are done"
        )

    def close(self) -> None:
        """Let the actors go, and leave the cluster."""
        if self._ray.is_initialized():
            for actor in self._actors:
                self._ray.kill(actor)
        self._actors = []
        self._session.close()


def _is_large(args: tuple[Any, ...]) -> bool:
    """Whether arguments are worth sending once instead of once a shard."""
    parts = [part for arg in args for part in (arg if isinstance(arg, tuple) else (arg,))]
    return sum(part.nbytes for part in parts if isinstance(part, np.ndarray)) > _SHARED_BYTES
