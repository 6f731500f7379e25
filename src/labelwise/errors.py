"""The handful of errors a user can meet, each with its own exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LabelwiseError(Exception):
    """Anything labelwise refuses, said in one line: what, the rule, the value seen, the fix."""

    exit_code = 1


class InputError(LabelwiseError, ValueError):
    """An argument or a piece of evidence does not fit its rule."""

    exit_code = 2


class DataError(LabelwiseError):
    """Items, files or label columns that cannot be used as they are."""

    exit_code = 3


class ResultsError(LabelwiseError):
    """A results folder that belongs to another plan or version, or that cannot be written."""

    exit_code = 4


class ResourceError(LabelwiseError):
    """Not enough memory or disk for the call; the message names the least that works."""

    exit_code = 5


class MissingDependencyError(LabelwiseError, ImportError):
    """An optional library is needed and absent; the message names the extra to install."""

    exit_code = 6


def nearest(name: object, known: Iterable[str], count: int = 3) -> str:
    """The known names closest to a misspelt one, as a phrase for an error message.

    Args:
        name: as given; what is no text at all is close to nothing.
        known: the names. count: how many to tell at most.

    Returns:
        ``'did you mean margin?'``, or the whole list when nothing is close.

    >>> nearest("margn", ["margin", "entropy"])
    'did you mean margin?'
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=count, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(names)}"
