"""Amounts of memory as people write them."""

from __future__ import annotations

import re

from labelwise.errors import InputError

_UNITS = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}IB": 1024**power for power, letter in enumerate("KMGT", 1)},
}


_LEAST_BLOCK, _MOST_BLOCK = 1 << 16, 16 << 20


def parse_memory(memory: int | str | None) -> int | None:
    """Bytes from a whole number of them or from text such as ``"4GB"`` or ``"1.5 GiB"``.

    Args:
        memory: bytes; or a number and a unit: B, KB, MB, GB, TB (powers of 1000), KiB, MiB,
            GiB, TiB (powers of 1024), in any case; None for no bound.

    Raises:
        InputError: not such an amount, or less than one byte.

    >>> parse_memory("1.5 GiB")
    1610612736
    """
    if memory is None:
        return None
    if isinstance(memory, str):
        found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", memory)
        if found and found[2].upper() in _UNITS:
            memory = int(float(found[1]) * _UNITS[found[2].upper()])
    if isinstance(memory, bool) or not isinstance(memory, int) or memory < 1:
        raise InputError(f'memory must be bytes or text such as "4GB", got {memory!r}')
    return memory


def block_limit(memory: int | None) -> int | None:
    """Bytes that a block of evidence may hold when a call may hold ``memory``; None for no limit.

    A strategy makes a handful of blocks of what it reads, of twice the width at times.

    >>> block_limit(64_000_000), block_limit(None)
    (1000000, None)
    """
    return None if memory is None else max(_LEAST_BLOCK, min(_MOST_BLOCK, memory // 64))
