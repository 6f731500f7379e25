"""Evidence on a pool's items from before a simulation, such as costs or a pretext's loss."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelwise.errors import InputError
from labelwise.evidence import RULES, check
from labelwise.kernels import Rows
from labelwise.learners.pretext import pretrained_evidence
from labelwise.loop import Provider

if TYPE_CHECKING:
    from labelwise.pools import Pool

LOOP_GIVES = frozenset({"labeled", "labels", "oracle_labels"})
"""Evidence that says who is labeled and how, which nobody else may say."""


def known_evidence(given: Mapping[str, Any], pool: Pool) -> dict[str, Rows]:
    """Evidence by name, checked: an entry for each row of the pool.

    Args:
        given: anything `Rows` takes, such as an array or the path of a ``.npy`` file; or the folder
            of a pretraining that left evidence of that name.
        pool: whose rows they are.

    Raises:
        InputError: what is no evidence of each row, another number of entries than items, values
            that break the evidence's rule, or a pretraining on another pool.
        DataError: a folder without such evidence.
    """
    found: dict[str, Rows] = {}
    for name, value in given.items():
        axes = RULES[name].axes if name in RULES else ("N",)
        if axes[:1] != ("N",) or name in LOOP_GIVES:
            raise InputError(
                f"evidence {name!r} cannot be given to a simulation: only what has an entry for "
                "each item of the pool, such as costs or pretext_loss"
            )
        if isinstance(value, str | os.PathLike) and Path(value).is_dir():
            value = pretrained_evidence(Path(value), name, pool)
        checked = check(name, value, {"N": (len(pool), "the pool")})
        found[name] = checked if isinstance(checked, Rows) else Rows(checked, name)
        if len(found[name]) != len(pool):
            raise InputError(
                f"evidence {name!r} must have an entry for each of the {len(pool)} items of the "
                f"pool, got {len(found[name])}"
            )
    return found


def fingerprint(rows: Rows) -> str:
    """A checksum of what is in an array, its shape and its kind of numbers."""
    digest = hashlib.blake2b(f"{rows.shape} {rows.dtype}".encode(), digest_size=16)
    for _, block in rows.blocks():
        digest.update(block.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def providers_of(known: Mapping[str, Rows]) -> tuple[Provider, ...]:
    """Functions that give the evidence, as strategies are asked with.

    >>> [give.__name__ for give in providers_of({"costs": Rows([1.0, 2.0])})]
    ['costs']
    """
    return tuple(_provider(name, rows) for name, rows in known.items())


def _provider(name: str, rows: Rows) -> Provider:
    def give() -> Rows:
        return rows

    give.__name__ = name
    return give
