"""Pools of images that stay encoded until they are looked at."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from labelwise.errors import DataError
from labelwise.pools.base import Kind, Pool, refuse_unreadable
from labelwise.pools.decode import Size, as_rgb, check_size, decode

if TYPE_CHECKING:
    from PIL import Image

CHUNK = 64
"""Images one thread takes at a time."""


class ImageStore(Protocol):
    """Where the images of a pool are kept, encoded or as pixels."""

    def __len__(self) -> int:
        """How many images there are."""

    def read(self, row: int) -> Any:
        """One image: the bytes of a file, uint8 pixels or a Pillow image.

        Raises:
            DataError: it is missing or cannot be read; says why.
        """


class FileImages:
    """Images in files, read when asked for.

    Args:
        root: the folder.
        paths: (N,) where each file is, relative to the folder.
    """

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self._root = root
        self._paths = list(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, row: int) -> bytes:
        """The bytes of one file."""
        try:
            return (self._root / self._paths[row]).read_bytes()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise DataError(f"the file {self._paths[row]!r} cannot be read: {reason}") from error


class ColumnImages:
    """Images in a column of encoded bytes, as Parquet and Arrow files hold them.

    Args:
        column: N values of an Arrow binary column, or of a struct with a field ``bytes`` (and,
            optionally, ``path``, which is read where there are no bytes).
        root: what relative paths start from.
    """

    def __init__(self, column: Any, root: Path | None = None) -> None:
        self._column = column
        self._root = root or Path()

    def __len__(self) -> int:
        return len(self._column)

    def read(self, row: int) -> bytes:
        """The bytes of one cell."""
        value = self._column[row].as_py()
        if isinstance(value, dict):
            path = value.get("path")
            value = value.get("bytes")
            if value is None and path:
                return FileImages(self._root, [path]).read(0)
        if value is None:
            raise DataError("the cell is empty")
        return bytes(value)


class PixelImages:
    """Images that are already pixels: uint8 (N, H, W) or (N, H, W, 1 | 3 | 4); may be a memmap."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        if array.dtype != np.uint8 or array.ndim not in (3, 4) or 0 in array.shape[1:]:
            raise DataError(
                "images must be uint8 of shape (N, H, W) or (N, H, W, 1 | 3 | 4), "
                f"got {array.dtype} of shape {array.shape}; scale to 0..255 and cast first"
            )
        if array.ndim == 4 and array.shape[3] not in (1, 3, 4):
            raise DataError(
                f"images must have 1, 3 or 4 channels last, got shape {array.shape}; "
                "move the channels last"
            )
        self.array = array if array.ndim == 4 else array[..., None]

    def __len__(self) -> int:
        return len(self.array)

    def read(self, row: int) -> NDArray[np.uint8]:
        """The pixels of one image."""
        return np.asarray(self.array[row])


class FetchedImages:
    """Images that a function returns one by one, such as a torch data set's.

    Args:
        fetch: takes a row, returns an image (Pillow, or uint8 pixels), raises DataError.
        count: how many there are.
    """

    def __init__(self, fetch: Callable[[int], Any], count: int) -> None:
        self._fetch = fetch
        self._count = count

    def __len__(self) -> int:
        return self._count

    def read(self, row: int) -> Any:
        """What the function returns for one row."""
        return self._fetch(row)


class ImagePool(Pool):
    """Images under stable ids; ``items`` are upright RGB `PIL.Image.Image`.

    Args:
        store: where the images are kept.
        ids: (N,) distinct; None numbers the rows.
    """

    kind: ClassVar[Kind] = "image"

    def __init__(self, store: ImageStore, ids: Sequence[str] | None = None) -> None:
        super().__init__(len(store), ids)
        self._store = store

    def items(self, rows: ArrayLike | None = None) -> list[Image.Image]:
        """The images of some rows as upright RGB of 8 bits, each of its own size."""
        picked = self.check_rows(rows)
        found: list[Any] = [None] * len(picked)

        def keep(place: int, image: Image.Image) -> None:
            found[place] = image

        refuse_unreadable(self._each(picked, None, keep), "images")
        return found

    def images(
        self, rows: ArrayLike | None = None, size: int | tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """The pixels of some rows, decoded by several threads.

        Args:
            rows: (n,) row numbers of this pool; None means every row.
            size: (height, width) or one integer for both. Each image is scaled until it covers
                that size and cut to it around its center. None keeps the images as they are,
                and they must then be of one size.

        Returns:
            (n, H, W, 3) uint8, red first.

        Raises:
            InputError: a row out of range, or a size that is none.
            DataError: images that cannot be read (the ids are named), or of different sizes
                when none is given.
        """
        picked = self.check_rows(rows)
        target = check_size(size)
        if isinstance(self._store, PixelImages):
            pixels = self._store.array
            if target in (None, pixels.shape[1:3]):
                return np.ascontiguousarray(as_rgb(np.asarray(pixels[self._rows[picked]])))
        shape = target or self._first_size(picked)
        out = np.empty((len(picked), *shape, 3), np.uint8)
        other: list[tuple[int, Size]] = []

        def keep(place: int, image: Image.Image) -> None:
            if (image.height, image.width) == shape:
                out[place] = np.asarray(image)
            else:
                other.append((place, (image.height, image.width)))

        refuse_unreadable(self._each(picked, target, keep), "images")
        if other:
            place, found = min(other)
            raise DataError(
                f"images must have one size, but {self.ids[picked[place]]!r} is "
                f"{found[0]}x{found[1]} (height x width) and others are {shape[0]}x{shape[1]}; "
                "give size=(height, width)"
            )
        return out

    def unreadable(self) -> list[tuple[str, str]]:
        """Every image that cannot be decoded, as (id, reason). Decodes the whole pool."""
        if isinstance(self._store, PixelImages):
            return []
        return self._each(self.check_rows(None), None, lambda place, image: None)

    def _first_size(self, picked: NDArray[np.int64]) -> Size:
        for row in picked.tolist():
            try:
                image = decode(self._store.read(int(self._rows[row])), None)
            except DataError:
                continue  # reported with every other one by the pass that follows
            return image.height, image.width
        return (0, 0)

    def _each(
        self,
        picked: NDArray[np.int64],
        size: Size | None,
        keep: Callable[[int, Image.Image], None],
    ) -> list[tuple[str, str]]:
        """Decode rows, hand each image on with its place, and return what was unreadable."""
        stored = self._rows[picked].tolist()
        bad: list[tuple[int, str]] = []

        def work(start: int) -> None:
            for place in range(start, min(start + CHUNK, len(stored))):
                try:
                    keep(place, decode(self._store.read(stored[place]), size))
                except DataError as error:
                    bad.append((place, str(error)))

        _in_threads(work, range(0, len(stored), CHUNK))
        return [(self.ids[picked[place]], reason) for place, reason in sorted(bad)]

    def _contents(self) -> Iterator[bytes]:
        stored = self._rows.tolist()

        def digest(start: int) -> bytes:
            return b"".join(self._digest(row) for row in stored[start : start + CHUNK])

        yield from _in_threads(digest, range(0, len(stored), CHUNK))

    def _digest(self, row: int) -> bytes:
        try:
            image = self._store.read(row)
            if not isinstance(image, bytes):
                pixels = np.asarray(decode(image, None))
                image = repr(pixels.shape).encode() + pixels.tobytes()
        except DataError as error:
            image = f"unreadable: {error}".encode()
        return hashlib.blake2b(image, digest_size=16).digest()


def _in_threads(work: Callable[[int], Any], starts: Iterable[int]) -> list[Any]:
    """Every start worked on, results in order, by as many threads as there are cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    queue = list(starts)
    if len(queue) <= 1 or not cores or cores == 1:
        return [work(start) for start in queue]
    with ThreadPoolExecutor(cores) as threads:
        return list(threads.map(work, queue))
