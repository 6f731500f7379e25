"""Experience: what one run has learned of strategies, for the next one to start from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelwise.errors import InputError
from labelwise.strategies.picks import write_whole

FORMAT = "labelwise experience"
VERSION = 1

_MOST = 1e100

SHIPPED = "shipped"
"""The name of the experience that comes with the package."""


@dataclass(frozen=True)
class Experience:
    """Weights of strategies' scores, as `lsa` learns them.

    Attributes:
        arms: names of the strategies.
        weights: one for each; larger = the score counts for more.
        scale: how scores were scaled, see `lsa`; weights mean nothing on another scale.
        learned: from what, for people to read.

    Raises:
        InputError: no weight for some arm, an arm twice, or a weight that is not finite.

    >>> Experience(("margin", "badge"), (0.8, 0.1)).weights_for(["badge", "margin"], "zscore")
    array([0.1, 0.8])
    """

    arms: tuple[str, ...]
    weights: tuple[float, ...]
    scale: str = "zscore"
    learned: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.arms or len(self.arms) != len(self.weights):
            raise InputError(
                f"experience must have a weight for each arm, got {len(self.weights)} for "
                f"{len(self.arms)} arms"
            )
        if len(set(self.arms)) < len(self.arms):
            raise InputError(f"experience must name each arm once, got {', '.join(self.arms)}")
        for arm, weight in zip(self.arms, self.weights):
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise InputError(f"experience: the weight of {arm} is no number: {weight!r}")
            if not abs(weight) < _MOST:
                raise InputError(
                    f"experience: the weight of {arm} must be finite, below {_MOST:g} in size"
                )

    def weights_for(self, arms: Sequence[str], scale: str) -> NDArray[np.float64]:
        """The weights in the order of some arms.

        Raises:
            InputError: these are not the arms it was learned with, or not the scale.
        """
        if set(arms) != set(self.arms):
            raise InputError(
                f"the experience is of the arms {', '.join(self.arms)}, and not of "
                f"{', '.join(arms)}: use arms={'+'.join(self.arms)!r}, or learn it anew"
            )
        if scale != self.scale:
            raise InputError(
                f"the experience is of scores scaled by {self.scale!r}, and not by {scale!r}: "
                f"use scale={self.scale!r}, or learn it anew"
            )
        found = dict(zip(self.arms, self.weights))
        return np.array([found[arm] for arm in arms])

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values; `from_dict` reads it back."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "arms": list(self.arms),
            "weights": [float(weight) for weight in self.weights],
            "scale": self.scale,
            "learned": dict(self.learned),
        }

    @classmethod
    def from_dict(cls, record: Any, source: str = "experience") -> Experience:
        """The experience that `to_dict` wrote.

        Raises:
            InputError: something else, or of another version.

        >>> Experience.from_dict({"format": "labelwise experience", "version": 2})
        Traceback (most recent call last):
        labelwise.errors.InputError: experience is of version 2, and this labelwise reads version
        1: learn it anew
        """
        if not isinstance(record, Mapping) or record.get("format") != FORMAT:
            raise InputError(f"{source} is no experience of labelwise")
        if record.get("version") != VERSION:
            raise InputError(
                f"{source} is of version {record.get('version')!r}, and this labelwise reads "
                f"version {VERSION}: learn it anew"
            )
        try:
            return cls(
                tuple(str(arm) for arm in record["arms"]),
                tuple(record["weights"]),
                str(record["scale"]),
                dict(record.get("learned", {})),
            )
        except InputError as error:
            raise InputError(f"{source} is a damaged experience: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{source} is a damaged experience: {error!r}") from error

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Experience:
        """The experience in a JSON file.

        Raises:
            InputError: no such file, or see `from_dict`.
        """
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"cannot read the experience {str(path)!r}: {error.strerror or error}"
            ) from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{str(path)!r} is no experience of labelwise: {error}") from error
        return cls.from_dict(record, repr(str(path)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file, whole or not at all.

        Raises:
            ResourceError: it cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=2) + "\n"

        def write(target: Path) -> None:
            target.write_text(text, encoding="utf-8")

        write_whole(Path(path), write)

    @classmethod
    def shipped(cls) -> Experience:
        """The experience that comes with the package; ``learned`` says from what."""
        file = resources.files("labelwise.strategies").joinpath("experience.json")
        return cls.from_dict(json.loads(file.read_text(encoding="utf-8")), "the shipped experience")

    @classmethod
    def find(cls, given: Any) -> Experience | None:
        """An experience from whatever says which: None, itself, ``"shipped"``, a path, a record.

        Raises:
            InputError: see `read` and `from_dict`.
        """
        if given is None or isinstance(given, cls):
            return given
        if isinstance(given, Mapping):
            return cls.from_dict(given)
        if given == SHIPPED:
            return cls.shipped()
        if isinstance(given, str | os.PathLike):
            return cls.read(given)
        raise InputError(f"experience must be a path, a record or 'shipped', got {given!r}")


def bound_experience(given: Any, by: str) -> Experience | None:
    """The experience as a strategy gets it from `select`, checked for who calls it by hand.

    Raises:
        InputError: a path or a record: strategies read no files.
    """
    if given is None or isinstance(given, Experience):
        return given
    raise InputError(
        f"{by} was called by hand with experience={given!r}: pass an Experience, such as "
        "Experience.read(path)"
    )
