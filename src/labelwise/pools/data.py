"""A data set opened for labeling: a pool, what is known of its labels, and a test set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from labelwise.errors import DataError, InputError, nearest
from labelwise.pools.base import Kind, Pool, hash_strings

OOD = "out of distribution"
"""The class of rows that are no part of the task, see `Data.with_ood`."""


@dataclass(frozen=True, repr=False)
class Data:
    """What `open_data` returns.

    The pool and the labels are apart: who is given the pool cannot see a label.

    Attributes:
        pool: the items that may be asked for.
        labels: (len(pool),) int64 class of each item, -1 where unknown.
        test: items to measure on, or None.
        test_labels: (len(test),) int64, -1 where unknown; None without a test set.
        classes: the name of each class; a label is a position in this list.
        name: what reports call the data set.
        skipped: (id, reason) of every item left out because it could not be read.
        validation: items of a validation split, set aside for the caller; neither in the pool
            nor in the test set. None without one, or where it serves as the test set.
        validation_labels: (len(validation),) int64, -1 where unknown.
        notes: decisions taken in opening, one line each, worth showing to the user.
    """

    pool: Pool
    labels: NDArray[np.int64]
    test: Pool | None
    test_labels: NDArray[np.int64] | None
    classes: list[str]
    name: str
    skipped: list[tuple[str, str]] = field(default_factory=list)
    validation: Pool | None = None
    validation_labels: NDArray[np.int64] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> Kind:
        """What the items are: ``"image"``, ``"table"``, ``"text"`` or ``"array"``."""
        return self.pool.kind

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits over ids, items, labels, classes and the split, in order.

        It reads every item the first time it is asked for. A new label changes it; the
        fingerprints of ``pool`` and ``test`` are those of the items alone.
        """
        digest = hashlib.blake2b(hash_strings(self.classes), digest_size=16)
        parts = (
            (self.pool, self.labels),
            (self.test, self.test_labels),
            (self.validation, self.validation_labels),
        )
        for pool, labels in parts:
            digest.update(b"none" if pool is None else bytes.fromhex(pool.fingerprint))
            if labels is not None:
                digest.update(labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        test = "no test set" if self.test is None else f"{len(self.test)} in the test set"
        return (
            f"Data({self.name}: {len(self.pool)} {self.kind} items in the pool, {test}, "
            f"{len(self.classes)} classes, {len(self.skipped)} skipped)"
        )

    def with_ood(self, names: Sequence[str]) -> Data:
        """Some classes taken for out of distribution: rows of a pool that are no part of the task.

        Args:
            names: classes of this data set, some but not all.

        Returns:
            The same pool with those classes made one, `OOD`, the last of ``classes``; the test
            and validation sets without their items.

        Raises:
            InputError: a name that is no class, fewer than two left, or one named `OOD` already.
        """
        unknown = [name for name in names if name not in self.classes]
        if unknown:
            raise InputError(f"ood must name classes: {nearest(unknown[0], self.classes)}")
        inside = [name for name in self.classes if name not in names]
        if len(inside) < 2 or OOD in inside:
            raise InputError(
                f"ood must leave two classes or more, none of them named {OOD!r}; left: {inside}"
            )
        number = {name: place for place, name in enumerate([*inside, OOD])}
        new = np.array([number.get(name, len(inside)) for name in self.classes], dtype=np.int64)

        def renamed(labels: NDArray[np.int64]) -> NDArray[np.int64]:
            return np.where(labels < 0, labels, new[labels])

        def kept(
            pool: Pool | None, labels: NDArray[np.int64] | None
        ) -> tuple[Pool | None, NDArray[np.int64] | None]:
            if pool is None or labels is None:
                return pool, labels
            rows = np.flatnonzero(renamed(labels) != len(inside))
            return pool.subset(rows), renamed(labels)[rows]

        test, test_labels = kept(self.test, self.test_labels)
        validation, validation_labels = kept(self.validation, self.validation_labels)
        return replace(
            self,
            labels=renamed(self.labels),
            test=test,
            test_labels=test_labels,
            classes=[*inside, OOD],
            validation=validation,
            validation_labels=validation_labels,
        )

    def subset(self, rows: ArrayLike) -> Data:
        """The same data set with some rows of its pool, in the order asked for.

        Args:
            rows: (n,) distinct row numbers of the pool.

        Raises:
            InputError: a row out of range or asked for twice.
        """
        pool = self.pool.subset(rows)
        return replace(self, pool=pool, labels=self.labels[self.pool.check_rows(rows)])

    def require_labels(self) -> Data:
        """This data set, if every label that a simulation or a measurement needs is there.

        Returns:
            The data set itself: the pool and a test set are labeled throughout, with two
            classes or more, and the pool has items of every class that the test set has.

        Raises:
            DataError: one of these is not so; names the item or the class, and the fix.
        """
        if not self.classes or (self.labels < 0).all():
            raise DataError(
                f"{self.name} has no labels, and a simulation needs them; name their column "
                "with label=, or put each class in a folder of its own"
            )
        for pool, labels, what in (
            (self.pool, self.labels, "pool"),
            (self.test, self.test_labels, "test set"),
        ):
            if pool is None or labels is None or len(pool) == 0:
                raise DataError(
                    f"{self.name} has no {what} to measure on; add a split called 'test', or "
                    "hold part of the pool out with holdout=0.2"
                )
            missing = np.flatnonzero(labels < 0)
            if len(missing):
                raise DataError(
                    f"{len(missing)} of {len(labels)} items of the {what} have no label, first "
                    f"{pool.ids[missing[0]]!r}; a simulation needs them all: label them or "
                    "leave them out"
                )
        return self._require_classes()

    def _require_classes(self) -> Data:
        assert self.test is not None
        assert self.test_labels is not None
        seen = set(np.unique(self.labels).tolist())
        for missing in sorted(set(np.unique(self.test_labels).tolist()) - seen):
            rows = np.flatnonzero(self.test_labels == missing)
            raise DataError(
                f"class {self.classes[missing]!r} is in the test set ({len(rows)} items, first "
                f"{self.test.ids[rows[0]]!r}) and nowhere in the pool, so nothing could learn "
                "it; add such items to the pool, or leave these out of the test set"
            )
        if len(seen) < 2:
            only = self.classes[next(iter(seen))]
            raise DataError(
                f"every item of the pool is of one class, {only!r}; a simulation needs two "
                "classes or more: name another column with label="
            )
        return self
