"""Data sets by name: scikit-learn's digits, and what lies under ``$LABELWISE_DATA``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from labelwise.errors import DataError, nearest
from labelwise.pools.files import READERS
from labelwise.pools.splits import file_role

VARIABLE = "LABELWISE_DATA"
"""The environment variable that names the folder of data sets."""

BUNDLED = ("digits",)
"""Data sets that come with scikit-learn and need no file."""

LONG = 200
"""Characters of a list of names that an error message shows."""

TABLE_SUFFIXES = frozenset(READERS) - {".json"} | {".npz"}
"""Files that a folder is searched for; JSON beside data is usually a description of it."""


def known_names() -> dict[str, Path | None]:
    """Every data set that can be opened by name, and where it is (None for a bundled one).

    Under ``$LABELWISE_DATA`` a folder with one data set is known by the folder's name, a file by
    ``folder/stem`` unless it is alone, and by the stem where no other file has it.
    """
    found: dict[str, Path | None] = dict.fromkeys(BUNDLED)
    top = os.environ.get(VARIABLE)
    if not top:
        return found
    root = Path(top)
    if not root.is_dir():
        raise DataError(f"the environment variable {VARIABLE} names no folder: {top!r}")
    stems: dict[str, list[Path]] = {}
    for entry in sorted(root.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.suffix.lower() in TABLE_SUFFIXES | {".npy"} and entry.is_file():
            stems.setdefault(entry.stem, []).append(entry)
        if not entry.is_dir():
            continue
        files = table_files(entry)
        is_one = len(files) <= 1 or are_one(files)
        if is_one:
            found[entry.name] = entry
        for file in files if len(files) == 1 or not is_one else ():
            stems.setdefault(file.stem, []).append(file)
            if not is_one:
                found[f"{entry.name}/{file.stem}"] = file
    for stem, files in stems.items():
        if len(files) == 1:
            found.setdefault(stem, files[0])
    return found


def resolve(source: str | Path) -> tuple[Path | None, str]:
    """Where a source is, and its name; a path that exists wins over a name.

    Returns:
        (path, name); the path is None for a bundled data set.

    Raises:
        DataError: neither an existing path nor a known name; offers the nearest names.
    """
    path = Path(source).expanduser()
    if _exists(path):
        return path, path.stem if path.is_file() else path.resolve().name
    name = str(source)
    if isinstance(source, str):
        known = known_names()
        if name in known:
            return known[name], name
        where = f"under ${VARIABLE}" if os.environ.get(VARIABLE) else f"({VARIABLE} is not set)"
        close = nearest(name, known)
        if len(close) > LONG:
            close = f"{close[:LONG].rsplit(', ', 1)[0]} and others"
        raise DataError(
            f"{name!r} is no file or folder that exists and no data set known {where}; {close}"
        )
    raise DataError(f"{name!r} does not exist; give the path of a file or a folder")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False  # too long for a file name, or with a character that none can have


def table_files(folder: Path) -> list[Path]:
    """The data files directly in a folder, sorted by name."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in TABLE_SUFFIXES
        and file.is_file()
        and not file.name.startswith((".", "_"))
    )


def are_one(files: Sequence[Path]) -> bool:
    """True when the files are the splits or shards of one data set, by their names."""
    return (
        len({file.suffix.lower() for file in files}) == 1
        and files[0].suffix.lower() != ".npz"
        and all(file_role(file.stem) is not None for file in files)
    )
