"""FlexMatch: FixMatch with a lower threshold for classes that are learned less well."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.learners.objectives.base import Setting
from labelwise.learners.objectives.fixmatch import FixMatch


def flexible_thresholds(learned: Tensor, undecided: Tensor, threshold: float) -> Tensor:
    """The threshold of each class.

    Args:
        learned: (C,) for how many unlabeled rows the class is the last one they were sure of.
        undecided: how many have never been sure of any, a number. Early on it stands for the
            best learned class, so that all thresholds start from 0.
        threshold: of a class learned as well as the best.

    Returns:
        (C,) in [0, threshold]: with b the count by the largest, ``threshold * b / (2 - b)``.

    >>> flexible_thresholds(torch.tensor([6, 3, 0]), torch.tensor(1), 0.9)
    tensor([0.9000, 0.3000, 0.0000])
    """
    share = learned / torch.maximum(learned.max(), undecided).clamp(min=1)
    return threshold * share / (2 - share)


class FlexMatch(FixMatch):
    """FixMatch with a threshold per class, by how many rows the network is sure to be of it.

    The loss, its needs and its two options are those of `FixMatch`. Counts are of the whole
    unlabeled pool: every row counts for the class of its latest weak look that reached the
    full threshold. A step is judged by the counts before it. At first no row counts, all
    thresholds are 0 and every row is learned, as in the authors' code.

    They come near the full threshold once most rows have been sure. The authors' million steps
    forget what was learned before; some hundred steps from new weights do not, and do worse than
    labels alone. Give those a pretrained network and a lower threshold, or `FixMatch`.

    Source:
        Zhang et al., "FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo
        Labeling", NeurIPS 2021, equations 5, 6, 11 and 12, with threshold warm-up and the
        convex map.
    """

    name = "flexmatch"
    decided: Tensor
    learned: Tensor

    def prepare(self, setting: Setting) -> None:
        """Nobody has been sure of any row yet."""
        decided = torch.full((setting.pool,), -1, dtype=torch.int64)
        counts = torch.zeros(setting.classes, dtype=torch.int64)
        self.register_buffer("decided", decided, persistent=False)
        self.register_buffer("learned", counts, persistent=False)
        self._unlabeled = setting.unlabeled

    def sure(self, probs: Tensor, rows: Tensor) -> Tensor:
        """(n,) bool by the thresholds so far, which then take note of these rows."""
        undecided = self._unlabeled - self.learned.sum()
        thresholds = flexible_thresholds(self.learned, undecided, self.threshold)
        largest, classes = probs.max(1)
        sure = largest >= thresholds[classes]
        # In one scatter, without a look at how many there are, which would wait for the device.
        before = self.decided[rows]
        now = torch.where(largest >= self.threshold, classes, before)
        self.decided[rows] = now
        self.learned += _counts(now, len(self.learned)) - _counts(before, len(self.learned))
        return sure


def _counts(classes: Tensor, number: int) -> Tensor:
    """(C,) how often each class occurs; -1 is none."""
    counts = torch.zeros(number + 1, dtype=torch.int64, device=classes.device)
    return counts.scatter_add_(0, classes + 1, torch.ones_like(classes))[1:]
