"""Temporal output discrepancy: what the network says stays near what it said a while ago."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelwise.errors import InputError
from labelwise.learners.average import Average
from labelwise.learners.networks import build_empty
from labelwise.learners.objectives.base import Objective, Setting
from labelwise.learners.objectives.momentum import draw_apart
from labelwise.learners.objectives.views import View

_FORMS = ("second_head", "paper")


def paper_discrepancy(logits: Tensor, earlier: Tensor) -> Tensor:
    """The squared distance between outputs of two moments, averaged over rows.

    Args:
        logits: (n, C). earlier: (n, C) of the moving average of the network.

    >>> paper_discrepancy(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]]))
    tensor(5.)
    """
    return (logits.float() - earlier.float()).square().sum(1).mean()


def second_head_discrepancy(logits: Tensor, second: Tensor, earlier: Tensor) -> Tensor:
    """Squared differences between two heads, and between the second and the average, per entry.

    Args:
        logits: (n, C). second: (n, C) of the second head. earlier: (n, C) of the average.

    >>> second_head_discrepancy(torch.ones(1, 2), torch.zeros(1, 2), torch.full((1, 2), 2.0))
    tensor(5.)
    """
    logits, second, earlier = logits.float(), second.float(), earlier.float()
    return F.mse_loss(logits, second) + F.mse_loss(second, earlier)


class TemporalDiscrepancy(Objective):
    """The unsupervised loss of temporal output discrepancy, on logits.

    The earlier outputs are those of a moving average of the network, in training mode, without
    gradient, on the same minibatch: what normalizes by it sees the same rows in both, so that
    what they differ in is time. By default it is the loss of the authors' code, by which their
    figures were made:
    a second linear head on the same embeddings stands between the two, and labeled rows count as
    well: ``weight`` x the sum over labeled and unlabeled rows of `second_head_discrepancy`.
    ``form="paper"`` is that of the paper: ``weight`` x `paper_discrepancy` of the unlabeled rows.
    (It is a sum over classes, and the default a mean: the same weight is C times as much.)

    In the authors' code the average starts with the first cycle, from weights of its own, and
    goes on through all; here every fit starts from nothing, and so does the average. Under batch
    normalization labeled and unlabeled rows are one minibatch here, two there.

    Args:
        weight: >= 0. The authors' are 0.02 for CIFAR-10, 0.05 for CIFAR-100, 0.005 for SVHN and
            0.1 for Caltech-101.
        form: ``"second_head"`` or ``"paper"``.
        decay: in [0, 1), of the average; in step t (from 1) at most ``1 - 1 / t``.

    Raises:
        InputError: an option out of range.

    Source:
        Huang, Wang, Xiong, Huang & Dou, "Semi-Supervised Active Learning with Temporal Output
        Discrepancy", ICCV 2021, equation 9, and the authors' code.
    """

    name = "tod"
    learns_labels = False

    def __init__(
        self, *, weight: float = 0.02, form: str = "second_head", decay: float = 0.999
    ) -> None:
        super().__init__()
        if not 0 <= weight < float("inf"):
            raise InputError(f"weight must be a number >= 0, got {weight}")
        if form not in _FORMS:
            raise InputError(f"form must be one of {', '.join(_FORMS)}, got {form!r}")
        if not 0 <= decay < 1:
            raise InputError(f"decay must be in [0, 1), got {decay}")
        self.weight, self.form, self.decay = weight, form, decay
        self._average: Average | None = None

    def prepare(self, setting: Setting) -> None:
        """Make the second head, and copy the network."""
        if self.form == "second_head":
            width, classes = setting.embedding_width, setting.classes
            self.second = build_empty(lambda: nn.Linear(width, classes), setting.generator)
        self._average = Average(setting.network, self.decay)
        draw_apart(self._average.module, setting)

    def forward(self, labeled: View, unlabeled: View, network: nn.Module) -> Tensor:
        """The loss, a single number."""
        labeled.together(unlabeled)
        earlier = self._earlier([labeled.inputs, unlabeled.inputs], network)
        if self.form == "paper":
            return self.weight * paper_discrepancy(unlabeled.logits, earlier[1])
        losses = [
            second_head_discrepancy(view.logits, self.second(view.embeddings), before)
            for view, before in zip((labeled, unlabeled), earlier)
        ]
        return self.weight * torch.stack(losses).sum()

    @torch.no_grad()
    def _earlier(self, inputs: Sequence[Tensor], network: nn.Module) -> Sequence[Tensor]:
        """Logits of the moving average, each layer of it in the mode of the network's own."""
        assert self._average is not None  # made in `prepare`
        for mine, theirs in zip(self._average.module.modules(), network.modules()):
            mine.training = theirs.training
        if len({each.shape[1:] for each in inputs}) > 1:  # texts, cut to the longest of each
            return [self._average.module(each) for each in inputs]
        logits: Tensor = self._average.module(torch.cat(list(inputs)))
        return logits.split([len(each) for each in inputs])

    def after_step(self, network: nn.Module) -> None:
        """Move the average."""
        assert self._average is not None
        self._average.update(network)
