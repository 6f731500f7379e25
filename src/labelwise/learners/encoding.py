"""Encode a data set once, and keep the arrays on disk for every later run."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import Rows
from labelwise.learners.base import Encoder, Progress, StreamingEncoder

if TYPE_CHECKING:
    from labelwise.pools import Data, Pool

FORMAT = 1
"""Changes when files of an older version must not be read."""

LABEL = 80
"""Letters of an encoder's name that its folder begins with, for people; systems bound names."""

CHUNK = 16 << 20
"""Bytes that are read at once to check a file."""

STALE_SECONDS = 24 * 3600
"""What a killed process left aside is deleted when this old; a younger one may be at work."""


class Encoded(NamedTuple):
    """A data set as arrays.

    Attributes:
        pool: (N, ...), a row per item of the pool.
        test: (T, ...), or None without a test set.
        seconds: the whole call, small when the arrays were there already.
        cache_path: the folder that holds the arrays; None where nothing was cached.
    """

    pool: Rows
    test: Rows | None
    seconds: float
    cache_path: Path | None


def encode_data(
    data: Data,
    encoder: Encoder,
    *,
    seed: int,
    cache: Path | str | None = None,
    progress: Progress | None = None,
) -> Encoded:
    """Fit an encoder on the pool and encode pool and test set, or read what was kept.

    In the cache folder an encoding is a folder of its own, named by a hash of the items (not of
    their labels), the encoder's signature and the seed. It is written aside and moved into place
    when complete, so a process that is killed leaves nothing that is read later, and of two
    that race one wins and both read its arrays. Every file's checksum is verified before use;
    a damaged encoding is made anew. The folder may be deleted at any time.

    Args:
        data: the data set; its labels are not looked at.
        encoder: fitted here, on the pool alone, unless the cache has its work.
        seed: for encoders that draw random numbers.
        cache: folder to keep encodings in, made when absent; None keeps them in memory.
        progress: called with items done and items in all, of pool and test set together.

    Returns:
        Arrays that are memory-mapped from the cache, or in memory without one.

    Raises:
        InputError: the encoder gives another number of rows than there are items.
        ResourceError: the cache cannot be written, or the disk is full; nothing half-written
            stays behind.
    """
    start = time.perf_counter()
    pools = {"pool": data.pool} | ({} if data.test is None else {"test": data.test})
    if cache is None or not getattr(encoder, "cached", True):
        arrays = {name: Rows(array) for name, array in _encode(pools, encoder, seed, progress)}
        return Encoded(arrays["pool"], arrays.get("test"), time.perf_counter() - start, None)
    recipe = _recipe(pools, encoder, seed)
    digest = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=16)
    label = "".join(letter if letter.isalnum() else "-" for letter in encoder.name[:LABEL])
    folder = Path(cache) / f"{label}-{digest.hexdigest()}"
    if not _is_whole(folder, pools):
        try:
            _write(folder, pools, encoder, seed, recipe, progress)
        except OSError as error:
            raise _explained(error, Path(cache)) from error
    elif progress:
        total = sum(len(pool) for pool in pools.values())
        progress(total, total)
    found = {name: Rows(folder / f"{name}.npy", name) for name in pools}
    return Encoded(found["pool"], found.get("test"), time.perf_counter() - start, folder)


def _recipe(pools: dict[str, Pool], encoder: Encoder, seed: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "items": {name: pool.fingerprint for name, pool in pools.items()},
        "encoder": encoder.signature(),
        "seed": seed,
    }


def _encode(
    pools: dict[str, Pool],
    encoder: Encoder,
    seed: int,
    progress: Progress | None,
    make: Callable[[str, int], NDArray[Any]] | None = None,
) -> Iterator[tuple[str, Any]]:
    """Fit, then one (name, array) after the other; ``make`` gives the array to write to."""
    encoder.fit(pools["pool"], seed=seed)
    total = sum(len(pool) for pool in pools.values())
    before = 0
    for name, pool in pools.items():
        out = None
        if make is not None and isinstance(encoder, StreamingEncoder):
            out = make(name, len(pool))
        report = shifted(progress, before, total)
        array: Any = encoder.encode(pool, out=out, progress=report)
        if isinstance(array, Tensor) and make is not None:
            array = array.cpu().numpy()
        if len(array) != len(pool):
            raise InputError(
                f"encoder {encoder.name!r} must give a row per item: {len(pool)} items of the "
                f"{name} and {len(array)} rows"
            )
        before += len(pool)
        yield name, array


def shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    """What a part of some work reports to: ``before`` of all ``total`` items come before it."""
    if progress is None:
        return None
    report = progress
    return lambda done, _: report(before + done, total)


def _write(
    folder: Path,
    pools: dict[str, Pool],
    encoder: Encoder,
    seed: int,
    recipe: dict[str, Any],
    progress: Progress | None,
) -> None:
    """Write an encoding aside, then move it into place as a whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}-*"):
        if _idle_seconds(left) > STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    mapped: dict[str, NDArray[Any]] = {}
    try:

        def make(name: str, count: int) -> NDArray[Any]:
            assert isinstance(encoder, StreamingEncoder)
            shape = (count, *encoder.item_shape())
            mapped[name] = _reserve(aside / f"{name}.npy", shape, encoder.dtype())
            return mapped[name]

        checksums = {}
        for name, array in _encode(pools, encoder, seed, progress, make):
            path = aside / f"{name}.npy"
            out = mapped.pop(name, None)
            if isinstance(out, np.memmap) and np.may_share_memory(out, array):
                out.flush()
            else:
                np.save(path, array, allow_pickle=False)
            del array, out  # on some systems a file that is mapped cannot be moved
            checksums[name] = _checksum(path)
        text = json.dumps({"made_by": recipe, "crc32": checksums}, indent=1)
        (aside / "encoding.json").write_text(text, encoding="utf-8")
        _move(aside, folder, pools)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _idle_seconds(folder: Path) -> float:
    """Seconds since anything was written to a folder; a long encoding writes to one file."""
    try:
        return time.time() - max(each.stat().st_mtime for each in (folder, *folder.iterdir()))
    except FileNotFoundError:
        return 0.0  # another process has just moved or deleted it


def _move(aside: Path, folder: Path, names: Iterable[str]) -> None:
    """Move a finished encoding into place, unless another process was first."""
    for _ in range(3):
        try:
            os.rename(aside, folder)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.EACCES, errno.EPERM):
                raise
            if not folder.exists():
                raise
        if _is_whole(folder, names):
            return
        # What is there is damaged; whoever has it open keeps what it has.
        broken = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            os.rename(folder, broken / "damaged")
        except FileNotFoundError:
            pass  # another process has just done the same
        finally:
            shutil.rmtree(broken, ignore_errors=True)
    raise ResourceError(
        f"the encoding {str(folder)!r} is damaged and comes back damaged; delete that folder"
    )


def _reserve(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A ``.npy`` file to be filled, with its room on the disk taken beforehand.

    Writing to a memory-mapped file on a full disk kills the process; taking the room first
    turns that into an error.
    """
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, {**header, "shape": shape})
        start = file.tell()
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if hasattr(os, "posix_fallocate"):
            file.flush()
            if size:
                os.posix_fallocate(file.fileno(), start, size)
        else:
            zeros = bytes(min(size, CHUNK))
            for done in range(0, size, CHUNK):
                file.write(zeros[: size - done])
    if size == 0:
        return np.empty(shape, dtype)
    array: NDArray[Any] = np.load(path, mmap_mode="r+", allow_pickle=False)
    return array


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def _is_whole(folder: Path, names: Iterable[str]) -> bool:
    """Whether an encoding is there with every byte as it was written."""
    try:
        card = json.loads((folder / "encoding.json").read_text(encoding="utf-8"))
        return all(_checksum(folder / f"{name}.npy") == card["crc32"][name] for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        return False  # absent, or written by something else: made anew either way


def _explained(error: OSError, cache: Path) -> ResourceError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            f"the disk is full: no room for the encoding in {str(cache)!r}; free some, name "
            "another folder as cache, or cache=None to keep it in memory"
        )
    return ResourceError(
        f"the encoding cannot be kept in {str(cache)!r}: {error.strerror or error}; name another "
        "folder as cache, or cache=None to keep it in memory"
    )
