"""Query and private sets: points beside the pool, at their true labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, check
from labelwise.kernels import Geometry, Points


class GivenSet(NamedTuple):
    """Query or private points as handed in, or the classes of labeled rows to make them of."""

    name: str
    probs: Rows | None
    embeddings: Rows | None
    labels: Tensor | None
    classes: int | str | Sequence[int] | None


def class_numbers(value: Any, name: str, most: int | None = None) -> list[int]:
    """The classes of an option: one, several, or text that joins them by ``+``.

    Args:
        value: a whole number; a sequence or an array of them; text such as ``"0+3"``.
        name: the option's, for messages.
        most: C, where classes must be less.

    Raises:
        InputError: something else, or a class out of range.

    >>> class_numbers("0+3", "query_classes"), class_numbers(2, "query_classes")
    ([0, 3], [2])
    """
    found: list[Any]
    if isinstance(value, str):
        parts = [part.strip() for part in value.split("+")]
        found = [int(part) if part.isdecimal() else part for part in parts]
    elif isinstance(value, Tensor | np.ndarray):
        found = value.reshape(-1).tolist()
    else:
        found = list(value) if isinstance(value, Iterable) else [value]
    for one in found:
        whole = isinstance(one, int | np.integer) and not isinstance(one, bool)
        if not whole or one < 0 or (most is not None and one >= most):
            need = "class numbers >= 0" if most is None else f"classes 0..{most - 1}"
            raise InputError(f"{name} must be {need}, got {one!r}")
    return [int(one) for one in found]


class SetMaker:
    """Makes points of query and private sets."""

    def __init__(
        self,
        probs: Rows,
        embeddings: Rows,
        geometry: Geometry,
        kind: str,
        labeled: Tensor | None,
        labels: Tensor | None,
    ) -> None:
        self._p, self._h, self._geometry, self._kind = probs, embeddings, geometry, kind
        self._labeled, self._labels = labeled, labels

    def points(self, given: GivenSet) -> Points:
        """The points of a set, from its own evidence or from labeled rows of some classes.

        Raises:
            InputError: neither is given, both are, or a part is missing.
        """
        parts = {
            f"{given.name}_{part}": value
            for part, value in zip(("probs", "embeddings", "labels"), given[1:4])
        }
        missing = [name for name, value in parts.items() if value is None]
        here = len(missing) < len(parts)
        if given.classes is not None:
            if here:
                raise InputError(
                    f"give either {given.name}_classes or points of their own, not both"
                )
            return self._of_classes(given)
        if self._kind == "embedding" and given.embeddings is not None:
            return self._geometry.points(
                check(f"{given.name}_embeddings", given.embeddings).tensor()
            )
        if missing:
            raise InputError(
                f"a {given.name} set is needed: pass {', '.join(missing)}"
                + ("" if here else f", or {given.name}_classes with labeled and labels")
            )
        return self._at(
            check(f"{given.name}_probs", given.probs).tensor(),
            check(f"{given.name}_embeddings", given.embeddings).tensor(),
            check(f"{given.name}_labels", given.labels),
            f"{given.name}_labels",
        )

    def private(self, given: GivenSet, everything: bool) -> Points:
        """The private set; without any of it, all labeled rows where that is meant."""
        nothing = all(part is None for part in given[1:])
        if everything and nothing and (self._labeled is None or not len(self._labeled)):
            return self._rows(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
        if everything and nothing:
            labeled, labels = self._known("the labeled rows as the private set")
            return self._rows(labeled, labels)
        return self.points(given)

    def _of_classes(self, given: GivenSet) -> Points:
        classes = self._p.shape[1]
        wanted = class_numbers(given.classes, f"{given.name}_classes", classes)
        if not wanted:
            raise InputError(f"{given.name}_classes must be classes 0..{classes - 1}, got none")
        if self._labeled is None or not len(self._labeled):
            return self._rows(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
        labeled, labels = self._known(f"{given.name}_classes")
        mine = torch.isin(labels, torch.tensor(wanted))
        return self._rows(labeled[mine], labels[mine])

    def _known(self, what: str) -> tuple[Tensor, Tensor]:
        if self._labeled is None or self._labels is None:
            raise InputError(f"{what} take the true classes of labeled rows: pass labels")
        order = self._labeled.argsort()  # sums do not depend on the order rows are given in
        return self._labeled[order], self._labels[order]

    def _rows(self, rows: Tensor, labels: Tensor) -> Points:
        if not len(rows):
            return self._geometry.take(rows)
        return self._at(self._p.take(rows), self._h.take(rows), labels, "labels")

    def _at(self, probs: Tensor, embeddings: Tensor, labels: Tensor, name: str) -> Points:
        if self._kind == "embedding":
            return self._geometry.points(embeddings)
        classes = probs.shape[1]
        if len(labels) and int(labels.max()) >= classes:
            raise InputError(f"{name} must be classes 0..{classes - 1}, got {int(labels.max())}")
        return self._geometry.points(probs, embeddings, labels)
