"""`open_data`: from a path, a name or an object to a pool, its labels and a test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelwise.errors import DataError, nearest
from labelwise.pools import foreign, torch_data
from labelwise.pools.base import Kind, Pool, refuse_unreadable
from labelwise.pools.columns import from_cells
from labelwise.pools.data import Data
from labelwise.pools.files import READERS, read_files
from labelwise.pools.find import are_one, resolve, table_files
from labelwise.pools.folders import read_folder
from labelwise.pools.labels import check_classes, number_labels
from labelwise.pools.loaded import Loaded, Named, Part, Wanted
from labelwise.pools.numpy_files import array_pool, from_arrays, read_npy, read_npy_folder, read_npz
from labelwise.pools.splits import Role, check_holdout, check_seed, hold_out


def open_data(
    source: Any,
    *,
    label: Named = None,
    id: Named = None,
    split: Named = None,
    holdout: float = 0.2,
    seed: int = 0,
    skip_unreadable: bool = False,
    kind: Kind | None = None,
    column: str | None = None,
    classes: Sequence[str] | None = None,
) -> Data:
    """Open a data set for labeling or simulation.

    Args:
        source: the path of a file or folder; the name of a data set (``"digits"``, or one found
            under ``$LABELWISE_DATA``, such as ``"cifar10"``); a pandas DataFrame or Arrow table;
            a Hugging Face ``Dataset`` or ``DatasetDict``; a torch data set of the map style; an
            array or a tensor of items; a dict of arrays ``x``, ``y`` or ``x_train``, ...
        label: column of the labels. None looks for label, labels, target, class or y; False says
            there is none, and the column called so is a feature.
        id: column of the ids. None looks for id; False numbers the rows.
        split: column of the splits. None looks for split; False says there is none.
        holdout: without a test split, the share of every class that is held out to test on, in
            [0, 1); drawn by item id. 0 holds out nothing.
        seed: of that draw.
        skip_unreadable: leave out what cannot be read and list it in ``Data.skipped``. Images
            are then all decoded once, now. False raises for the first call that meets one.
        kind: ``"image"``, ``"table"``, ``"text"`` or ``"array"``; None finds out.
        column: the column that holds the image, the text or the vector, where several might.
        classes: names of the classes in the order of their numbers; None takes what the source
            declares, or else the distinct labels.

    Returns:
        `Data`. ``notes`` says what was decided on the way.

    Raises:
        DataError: the source cannot be used as it is; names what, and the fix.
        InputError: an argument outside of its rule.

    >>> data = open_data("digits")
    >>> data
    Data(digits: 1438 image items in the pool, 359 in the test set, 10 classes, 0 skipped)
    >>> data.pool.images([0]).shape
    (1, 8, 8, 3)
    """
    share, seed = check_holdout(holdout), check_seed(seed)
    wanted = Wanted(label, id, split, column, kind, skip_unreadable)
    loaded, name = _load(source, wanted)
    if classes is not None:
        loaded.classes = check_classes(classes)
    return _assemble(loaded, name, wanted.skip, share, seed)


def _assemble(loaded: Loaded, name: str, skip: bool, share: float, seed: int) -> Data:
    """The data set from what was read: classes numbered, unreadable items out, a test set."""
    if "pool" not in loaded.parts:
        raise DataError(
            f"{name} has no items to pick from, only a {' and a '.join(loaded.parts)} split; "
            "call one split 'train', or say split=False"
        )
    labels, known = _number(loaded)
    skipped = list(loaded.skipped)
    pools: dict[Role, Pool] = {}
    for found, part in loaded.parts.items():
        pools[found], labels[found], bad = _readable(part.pool, labels[found], skip)
        skipped.extend(bad)
    notes = [*loaded.notes]
    if skipped:
        notes.append(f"{len(skipped)} items that cannot be read are left out")
    _choose_test(pools, labels, share, seed, notes)
    return Data(
        pool=pools["pool"],
        labels=labels["pool"],
        test=pools.get("test"),
        test_labels=labels.get("test"),
        classes=known,
        name=name,
        skipped=skipped,
        validation=pools.get("validation"),
        validation_labels=labels.get("validation"),
        notes=notes,
    )


def _number(loaded: Loaded) -> tuple[dict[Role, NDArray[np.int64]], list[str]]:
    import pyarrow as pa

    parts = loaded.parts
    columns = [
        pa.nulls(len(part.pool)) if part.labels is None else part.labels for part in parts.values()
    ]
    ids = [part.pool.ids for part in parts.values()]
    numbered, classes = number_labels(columns, ids, loaded.classes)
    return dict(zip(parts, numbered)), classes


def _readable(
    pool: Pool, labels: NDArray[np.int64], skip: bool
) -> tuple[Pool, NDArray[np.int64], list[tuple[str, str]]]:
    """The items that can be read. Images are tried only where they may be skipped."""
    if pool.kind == "image" and not skip:
        return pool, labels, []
    bad = pool.unreadable()
    if not skip:
        refuse_unreadable(bad, f"{pool.kind} items")
    if not bad:
        return pool, labels, []
    left_out = {item for item, _ in bad}
    good = np.array([row for row, item in enumerate(pool.ids) if item not in left_out], np.int64)
    if len(good) == 0:
        raise DataError(f"none of {len(pool)} items can be read; the first: {bad[0]}")
    return pool.subset(good), labels[good], bad


def _choose_test(
    pools: dict[Role, Pool],
    labels: dict[Role, NDArray[np.int64]],
    share: float,
    seed: int,
    notes: list[str],
) -> None:
    """The test split; else the validation split; else a part of the pool, held out."""
    if "test" in pools:
        if "validation" in pools:
            count = len(pools["validation"])
            notes.append(f"{count} items of the validation split are set aside in Data.validation")
        return
    if "validation" in pools:
        pools["test"], labels["test"] = pools.pop("validation"), labels.pop("validation")
        notes.append("without a test split the validation split is the test set")
        return
    pool, numbers = pools["pool"], labels["pool"]
    drawn = hold_out(pool.ids, numbers, share, seed)
    if len(drawn) == 0:
        return
    kept = np.setdiff1d(np.arange(len(pool)), drawn)
    pools["pool"], labels["pool"] = pool.subset(kept), numbers[kept]
    pools["test"], labels["test"] = pool.subset(drawn), numbers[drawn]
    notes.append(f"without a test split {len(drawn)} items are held out to test on")


def _load(source: Any, wanted: Wanted) -> tuple[Loaded, str]:
    if isinstance(source, str | Path):
        path, name = resolve(source)
        return (_digits(wanted) if path is None else _from_path(path, wanted, name)), name
    if foreign.is_hub(source) or foreign.is_hub_dict(source):
        return foreign.read_hub(source, wanted), "data"
    if foreign.is_frame(source):
        return foreign.read_frame(source, wanted), "data"
    if isinstance(source, Mapping):
        return from_arrays({key: _array(value) for key, value in source.items()}, wanted, "data"), (
            "data"
        )
    if foreign.shape_of(source) is not None:
        return from_arrays({"x": _array(source)}, wanted, "data"), "data"
    if torch_data.is_sequence(source):
        return torch_data.read_torch(source, wanted), "data"
    raise DataError(
        f"a {type(source).__name__} cannot be opened; give a path, a name, a DataFrame, a Hugging "
        "Face or torch data set with a length, or arrays"
    )


def _array(value: Any) -> NDArray[Any]:
    return np.asanyarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _from_path(path: Path, wanted: Wanted, name: str) -> Loaded:
    if path.is_dir():
        return _from_folder(path, wanted, name)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return read_npy(path, wanted)
    if suffix == ".npz":
        return read_npz(path, wanted)
    if suffix not in READERS:
        known = [*READERS, ".npy", ".npz"]
        raise DataError(
            f"{path.name} is of no known type; {nearest(suffix, known)}; or give a folder of images"
        )
    return from_cells(read_files([path], path.name, wanted.skip), wanted)


def _from_folder(folder: Path, wanted: Wanted, name: str) -> Loaded:
    """Table files directly in a folder are the data set; without any, its images are."""
    try:
        files, arrays = table_files(folder), sorted(folder.glob("*.npy"))
    except OSError as error:
        raise DataError(f"the folder {name!r} cannot be read: {error.strerror}") from error
    if len(files) == 1:
        return _from_path(files[0], wanted, name)
    if files and are_one(files):
        return from_cells(read_files(files, name, wanted.skip), wanted)
    if files:
        raise DataError(
            f"the folder {name!r} holds {len(files)} data files, which might be as many data sets: "
            f"{', '.join(file.name for file in files[:8])}; name one of them, or let the names of "
            "all start with a split (train..., test...)"
        )
    if arrays:
        return read_npy_folder(arrays, wanted, name)
    return read_folder(folder, wanted)


def _digits(wanted: Wanted) -> Loaded:
    """Scikit-learn's 1,797 digits of 8 x 8 pixels: images, or 64 features of kind array."""
    import pyarrow as pa
    from sklearn.datasets import load_digits

    bunch = load_digits()
    if wanted.kind == "array":
        items = bunch.data.astype(np.float32)
    else:
        items = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # its pixels are 0..16
    pool = array_pool(items, [f"row/{row}" for row in range(len(items))], wanted.kind, "digits")
    labels = None if wanted.label is False else pa.array(bunch.target)
    return Loaded({"pool": Part(pool, labels)}, classes=[str(name) for name in range(10)])
