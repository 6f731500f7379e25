"""What a label and a prediction are, and how good a prediction is.

The loop itself never looks inside a label: it hands labels from annotator to task. Another kind
of answer (several classes an item, a number, a mask) is another task.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.learners import Outputs

Label = Hashable
"""One item's label; the task says what it is, and it must be plain data (JSON-able)."""


@dataclass(frozen=True)
class Balance:
    """How evenly some labels fall on the classes.

    Attributes:
        counts: labels of each class.
        balance: `class_balance` of these counts.
    """

    counts: tuple[int, ...]
    balance: float


class Task(Protocol):
    """A kind of label.

    Attributes:
        classes: C, how many classes a model tells apart.
    """

    @property
    def classes(self) -> int:
        """C, how many classes a model tells apart."""
        ...

    def check(self, item: str, label: Any) -> Label:
        """The label in the form the state keeps, or an `InputError` that names the item."""
        ...

    def inside(self, label: Label) -> bool:
        """Whether the label is one a model may learn from; else the item is out of distribution."""
        ...

    def target(self, labels: Sequence[Label]) -> Tensor:
        """Labels as the tensor a learner is fitted to, a row per label."""
        ...

    def measures(self, outputs: Outputs, target: Tensor) -> dict[str, float]:
        """How good predictions are, by measure; the first one is the one to plot."""
        ...

    def balance(self, labels: Sequence[Label]) -> Balance:
        """How evenly labels fall on the classes."""
        ...


@dataclass(frozen=True)
class SingleLabel:
    """One class per item; a label is the class's number, 0..C-1.

    Args:
        classes: C, at least 2.
        ood: whether an item may be out of distribution, which the label C says: it is paid for,
            and nothing is trained on it.
    """

    classes: int
    ood: bool = False

    def inside(self, label: Label) -> bool:
        """Whether the label is a class.

        >>> SingleLabel(3, ood=True).inside(3)
        False
        """
        return label != self.classes

    def check(self, item: str, label: Any) -> int:
        """The label as a Python integer.

        Raises:
            InputError: no integer in 0..C-1.

        >>> SingleLabel(3).check("cat.png", 3)
        Traceback (most recent call last):
        labelwise.errors.InputError: the label of item 'cat.png' must be a class number in 0..2,
        got 3
        """
        whole = isinstance(label, int | np.integer) and not isinstance(label, bool)
        if not whole or not 0 <= label < self.classes + self.ood:
            more = f", or {self.classes} for out of distribution" if self.ood else ""
            raise InputError(
                f"the label of item {item!r} must be a class number in 0..{self.classes - 1}"
                f"{more}, got {label!r}"
            )
        return int(label)

    def target(self, labels: Sequence[Label]) -> Tensor:
        """(L,) int64."""
        return torch.tensor(labels, dtype=torch.int64)

    def measures(self, outputs: Outputs, target: Tensor) -> dict[str, float]:
        """``accuracy`` and ``macro_accuracy``, see `accuracy` and `macro_accuracy`."""
        predicted = outputs.probs.argmax(dim=1).cpu().numpy()
        truth = target.cpu().numpy()
        return {
            "accuracy": accuracy(predicted, truth),
            "macro_accuracy": macro_accuracy(predicted, truth),
        }

    def balance(self, labels: Sequence[Label]) -> Balance:
        """Counts of all C classes and `class_balance` of them.

        Where items may be out of distribution their number comes last; it plays no part in the
        balance.
        """
        size = self.classes + self.ood
        counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=size)
        return Balance(tuple(counts.tolist()), class_balance(counts[: self.classes]))


def accuracy(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Share of right predictions, in [0, 1].

    >>> accuracy(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]))
    0.75
    """
    return float(np.count_nonzero(predicted == truth) / len(truth))


def macro_accuracy(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Mean recall of the classes that the truth shows, in [0, 1]: rare classes count as much.

    >>> macro_accuracy(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 2]))
    0.5
    """
    present = np.unique(truth)
    return float(np.mean([np.mean(predicted[truth == c] == c) for c in present]))


def class_balance(counts: NDArray[np.int64]) -> float:
    """Entropy of class counts over that of equal counts, in [0, 1].

    1 says that every class has as many labels, 0 that one has them all (or that there are none).
    With fewer labels than classes 1 is out of reach.

    Args:
        counts: (C,) labels of each class, C >= 2.

    >>> class_balance(np.array([5, 5])), class_balance(np.array([7, 0]))
    (1.0, 0.0)
    """
    total = counts.sum()
    if total == 0:
        return 0.0
    share = counts[counts > 0] / total
    entropy = -float(np.sum(share * np.log(share)))
    return min(1.0, max(0.0, entropy / float(np.log(len(counts)))))
