"""A torch data set of the map style, or any other sequence of (item, label) pairs or items."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelwise.errors import DataError
from labelwise.pools.arrays import ArrayPool
from labelwise.pools.base import Kind, Pool, refuse_unreadable, row_ids
from labelwise.pools.decode import BROKEN
from labelwise.pools.images import FetchedImages, ImagePool
from labelwise.pools.loaded import Loaded, Part, Wanted
from labelwise.pools.numpy_files import from_arrays
from labelwise.pools.texts import TextPool

FAILURES: tuple[type[Exception], ...] = (*BROKEN, AssertionError)
"""What a data set's own code may raise for one item."""


def is_sequence(source: Any) -> bool:
    """True for what has a length and gives items by number."""
    has_items = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    return has_items and not isinstance(source, str | bytes | bytearray)


def read_torch(source: Any, wanted: Wanted) -> Loaded:
    """Pools from a map-style data set; images are fetched one by one when asked for.

    Labels come from the attribute ``targets`` or ``labels`` where it is as long as the data set,
    else from the pairs, which takes one pass over the data set. Arrays and texts are kept in
    memory from that pass. A data set must give the same item every time: no random transforms.

    Raises:
        DataError: no items, items of an unknown type, an item that differs when asked for
            again, and items whose code fails (unless they are to be skipped); names them.
    """
    _refuse_columns(wanted)
    tensors = getattr(source, "tensors", None)
    if isinstance(tensors, tuple):
        return _from_tensors(tensors, wanted)
    if len(source) == 0:
        raise DataError("the data set holds no items; there is nothing to label")
    reader = _Reader(source)
    first = reader.first()
    kind = wanted.kind or first
    if kind != first and not (kind == "array" and first == "image"):
        raise DataError(f"the data set's items are of kind {first!r} and cannot be {kind!r}")
    targets = _targets(source) if wanted.label is not False else None
    ids = row_ids(len(source))
    if kind != "image" or (targets is None and wanted.label is not False and reader.pairs):
        reader.read_all(keep=kind != "image")
    bad = [(ids[row], reason) for row, reason in sorted(reader.failed.items())]
    if not wanted.skip:
        refuse_unreadable(bad, "items")
    good = np.array([row for row in range(len(source)) if row not in reader.failed], np.int64)
    pool = _pool(reader, kind, ids, good)
    labels = targets if wanted.label is not False and targets is not None else reader.labels()
    if labels is not None and wanted.label is not False:
        labels = _arrow([labels[row] for row in good.tolist()])
    else:
        labels = None
    classes = getattr(source, "classes", None) if targets is not None else None
    loaded = Loaded({"pool": Part(pool, labels)}, classes=_names(classes, labels))
    loaded.skipped = bad
    return loaded


def _refuse_columns(wanted: Wanted) -> None:
    for argument in ("label", "id", "split", "column"):
        if isinstance(value := getattr(wanted, argument), str):
            raise DataError(f"the data set has no columns, so {argument}={value!r} names nothing")


def _from_tensors(tensors: tuple[Any, ...], wanted: Wanted) -> Loaded:
    if len(tensors) > 2:
        raise DataError(
            f"a TensorDataset must hold items or items and labels, got {len(tensors)} tensors"
        )
    names = ("x", "y") if wanted.label is not False else ("x",)
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, tensors)}
    return from_arrays(arrays, wanted, "the data set")


@dataclass
class _Reader:
    """Fetches items, and remembers labels and failures."""

    source: Any
    failed: dict[int, str] = field(default_factory=dict)
    kept: dict[int, Any] = field(default_factory=dict)
    found: dict[int, Any] = field(default_factory=dict)
    pairs: bool = False

    def fetch(self, row: int) -> tuple[Any, Any]:
        """The item and its label (None without one)."""
        try:
            item = self.source[row]
        except FAILURES as error:
            raise DataError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
        if isinstance(item, tuple | list) and len(item) == 2:
            return item[0], item[1]
        if isinstance(item, tuple | list) and len(item) == 1:
            return item[0], None
        return item, None

    def first(self) -> Kind:
        """The kind of the first item that can be read; asked for twice."""
        for row in range(len(self.source)):
            try:
                item, label = self.fetch(row)
                again, _ = self.fetch(row)
            except DataError as error:
                self.failed[row] = str(error)
                continue
            if not _same(item, again):
                raise DataError(
                    f"item 'row/{row}' differs when it is asked for again; take random transforms "
                    "out of the data set, training adds its own"
                )
            self.pairs = label is not None
            return _kind(item)
        reason = next(iter(self.failed.values()))
        raise DataError(f"none of the {len(self.source)} items can be read; the first: {reason}")

    def read_all(self, keep: bool) -> None:
        """Fetch every item once."""
        for row in range(len(self.source)):
            try:
                item, label = self.fetch(row)
            except DataError as error:
                self.failed[row] = str(error)
                continue
            self.found[row] = _scalar(label)
            if keep:
                self.kept[row] = item

    def labels(self) -> list[Any] | None:
        """Labels of every row that `read_all` has seen, None elsewhere."""
        if not any(label is not None for label in self.found.values()):
            return None
        return [self.found.get(row) for row in range(len(self.source))]


def _kind(item: Any) -> Kind:
    if isinstance(item, str):
        return "text"
    if isinstance(item, bytes) or (hasattr(item, "mode") and hasattr(item, "getexif")):
        return "image"
    array = _numbers(item)
    if array is None:
        raise DataError(
            f"items must be images, arrays, tensors or text, got {type(item).__name__}; "
            "return such an item, or (item, label)"
        )
    is_image = array.ndim == 3 and (array.shape[0] in (1, 3, 4) or array.shape[2] in (1, 3, 4))
    return "image" if array.dtype == np.uint8 and (array.ndim == 2 or is_image) else "array"


def _numbers(item: Any) -> NDArray[Any] | None:
    if isinstance(item, dict):
        return None
    array = np.asarray(item.detach().cpu() if hasattr(item, "detach") else item)
    return array if array.dtype.kind in "biuf" else None


def _same(item: Any, again: Any) -> bool:
    if isinstance(item, str | bytes):
        return bool(item == again)
    one, two = _numbers(item), _numbers(again)
    return one is None or two is None or np.array_equal(one, two, equal_nan=one.dtype.kind == "f")


def _pool(reader: _Reader, kind: Kind, ids: list[str], good: NDArray[np.int64]) -> Pool:
    if kind == "image":
        images = FetchedImages(lambda row: _image(reader.fetch(row)[0]), len(ids))
        return ImagePool(images, ids).subset(good)
    named = [ids[row] for row in good.tolist()]
    if kind == "text":
        return TextPool([str(reader.kept[row]) for row in good.tolist()], named)
    arrays = [_numbers(reader.kept[row]) for row in good.tolist()]
    shapes = [None if array is None else array.shape for array in arrays]
    odd = [place for place, shape in enumerate(shapes) if shape is None or shape != shapes[0]]
    if odd:
        raise DataError(
            f"items must be arrays of one shape, but {named[odd[0]]!r} has {shapes[odd[0]]} and "
            f"{named[0]!r} {shapes[0]}; pad or cut them in the data set"
        )
    return ArrayPool(np.stack([array for array in arrays if array is not None]), named)


def _image(item: Any) -> Any:
    """Bytes and Pillow images as they are; tensors with the channels last."""
    if isinstance(item, bytes) or hasattr(item, "getexif"):
        return item
    array = _numbers(item)
    if array is None or array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise DataError(f"the item is no image: {type(item).__name__}")
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)
    return array


def _targets(source: Any) -> list[Any] | None:
    for name in ("targets", "labels"):
        values = getattr(source, name, None)
        if values is None or not hasattr(values, "__len__") or len(values) != len(source):
            continue
        return [_scalar(value) for value in values]
    return None


def _scalar(label: Any) -> Any:
    """A label as a plain Python value."""
    if hasattr(label, "item") and getattr(label, "ndim", 0) == 0:
        return label.item()
    if hasattr(label, "tolist"):
        return label.tolist()
    return label


def _arrow(labels: list[Any]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(labels)
    except (pa.ArrowException, OverflowError) as error:
        raise DataError(f"labels must be of one type: {' '.join(str(error).split())}") from error


def _names(classes: Any, labels: Any | None) -> list[str] | None:
    """The data set's names of classes, where its labels are numbers."""
    import pyarrow as pa

    is_numbers = labels is not None and pa.types.is_integer(labels.type)
    if not is_numbers or not isinstance(classes, list | tuple):
        return None
    return [str(name) for name in classes]
