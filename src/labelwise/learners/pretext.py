"""What a pretraining's own task says of each item, such as the loss of turning it round."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelwise.errors import DataError, InputError
from labelwise.kernels import Rows
from labelwise.learners.checkpoint import write_in_place
from labelwise.learners.network import NetworkModel

if TYPE_CHECKING:
    from labelwise.pools import Pool

PRETRAINING = "pretraining.json"
"""The card of a pretraining's folder."""


def write_evidence(model: NetworkModel, inputs: Rows, folder: Path) -> None:
    """What the objectives of a pretrained network say of each row, as ``<evidence>.npy``.

    Args:
        model: with its objectives. inputs: (N, ...) the pool.
        folder: of the pretraining.
    """
    for give in model.objective_evidence(inputs):
        content = io.BytesIO()
        np.save(content, Rows(give(), give.__name__).tensor().cpu().numpy())
        write_in_place(folder / f"{give.__name__}.npy", content.getvalue())


def read_finished(folder: Path) -> dict[str, Any]:
    """What made the finished pretraining in a folder.

    Raises:
        DataError: there is none, or it is not finished.
    """
    try:
        card = json.loads((folder / PRETRAINING).read_text(encoding="utf-8"))
        made_by: dict[str, Any] = card["made_by"]
        done = "result" in card
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{str(folder)!r} holds no pretraining: {error}") from error
    if not done:
        raise DataError(
            f"the pretraining in {str(folder)!r} is not finished: run the same pretrain again"
        )
    return made_by


def pretrained_evidence(folder: Path | str, name: str, pool: Pool) -> Path:
    """The file of what a pretraining says of each item of its pool.

    Args:
        folder: what `pretrain` was given as ``out``.
        name: of the evidence, such as ``"pretext_loss"``, which the method ``rotation`` leaves.
        pool: whose rows are asked about.

    Raises:
        DataError: no finished pretraining there, or one whose method says nothing of that name.
        InputError: it was of another pool, whose rows are other items.
    """
    source = Path(folder)
    made_by = read_finished(source)
    path = source / f"{name}.npy"
    if not path.is_file():
        raise DataError(
            f"the pretraining in {str(folder)!r} by {made_by['method']['name']} left no {name}"
        )
    if made_by["pool"] != pool.fingerprint:
        raise InputError(
            f"the pretraining in {str(folder)!r} was of another pool, so its {name} is of other "
            "items: pretrain on this one"
        )
    return path
