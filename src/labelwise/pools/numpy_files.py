"""Arrays in ``.npy`` and ``.npz`` files, or in a folder of ``.npy`` files."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelwise.errors import DataError, nearest
from labelwise.pools.arrays import ArrayPool
from labelwise.pools.base import Kind, Pool, check_ids, row_ids
from labelwise.pools.images import ImagePool, PixelImages
from labelwise.pools.loaded import Loaded, Part, Wanted
from labelwise.pools.splits import ROLES, Role, role

ITEMS = ("x", "data", "images", "image", "features", "embeddings")
LABELS = ("y", "label", "labels", "target", "targets")
IDS = ("id", "ids")
CLASSES = ("classes", "class_names")

LEAST = 4
"""Pixels that an image has at least along each side."""


def read_npy(path: Path, wanted: Wanted) -> Loaded:
    """One array of items, memory-mapped, without labels."""
    return from_arrays({"x": _load(path)}, wanted, path.name)


def read_npz(path: Path, wanted: Wanted) -> Loaded:
    """Arrays by name: ``x`` and ``y``, or ``x_train``, ``y_train``, ``x_test``, ``y_test``."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return from_arrays({name: file[name] for name in file.files}, wanted, path.name)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path.name} cannot be read as .npz: {error}") from error


def read_npy_folder(paths: Sequence[Path], wanted: Wanted, what: str) -> Loaded:
    """The same from a folder of ``.npy`` files, each memory-mapped and named like an array."""
    return from_arrays({path.stem: _load(path) for path in paths}, wanted, what)


def from_arrays(arrays: Mapping[str, Any], wanted: Wanted, what: str) -> Loaded:
    """Pools from arrays by name.

    A name is ``x``, ``data``, ``images``, ``features`` or ``embeddings`` for items; ``y``,
    ``label(s)`` or ``target(s)`` for labels; ``id(s)`` for ids; each alone or with a split before
    or behind (``x_train``, ``test_labels``); ``classes`` holds the names of the classes. Other
    arrays are left alone.

    Raises:
        DataError: no items, two arrays for one thing, another number of labels than of items,
            more than one label an item; each with its fix.
    """
    roles: dict[tuple[str | None, str], str] = {}
    classes, ignored = None, []
    for name in arrays:
        split, part = _meaning(name, wanted)
        if part == "classes":
            classes = [str(value) for value in np.ravel(arrays[name]).tolist()]
        elif part is None:
            ignored.append(name)
        elif (split, part) in roles:
            raise DataError(
                f"{what}: arrays {roles[split, part]!r} and {name!r} might both hold the {part}; "
                "leave one out"
            )
        else:
            roles[split, part] = name
    _check_named(arrays, wanted)
    splits = [split for split, part in roles if part == "items"]
    if not splits:
        raise DataError(
            f"{what} has no array of items among {', '.join(arrays)}; call it x, or x_train and "
            "x_test"
        )
    if None in splits and len(splits) > 1:
        raise DataError(f"{what}: some items have a split and {roles[None, 'items']!r} has none")
    loaded = Loaded({}, classes=classes)
    if ignored:
        loaded.notes.append(f"arrays left alone: {', '.join(ignored)}")
    for split in splits:
        found: Role = "pool" if split is None else role(split)
        if found in loaded.parts:
            raise DataError(f"{what}: two splits serve as the {found}; join or leave out one")
        named = {part: roles[key, part] for key, part in roles if key == split}
        loaded.parts[found] = _part(arrays, named, split or "row", wanted)
    taken = [item for part in loaded.parts.values() for item in part.pool.ids]
    check_ids(taken, "ids over all splits")
    return loaded


def _meaning(name: str, wanted: Wanted) -> tuple[str | None, str | None]:
    """The split and the part that an array's name stands for."""
    tokens = [token for token in re.split(r"[_.\-\s]+", name.lower()) if token]
    split = next((token for token in tokens if token in ROLES), None)
    rest = "_".join(token for token in tokens if token != split)
    if name == wanted.column:
        return split, "items"
    if name == wanted.label or (wanted.label is None and rest in LABELS):
        return split, "labels"
    if name == wanted.id or (wanted.id is None and rest in IDS):
        return split, "ids"
    if rest in ITEMS and wanted.column is None:
        return split, "items"
    return split, "classes" if name.lower() in CLASSES else None


def _check_named(arrays: Mapping[str, Any], wanted: Wanted) -> None:
    for argument in ("label", "id", "column"):
        value = getattr(wanted, argument)
        if isinstance(value, str) and value not in arrays:
            raise DataError(f"{argument}={value!r} names no array; {nearest(value, arrays)}")
    if isinstance(wanted.split, str):
        raise DataError(
            f"arrays have no column of splits, so split={wanted.split!r} names nothing; "
            "call them x_train and x_test"
        )


def _part(arrays: Mapping[str, Any], named: dict[str, str], split: str, wanted: Wanted) -> Part:
    import pyarrow as pa

    items = arrays[named["items"]]
    count = len(items) if items.ndim else 0
    if count == 0:
        raise DataError(f"the array {named['items']!r} holds no rows; there is nothing to label")
    ids = row_ids(count, split)
    if "ids" in named:
        ids = [str(value) for value in _column(arrays, named["ids"], count).tolist()]
    labels = None
    if "labels" in named:
        labels = pa.array(_column(arrays, named["labels"], count))
    return Part(array_pool(items, ids, wanted.kind, named["items"]), labels)


def _column(arrays: Mapping[str, Any], name: str, count: int) -> NDArray[Any]:
    values: NDArray[Any] = np.asarray(arrays[name])
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.shape != (count,):
        raise DataError(
            f"the array {name!r} must hold one value per item, ({count},), got {values.shape}; "
            "items of several classes at once are not supported"
        )
    if values.dtype.kind not in "biufU":
        raise DataError(f"the array {name!r} must hold numbers or text, got {values.dtype}")
    return values


def array_pool(
    items: NDArray[Any], ids: Sequence[str], kind: Kind | None, what: str = "array"
) -> Pool:
    """An image pool where the array is uint8 of an image's shape, an array pool else.

    Raises:
        DataError: a kind that the array cannot be.
    """
    channels_first = False
    looks = items.dtype == np.uint8 and items.ndim in (3, 4)
    if items.ndim == 4:
        channels_first = items.shape[1] in (1, 3, 4) and items.shape[3] not in (1, 3, 4)
        looks = looks and (channels_first or items.shape[3] in (1, 3, 4))
    sides = items.shape[2:4] if channels_first else items.shape[1:3]
    if kind == "image" or (kind is None and looks and min(sides) >= LEAST):
        return ImagePool(PixelImages(np.moveaxis(items, 1, 3) if channels_first else items), ids)
    if kind in (None, "array"):
        return ArrayPool(items, ids)
    raise DataError(
        f"{what!r} of shape {items.shape} and type {items.dtype} cannot be of kind {kind!r}; "
        "arrays are of kind 'image' or 'array'"
    )


def _load(path: Path) -> NDArray[Any]:
    try:
        loaded: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path.name} cannot be read as .npy: {error}") from error
    return loaded
