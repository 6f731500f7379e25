"""The option ``partitions=`` of strategies that were published part by part."""

from __future__ import annotations

from labelwise.engine import Engine, find_engine
from labelwise.errors import InputError


def find_whole_engine(engine: Engine | None, partitions: int) -> Engine:
    """Where a strategy runs that may be asked to pick from random parts of the pool.

    Args:
        engine: as `select` passes it.
        partitions: how many parts; 1 for the pool as a whole.

    Raises:
        InputError: no number of parts, or parts on an engine that cuts the pool in its own way.

    >>> find_whole_engine(None, 10).name
    'local'
    """
    if isinstance(partitions, bool) or not isinstance(partitions, int) or partitions < 1:
        raise InputError(f"partitions must be a whole number >= 1, got {partitions!r}")
    found = find_engine(engine)
    if partitions > 1 and found.name != "local":
        raise InputError(
            f"partitions={partitions} picks from one part after another on one machine, but the "
            f"engine is {found.name!r}: leave partitions out, which that engine has no need of, or "
            "pass engine='local'"
        )
    return found
