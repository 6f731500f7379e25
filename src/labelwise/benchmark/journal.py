"""The journal of a run: one line per finished round, on disk before the next one starts.

A line is ``{"checksum": ..., "record": ...}``. What a crash tears can only be the last line: it is
cut off when the journal is opened again, and its round is computed anew. Damage anywhere else is
refused. Numbers are written by ``repr``, which reads back to the same bits.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from labelwise.errors import ResourceError, ResultsError
from labelwise.loop import Label, State

Record = dict[str, Any]

JOURNAL = "journal.jsonl"
"""The journal's name in a results folder."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Journal:
    """An append-only file of checksummed JSON records; use it in a ``with`` statement.

    Args:
        path: the file; created when absent, otherwise read and, if its last line is torn, cut
            back to the last whole one.

    Attributes:
        records: everything in it, oldest first.

    Raises:
        ResultsError: a line before the last is damaged, or the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            self.records, end = parse(path)
            os.ftruncate(self._file, end)
            sync_folder(path.parent)
        except BaseException as error:
            os.close(self._file)
            if isinstance(error, OSError):
                raise _unwritable(path, error) from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def append(self, record: Record) -> None:
        """Add a record; when this returns it survives a crash and a power cut.

        Raises:
            ResourceError: the disk is full. The journal is as it was before.
            ResultsError: the file cannot be written for another reason; likewise.
        """
        line = encode(record)
        end = os.fstat(self._file).st_size
        try:
            write_all(self._file, line)
            os.fsync(self._file)
        except OSError as error:
            # Shrinking needs no space, so what was half-written goes even on a full disk.
            os.ftruncate(self._file, end)
            raise _unwritable(self.path, error) from error
        self.records.append(record)


def encode(record: Record) -> bytes:
    """A record as one line of the journal.

    >>> encode({"round": 1})
    b'{"checksum":"10b0a79320facd1c","record":{"round":1}}\\n'
    """
    text = json.dumps(record, separators=(",", ":"))
    return f'{{"checksum":"{_checksum(text)}","record":{text}}}\n'.encode()


def decode(line: bytes) -> Record | None:
    """The record of a line without its newline; None when the line is torn or damaged."""
    try:
        text = line.decode()
        whole = json.loads(text)
        checksum, record = whole["checksum"], whole["record"]
    except (ValueError, KeyError, TypeError):  # ValueError: bad UTF-8 and bad JSON alike
        return None
    # Over the text as written: no reader has to format numbers as the writer did.
    body = text[text.index('"record":') + len('"record":') : -1]
    return record if checksum == _checksum(body) and isinstance(record, dict) else None


def parse(path: Path) -> tuple[list[Record], int]:
    """The records of a journal, and the length in bytes of its whole lines.

    Raises:
        ResultsError: a line before the last is damaged.
    """
    content = path.read_bytes()
    *lines, rest = content.split(b"\n")
    records: list[Record] = []
    end = 0
    for number, line in enumerate(lines, start=1):
        record = decode(line)
        if record is None:
            if number == len(lines) and not rest:
                break  # torn, though its newline reached the disk
            raise ResultsError(
                f"line {number} of {path} is damaged (its checksum does not fit): "
                "delete the folder and run again, or restore the file"
            )
        records.append(record)
        end += len(line) + 1
    return records, end


def state_after(cell: Sequence[Record], labels: Mapping[str, Label]) -> State:
    """What a loop knew after the rounds of one strategy and seed, but for what strategies carry.

    Args:
        cell: their records in order, at least one. labels: of every item asked for, by id.
    """
    ids = tuple(item for record in cell for item in record["picked_ids"])
    pseudo = [tuple((item, label) for item, label in r.get("pseudo", ())) for r in cell]
    return State(
        ids,
        tuple(labels[item] for item in ids),
        round=cell[-1]["round"],
        pseudo=pseudo[-1],
        before=len(ids) - len(cell[-1]["picked_ids"]),
        pseudo_before=pseudo[-2] if len(cell) > 1 else (),
    )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a results folder for this process alone; it is created when absent.

    The system drops the lock when the process ends, however it ends.

    Raises:
        ResultsError: another process holds it, or the folder cannot be written.
    """
    import fcntl

    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 32).decode(errors="replace").strip() or "unknown"
            raise ResultsError(
                f"{folder} is in use by another run (process {holder}): "
                "wait for it, or choose another folder"
            ) from None
        except OSError as error:
            raise _unwritable(path, error) from error
        _sign(file, path)
        yield
    finally:
        os.close(file)


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Create or replace a file, whole or not at all, also across a power cut.

    A killed process may leave a hidden ``.NAME.partial``, which the next write replaces; so only
    one process at a time may write a path (see `locked`).

    Args:
        path: the file.
        write: writes its content to the open binary file it is given.

    Raises:
        ResourceError: the disk is full; nothing is left behind.
        ResultsError: it cannot be written for another reason.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _unwritable(path, error) from error
        raise


def write_all(file: int, data: bytes) -> None:
    """Write every byte to a file descriptor; the system may take them in parts."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def sync_folder(folder: Path) -> None:
    """Make a new or renamed name in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sign(file: int, path: Path) -> None:
    """Leave this process's number in the lock file, for whoever finds it locked."""
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        raise _unwritable(path, error) from error


def _checksum(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _unwritable(path: Path, error: OSError) -> ResourceError | ResultsError:
    if error.errno in _FULL:
        return ResourceError(
            f"no space left to write {path}: free some and run the same call again, "
            "finished rounds are kept"
        )
    return ResultsError(f"cannot write {path}: {error.strerror or error}")
