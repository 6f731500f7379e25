"""Cross-entropy: the labels, learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from labelwise.errors import InputError
from labelwise.learners.objectives.base import Objective, Setting
from labelwise.learners.objectives.views import View


class CrossEntropy(Objective):
    """Cross-entropy of the labels, in nats, averaged over the minibatch.

    Args:
        smoothing: in [0, 1): this share of every label is spread evenly over the classes
            (Szegedy et al., CVPR 2016).
        class_weights: (C,) positive weights, the mean is weighted by them; ``"balanced"``
            weights a class by L / (present classes x its labels), so that all present
            classes count the same.

    Raises:
        InputError: a smoothing out of range, or weights that are not positive; at the fit,
            another number of weights than classes.
    """

    learns_labels = True

    def __init__(
        self, *, smoothing: float = 0.0, class_weights: str | Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise InputError(f"smoothing must be in [0, 1), got {smoothing}")
        if isinstance(class_weights, str):
            if class_weights != "balanced":
                raise InputError(
                    f"class_weights must be numbers or 'balanced', got {class_weights!r}"
                )
        elif class_weights is not None:
            class_weights = tuple(float(weight) for weight in class_weights)
            if not all(0 < weight < float("inf") for weight in class_weights):
                raise InputError(f"class_weights must be positive, got {class_weights}")
        self.smoothing = smoothing
        self.class_weights = class_weights
        self.register_buffer("_weights", None)

    def prepare(self, setting: Setting) -> None:
        """Turn the class weights into a tensor for this many classes."""
        if self.class_weights is None:
            return
        if isinstance(self.class_weights, str):
            counts = torch.bincount(setting.labels, minlength=setting.classes).float()
            present = int((counts > 0).sum())
            weights = len(setting.labels) / (present * counts.clamp(min=1))
        else:
            weights = torch.tensor(self.class_weights)
            if len(weights) != setting.classes:
                raise InputError(
                    f"class_weights must be one a class: {setting.classes} classes, "
                    f"got {len(weights)}"
                )
        self._weights = weights.to(setting.device)

    @property
    def weights(self) -> Tensor | None:
        """(C,) class weights of the fit, once prepared; None where all count the same."""
        return self._weights

    def forward(self, labeled: View) -> Tensor:
        """The loss, a single number."""
        return F.cross_entropy(
            labeled.logits,
            labeled.labels,
            weight=self._weights,
            label_smoothing=self.smoothing,
        )

    def signature(self) -> dict[str, Any]:
        """Name and options."""
        weights = self.class_weights
        return {
            "name": "cross_entropy",
            "smoothing": self.smoothing,
            "class_weights": list(weights) if isinstance(weights, tuple) else weights,
        }
