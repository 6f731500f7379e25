"""Picks of an unfinished selection on disk, so that the same call can go on with them."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from labelwise._version import __version__
from labelwise.errors import InputError, ResourceError
from labelwise.evidence import OBJECTS
from labelwise.kernels import Chosen, Rows

_SAMPLED = 64


def fingerprint(evidence: Mapping[str, Any], **call: Any) -> str:
    """What tells one call of `select` from another: its arguments, and a look at its arrays.

    Of each array the shape, the type and 64 rows spread over it count: enough to notice another
    file, at the price of none.

    Args:
        evidence: arrays and numbers by name.
        call: everything else; tensors count whole.

    >>> fingerprint({"x": [[1.0]]}, n=3) == fingerprint({"x": [[2.0]]}, n=3)
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(evidence):
        digest.update(f"{name}=".encode())
        digest.update(_look(evidence[name], name))
    for name in sorted(call):
        value = call[name]
        text = value.cpu().numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value)
        digest.update(f"{name}=".encode() + (text if isinstance(text, bytes) else text.encode()))
    return digest.hexdigest()


def _look(value: Any, name: str) -> bytes:
    if isinstance(value, int | float | str | Mapping):
        return repr(value).encode()
    if callable(value):
        return type(value).__name__.encode()
    if name in OBJECTS:
        return b"".join(_look(part, f"{name}[]") for part in value)
    rows = value if isinstance(value, Rows) else Rows(value, name)
    spread = np.unique(np.linspace(0, len(rows) - 1, _SAMPLED).astype(np.int64))
    seen = rows.take(torch.from_numpy(spread if len(rows) else spread[:0]))
    return (
        f"{rows.shape}{rows.dtype}".encode()
        + seen.contiguous().cpu().view(torch.uint8).numpy().tobytes()
    )


class Checkpoint:
    """A file that holds the picks made so far.

    Args:
        path: written while the call runs, gone when it has ended.
        call: the fingerprint of the call that may use it.

    Raises:
        InputError: the file is no checkpoint, or one of another call.
    """

    def __init__(self, path: Path | str, call: str) -> None:
        self.path = Path(path)
        self._call = call
        self.earlier = self._read() if self.path.exists() else None

    def _read(self) -> Chosen:
        fix = "delete it, or name another file"
        try:
            with safe_open(self.path, framework="pt") as file:
                about = json.loads((file.metadata() or {}).get("labelwise", "{}"))
                found = Chosen(file.get_tensor("rows"), file.get_tensor("gains"))
        except (OSError, SafetensorError, ValueError) as error:
            raise InputError(
                f"checkpoint {str(self.path)!r} cannot be read: {error}; {fix}"
            ) from error
        if about.get("call") != self._call:
            raise InputError(
                f"checkpoint {str(self.path)!r} was left by another call: other evidence, "
                f"arguments or version; {fix}"
            )
        return found

    def write(self, picks: Chosen) -> None:
        """Replace what the file holds, whole or not at all.

        Raises:
            ResourceError: the file cannot be written.
        """
        aside = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}")
        about = {"labelwise": json.dumps({"call": self._call, "version": __version__})}
        try:
            save_file({"rows": picks.rows, "gains": picks.gains}, aside, metadata=about)
            os.replace(aside, self.path)
        except (OSError, SafetensorError) as error:
            raise ResourceError(
                f"checkpoint {str(self.path)!r} cannot be written: {error}"
            ) from error
        finally:
            aside.unlink(missing_ok=True)

    def remove(self) -> None:
        """The call has ended: nothing is left to go on with."""
        self.path.unlink(missing_ok=True)
