"""Values of options as people write them in a command or a plan."""

from __future__ import annotations

import math

Option = bool | int | float | str | None

_WORDS: dict[str, Option] = {"true": True, "false": False, "none": None}


def parse_value(text: str) -> Option:
    """A value as what it looks like: ``true``, ``false``, ``none``, a finite number, else text.

    >>> parse_value("0.5"), parse_value("true"), parse_value("cosine")
    (0.5, True, 'cosine')
    """
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if math.isfinite(number):  # JSON has no other, so a plan could not hold it
            return number
    return text
