"""How images lie in an array."""

from __future__ import annotations

from labelwise.errors import InputError


def channels_first(item_shape: tuple[int, ...]) -> bool:
    """Which of the two layouts images of this shape have.

    Raises:
        InputError: rows that are no images of 1, 3 or 4 channels.

    >>> channels_first((3, 32, 32)), channels_first((32, 32, 3))
    (True, False)
    """
    counts = (1, 3, 4)
    if len(item_shape) == 3:
        if item_shape[2] in counts:
            return False
        if item_shape[0] in counts:
            return True
    raise InputError(
        f"inputs must be images (N, H, W, channels) or (N, channels, H, W) of 1, 3 or 4 channels, "
        f"got rows of shape {item_shape}; the 'pixels' encoder makes them"
    )
