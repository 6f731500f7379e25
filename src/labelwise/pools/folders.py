"""A folder of image files: class sub-folders or none, splits or none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from labelwise.errors import DataError
from labelwise.pools.columns import IMAGE_SUFFIXES
from labelwise.pools.images import FileImages, ImagePool
from labelwise.pools.loaded import Loaded, Part, Wanted
from labelwise.pools.splits import Role, are_splits, role


def read_folder(root: Path, wanted: Wanted) -> Loaded:
    """The images below a folder, in the order of their paths; an id is the path.

    Folders whose names are all names of splits ("train" and "test") are splits. Below them, or
    at the top where there are none, the first folder of a path is the class; an image in no
    folder has no label. Hidden files and folders are left alone, and so is what has not the name
    of an image.

    Raises:
        DataError: no image, a file name that is no text, or an argument that names a column.
    """
    import pyarrow as pa

    for argument in ("label", "id", "split", "column"):
        if isinstance(value := getattr(wanted, argument), str):
            raise DataError(
                f"a folder of images has no columns, so {argument}={value!r} names nothing; "
                "its folders are the labels and splits, its paths the ids"
            )
    if wanted.kind not in (None, "image"):
        raise DataError(f"a folder of images holds no items of kind {wanted.kind!r}")
    paths, others, folders = _walk(root)
    notes = []
    if not paths:
        raise DataError(
            f"the folder {root.name!r} holds no image ({others} other files); "
            f"images end in {' '.join(sorted(IMAGE_SUFFIXES))}"
        )
    if others:
        notes.append(f"{others} files that are no images are left alone")
    tops = {path.split("/", 1)[0] for path in paths if "/" in path}
    flat = any("/" not in path for path in paths)
    split = wanted.split is not False and not flat and are_splits(tops)
    if not split and (empty := sorted(folders - tops)):
        notes.append(f"folders without an image make no class: {', '.join(map(repr, empty))}")
    names = [_class(path, split) if wanted.label is not False else None for path in paths]
    pool = ImagePool(FileImages(root, paths), paths)
    labels = pa.array(names, pa.string()) if any(names) else None
    roles: list[Role] = [role(path.split("/", 1)[0]) if split else "pool" for path in paths]
    loaded = Loaded({}, notes=notes)
    for found in sorted(set(roles)):
        rows = np.flatnonzero(np.array(roles) == found)
        part = None if labels is None else labels.take(rows)
        loaded.parts[found] = Part(pool.subset(rows), part)
    return loaded


def _class(path: str, split: bool) -> str | None:
    parts = path.split("/")[1 if split else 0 :]
    return parts[0] if len(parts) > 1 else None


def _walk(root: Path) -> tuple[list[str], int, set[str]]:
    """Paths of images below the root, sorted; how many other files; the folders at the top."""
    paths, others = [], 0
    tops: set[str] = set()
    for folder, inner, files in _folders(root):
        here = folder.relative_to(root).as_posix()
        if here == ".":
            tops = set(inner)
        for name in files:
            if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
                others += 1
                continue
            paths.append(name if here == "." else f"{here}/{name}")
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"the file name {path!r} is no text; rename the file") from error
    return sorted(paths), others, tops


def _folders(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Every folder once, also where links make a circle; hidden ones not at all."""

    def refuse(error: OSError) -> None:
        raise DataError(f"the folder {error.filename!r} cannot be read: {error.strerror}")

    seen: set[tuple[int, int]] = set()
    for folder, inner, files in os.walk(root, followlinks=True, onerror=refuse):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            inner.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        inner[:] = sorted(name for name in inner if not name.startswith((".", "__MACOSX")))
        yield Path(folder), list(inner), [name for name in files if not name.startswith(".")]
