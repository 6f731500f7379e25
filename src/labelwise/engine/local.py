"""Shards in this process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from labelwise.engine.crew import LocalCrew
from labelwise.engine.parts import Source, column, cut
from labelwise.engine.recipe import Kind, Recipe
from labelwise.engine.shard import Shard
from labelwise.engine.shards import Shards


class LocalShards(Shards):
    """A pool cut into shards that take turns in this process.

    The same picks and the same code as on a cluster: to see what that will do, and to have
    several devices of one machine hold a part of the pool each.

    Args:
        arrays: for ``euclidean`` and ``cosine`` the (N, D) embeddings; for ``gradient`` the
            (N, C) class distributions, the (N, D) embeddings and perhaps (N,) labels. Arrays,
            memory maps, paths, or lists of paths that follow each other.
        shards: how many; at least one for each file.
        kind: the geometry.
        bias: of the gradient embedding.
        shift: False keeps the origin of ``euclidean``, as similarities by angle need.
        devices: where shards compute, in turn; where the arrays are by default.

    Raises:
        InputError: arrays that do not fit each other, or files that cannot be read.

    >>> import torch
    >>> from labelwise.kernels import farthest_first
    >>> line = LocalShards([[0.0], [1.0], [5.0], [9.0]], shards=2)
    >>> farthest_first(line, 2, covered=torch.tensor([0])).rows
    tensor([3, 2])
    """

    def __init__(
        self,
        *arrays: Any,
        shards: int = 2,
        kind: Kind = "euclidean",
        bias: bool = False,
        shift: bool = True,
        devices: Sequence[str] = (),
    ) -> None:
        recipe = Recipe(kind, bias=bias, shift=shift)
        cuts, sources = plan(recipe, arrays, shards)
        make: list[Callable[[], Shard]] = []
        for i, (start, parts) in enumerate(zip(cuts, sources)):
            device = devices[i % len(devices)] if devices else None
            make.append(partial(Shard, recipe, parts, start, device))
        super().__init__(LocalCrew(make), recipe, cuts)


def plan(
    recipe: Recipe, arrays: Sequence[Any], shards: int
) -> tuple[list[int], list[list[Source]]]:
    """Where shards begin and end, and for each of them where its rows come from.

    Raises:
        InputError: the wrong number of arrays, or arrays that do not fit each other.
    """
    columns = [column(name, array) for name, array in zip(recipe.named(len(arrays)), arrays)]
    cuts = cut(columns, shards)
    return cuts, [[one.part(a, b) for one in columns] for a, b in itertools.pairwise(cuts)]
