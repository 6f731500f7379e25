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


def parse_values(text: str) -> Option | tuple[int | float, ...]:
    """As `parse_value`, and numbers with commas between as a tuple.

    >>> parse_values("128,64"), parse_values("1,2.5"), parse_values("conv1,layer1")
    ((128, 64), (1, 2.5), 'conv1,layer1')
    """
    several = [parse_value(part) for part in text.split(",")]
    numbers = [part for part in several if type(part) in (int, float)]
    if len(several) > 1 and len(numbers) == len(several):
        return tuple(part for part in several if isinstance(part, int | float))
    return parse_value(text)
