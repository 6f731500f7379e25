"""ReMixMatch: MixMatch whose guesses have the labels' shares, and whose targets are hard looks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelwise.errors import InputError
from labelwise.learners.images import channels_first
from labelwise.learners.networks import build_empty
from labelwise.learners.objectives.base import Objective, Setting, Step
from labelwise.learners.objectives.own_labels import (
    Mixer,
    ramp,
    require,
    require_weight,
    sharpen,
    soft_cross_entropy,
)
from labelwise.learners.objectives.rotation import TURNS, turned
from labelwise.learners.objectives.views import View

WINDOW = 128
"""Minibatches whose mean guess is what the network says of the pool."""

_FLOOR = 1e-6


class ReMixMatch(Objective):
    """Cross-entropies of mixed labeled rows, mixed unlabeled ones, hard looks and rotations.

    The distribution of an unlabeled row's weak look is aligned (multiplied by the shares of
    classes there should be, divided by the mean of the guesses of the last 128 minibatches),
    sharpened, and is the target of several strong looks and of the weak one. These and the
    labeled rows are mixed as in `MixMatch`. Without mixing, the first strong look is learned
    once more, and by how many quarter turns it was rotated. The labels are learned here:
    `CrossEntropy` beside it would learn them a second time.

    Batch normalization: all mixtures pass as one minibatch; guesses, the unmixed look and the
    rotations normalize by their own and leave the running statistics be.

    Labeled rows are looked at weakly, as in TorchSSL. Neither the authors' CTAugment nor any
    other strong look is part of this: the learner gives it.

    Args:
        strong: strong looks at an unlabeled row, at least 1. 8 is the paper's; TorchSSL has 2
            at a third of the cost.
        mixed: weight of the mixed unlabeled rows, at least 0.
        unmixed: weight of the first strong look, at least 0.
        rotation: weight of the rotations, at least 0. They need square images: 0 for others.
        temperature: of the sharpening, above 0.
        beta: of the mixing shares, above 0.
        shares: of classes to align to: ``"labels"``, those of the labeled rows, as the
            authors have it, or ``"even"``. Labels that a strategy asked for have other shares
            than the pool, so in active learning ``"even"`` is the safer of the two.
        warmup: share of the steps, in [0, 1], during which the weights of both unlabeled
            terms, not of the rotations, grow from 0.

    Raises:
        InputError: a value out of its range; at the fit, inputs that cannot be mixed or
            rotated, or a learner without a strong look.

    Source:
        Berthelot et al., "ReMixMatch: Semi-Supervised Learning with Distribution Alignment
        and Augmentation Anchoring", ICLR 2020, algorithm 1 and equation 3.
    """

    recent: Tensor
    wanted: Tensor
    name = "remixmatch"
    learns_labels = True
    guesses_labels = True

    def __init__(
        self,
        *,
        strong: int = 8,
        mixed: float = 1.5,
        unmixed: float = 0.5,
        rotation: float = 0.5,
        temperature: float = 0.5,
        beta: float = 0.75,
        shares: str = "labels",
        warmup: float = 1 / 64,
    ) -> None:
        super().__init__()
        require(strong >= 1, "strong", "at least 1", strong)
        for name, weight in (("mixed", mixed), ("unmixed", unmixed), ("rotation", rotation)):
            require_weight(name, weight)
        require(temperature > 0, "temperature", "above 0", temperature)
        require(0 < beta < float("inf"), "beta", "above 0 and finite", beta)
        require(shares in ("labels", "even"), "shares", "'labels' or 'even'", shares)
        require(0 <= warmup <= 1, "warmup", "in [0, 1]", warmup)
        self.strong = strong
        self.mixed = mixed
        self.unmixed = unmixed
        self.rotation = rotation
        self.temperature = temperature
        self.beta = beta
        self.shares = shares
        self.warmup = warmup

    def prepare(self, setting: Setting) -> None:
        """The head that tells rotations, the shares to align to, and even ones for a start."""
        classes = setting.classes
        even = torch.full((classes,), 1 / classes)
        counts = torch.bincount(setting.labels, minlength=classes).float()
        given = self.shares == "labels" and len(setting.labels) > 0
        self.register_buffer("wanted", counts / counts.sum() if given else even, persistent=False)
        self.register_buffer("recent", even.repeat(WINDOW, 1), persistent=False)
        self._mixer = Mixer(self.beta, setting.generator)
        self._turns = torch.Generator()
        self._turns.manual_seed(int(torch.randint(2**62, (1,), generator=setting.generator)))
        if self.rotation:
            self._first = _lies_first(setting.item_shape)
            width = setting.embedding_width
            self.turned = build_empty(lambda: nn.Linear(width, TURNS), setting.generator)

    def align(self, guess: Tensor) -> Tensor:
        """Class distributions (n, C) with the shares there should be; then they are noted."""
        ratio = (self.wanted + _FLOOR) / (self.recent.mean(0) + _FLOOR)
        aligned = guess * ratio
        self.recent.copy_(torch.cat([self.recent[1:], guess.mean(0, keepdim=True)]))
        return aligned / aligned.sum(1, keepdim=True)

    def forward(self, labeled: View, unlabeled: View, step: Step) -> Tensor:
        """The loss, a single number."""
        guess = sharpen(self.align(unlabeled.guess), self.temperature)
        strong = [unlabeled.strong(number) for number in range(1, self.strong + 1)]
        views = [*strong, unlabeled]
        given = F.one_hot(labeled.labels, guess.shape[1]).float()
        inputs = torch.cat([labeled.inputs, *(view.inputs for view in views)])
        inputs, targets = self._mixer.mix(inputs, torch.cat([given, *[guess] * len(views)]))
        losses = soft_cross_entropy(labeled.through(inputs)[0], targets)
        known, grown = len(labeled), ramp(step, self.warmup)
        loss = losses[:known].mean() + self.mixed * grown * losses[known:].mean()
        if self.unmixed:
            logits = unlabeled.through(strong[0].inputs, still=True)[0]
            loss = loss + self.unmixed * grown * soft_cross_entropy(logits, guess).mean()
        if self.rotation:
            loss = loss + self.rotation * self._rotations(strong[0])
        return loss

    def _rotations(self, view: View) -> Tensor:
        """How badly the quarter turns of rotated rows are told, in nats."""
        count, device = len(view), view.inputs.device
        turns = torch.randint(TURNS, (count,), generator=self._turns).to(device)
        places = count * turns + torch.arange(count, device=device)
        inputs = turned(view.inputs, self._first)[places]
        embeddings = view.through(inputs, still=True)[1]
        return F.cross_entropy(self.turned(embeddings).float(), turns)


def _lies_first(item_shape: tuple[int, ...]) -> bool:
    """Whether the channels of square images come first."""
    try:
        first = channels_first(item_shape)
    except InputError as error:
        raise InputError(f"remixmatch rotates images: {error}; or set rotation=0") from error
    height, width = item_shape[1:] if first else item_shape[:2]
    if height != width:
        raise InputError(f"remixmatch rotates square images, got {item_shape}: set rotation=0")
    return first
