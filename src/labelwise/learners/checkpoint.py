"""Checkpoints: a fit that is killed goes on where it was, and ends as if it had not been."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from labelwise._version import __version__
from labelwise.errors import DataError, InputError, ResourceError
from labelwise.kernels import Rows
from labelwise.learners.parallel import Ranks
from labelwise.learners.state import capture, restore

FORMAT = 1
CARD, TENSORS = "checkpoint.json", "checkpoint-{}.safetensors"
LOOKED_AT = 1024
"""Rows of the pool whose content is part of what a checkpoint belongs to."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a fit keeps what it needs to go on.

    Everything is written: network, objectives, optimizers, averages, random generators, queues
    and the history so far. It is written aside and moved into place, so whenever the process is
    killed, a whole checkpoint is there. The fit that goes on ends with the same bits on the same
    machine.

    Attributes:
        folder: made when absent. One fit's; another's is refused.
        every: epochs between two of them; the last epoch always has one.
        made_by: what else the fit depends on, as JSON-able values; compared like the recipe.

    Raises:
        InputError: ``every`` below 1.
    """

    folder: Path | str
    every: int = 1
    made_by: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"every must be at least 1 epoch, got {self.every}")

    def of(self, **made_by: Any) -> Checkpoint:
        """The same for a fit that depends on more, by topic."""
        return replace(self, made_by={**self.made_by, **made_by})


def describe(
    network: nn.Module, inputs: Rows, rows: Tensor, labels: Tensor, unlabeled: Tensor | None
) -> dict[str, Any]:
    """The architecture and the data of a fit, as a checkpoint compares them.

    Of the data that is rows, labels and unlabeled rows, and the content of up to `LOOKED_AT`
    rows spread evenly over the pool; ``Checkpoint.made_by`` takes a fingerprint of all of it.
    """
    shapes = [f"{name} {tuple(each.shape)}" for name, each in network.named_parameters()]
    step = -(-len(inputs) // LOOKED_AT) or 1
    sample = inputs.take(torch.arange(0, len(inputs), step))
    parts = [sample, rows, labels, *(() if unlabeled is None else (unlabeled,))]
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(str(tuple(part.shape)).encode())
        digest.update(part.cpu().contiguous().flatten().view(torch.uint8).numpy())
    architecture = hashlib.blake2b("\n".join(shapes).encode(), digest_size=16).hexdigest()
    return {
        "architecture": {"parameters": len(shapes), "shapes": architecture},
        "data": {"shape": list(inputs.shape), "labeled": len(rows), "content": digest.hexdigest()},
    }


class Keeper:
    """Writes and reads the checkpoints of one fit.

    Args:
        checkpoint: where and how often.
        made_by: what the fit depends on, by topic.
        device: where the fit is.
        ranks: the processes of the fit. The first writes and reads; all hear what it read.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        made_by: Mapping[str, Any],
        device: torch.device,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.folder = Path(checkpoint.folder)
        self.every = checkpoint.every
        versions = {"format": FORMAT, "labelwise": __version__, "torch": torch.__version__}
        made = {"version": versions, **made_by, **checkpoint.made_by, "device": device.type}
        self._made_by: dict[str, Any] = json.loads(json.dumps(made))
        self._device = device

    def load(self, pieces: dict[str, Any]) -> bool:
        """Put a checkpoint's state into these pieces; whether there was one.

        Raises:
            DataError: it is damaged, or of another architecture, recipe, data or version.
        """
        text = self.ranks.send(self._read(CARD))
        if not text:
            return False
        try:
            card = json.loads(text)
            there = card["made_by"]
            self._compare(there)
            content = self.ranks.send(self._read(card["tensors"]))
            if _checksum(content) != card["checksum"]:
                raise self._unreadable("its tensors are not those that were written")
            restore(pieces, card["state"], load(content), self._device)
        except DataError as error:
            if str(self.folder) in str(error):
                raise
            raise DataError(f"the checkpoint in {str(self.folder)!r} is of {error}") from error
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise self._unreadable(error) from error
        return True

    def save(self, pieces: dict[str, Any], epoch: int) -> None:
        """Write a checkpoint: tensors under a new name, then the card that names them.

        Raises:
            ResourceError: the folder cannot be written; the last checkpoint is still there.
        """
        if not self.ranks.first:
            return
        node, tensors = capture(pieces)
        content = save(tensors)
        name = TENSORS.format(epoch)
        card = {
            "made_by": self._made_by,
            "epoch": epoch,
            "tensors": name,
            "checksum": _checksum(content),
            "state": node,
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_in_place(self.folder / name, content)
            write_in_place(self.folder / CARD, json.dumps(card).encode())
            for old in self.folder.glob(TENSORS.format("*")):
                if old.name != name:
                    old.unlink()
        except OSError as error:
            raise ResourceError(
                f"the checkpoint cannot be written to {str(self.folder)!r}: "
                f"{error.strerror or error}"
            ) from error

    def _read(self, name: str) -> bytes:
        """A file's content; nothing where it is not there, and on ranks that do not read."""
        if not self.ranks.first:
            return b""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise self._unreadable(error) from error

    def _compare(self, there: dict[str, Any]) -> None:
        for topic in [*self._made_by, *there]:
            mine, other = self._made_by.get(topic), there.get(topic)
            if mine == other:
                continue
            raise DataError(
                f"the checkpoint in {str(self.folder)!r} is of another {topic} "
                f"({difference(other, mine)}): go on as it began, or name another folder"
            )

    def _unreadable(self, reason: object) -> DataError:
        return DataError(
            f"the checkpoint in {str(self.folder)!r} cannot be read ({reason}): "
            "delete that folder to start afresh"
        )


def write_in_place(path: Path, content: bytes) -> None:
    """Write a file aside, and move it into place when it is on the disk."""
    aside = path.with_name(f".{path.name}")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def difference(there: Any, here: Any) -> str:
    """The first place where two descriptions differ, in words."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in [*there, *here]:
            if there.get(name) != here.get(name):
                return f"{name} {difference(there.get(name), here.get(name))}"
    return f"{json.dumps(there)} there, {json.dumps(here)} here"
