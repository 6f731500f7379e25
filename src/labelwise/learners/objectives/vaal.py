"""VAAL: a discriminator tells labeled from unlabeled rows in an autoencoder's latent space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelwise.errors import InputError
from labelwise.learners.networks import build_empty
from labelwise.learners.objectives.autoencoders import (
    ImageAutoencoder,
    Latent,
    Prepared,
    VectorAutoencoder,
)
from labelwise.learners.objectives.base import NETWORK, Objective, Player, Setting, adam_player
from labelwise.learners.objectives.self_supervision import count
from labelwise.learners.objectives.views import View

if TYPE_CHECKING:
    from labelwise.kernels import Rows
    from labelwise.learners.network import NetworkModel

_REDUCTIONS = ("sum", "mean")


def belief_loss(logits: Tensor, labeled: bool) -> Tensor:
    """Cross-entropy of a discriminator's beliefs where all rows are of one kind, averaged.

    Args:
        logits: (n, 1) of the belief that a row is labeled. labeled: what the rows are said to be.

    >>> belief_loss(torch.zeros(3, 1), True)
    tensor(0.6931)
    """
    return F.softplus(-logits if labeled else logits).mean()


class VariationalAdversarial(Objective):
    """The game of variational adversarial active learning, beside the network.

    Two players, neither of which touches the network. The autoencoder minimizes, summed over a
    labeled and an unlabeled minibatch, the mean squared error of what it makes of the rows plus
    ``beta`` times the divergence of its latent distributions, and makes the discriminator take
    both for labeled (times ``adversarial``). The discriminator learns from the means of the latent
    distributions which rows are labeled; its belief is evidence, ``latent_discriminator``.

    Rows are standardized as the network standardizes them. Images get convolutions, all else
    layers. Of three moves the autoencoder makes two, as in the authors' code, where they take
    place within one step of the network; here the discriminator rests at every second step. The
    two learn for as long as the network does, so short fits leave the discriminator undecided.

    Args:
        beta: what the divergence counts, >= 0.
        adversarial: what deceiving the discriminator counts, >= 0.
        divergence: ``"sum"`` over rows and latent entries, beside an error that is a mean, is
            the authors' code: little but the divergence is left to minimize, and rows are told
            apart by what remains. ``"mean"`` divides it by the entries of the minibatch, so that
            both terms belong to one likelihood.
        latent: Z; 32, and 64 for ImageNet.
        width: channels of the first convolution, 128 in the authors' code.
        hidden: width of the layers where rows are no images.
        learning_rate: of both players, by Adam.

    Raises:
        InputError: an option out of range.

    Source:
        Sinha, Ebrahimi & Darrell, "Variational Adversarial Active Learning", ICCV 2019.
        (A much used toolkit tells the discriminator that both kinds are labeled, and asks for
        the rows it is surest are labeled; that picks by chance.)
    """

    name = "vaal"
    learns_labels = False
    gives = ("latent_discriminator",)

    def __init__(
        self,
        *,
        beta: float = 1.0,
        adversarial: float = 1.0,
        divergence: str = "sum",
        latent: int = 32,
        width: int = 128,
        hidden: int = 256,
        learning_rate: float = 5e-4,
    ) -> None:
        super().__init__()
        for name, value in (("beta", beta), ("adversarial", adversarial)):
            if not 0 <= value < float("inf"):
                raise InputError(f"{name} must be a number >= 0, got {value}")
        if divergence not in _REDUCTIONS:
            raise InputError(f"divergence must be one of {', '.join(_REDUCTIONS)}: {divergence!r}")
        for name, size in (("latent", latent), ("width", width), ("hidden", hidden)):
            count(name, size)
        if not 0 < learning_rate < float("inf"):
            raise InputError(f"learning_rate must be positive, got {learning_rate}")
        self.beta, self.adversarial, self.divergence = beta, adversarial, divergence
        self.latent, self.width, self.hidden = latent, width, hidden
        self.learning_rate = learning_rate

    def prepare(self, setting: Setting) -> None:
        """Make the autoencoder and the discriminator."""
        self.prepared = Prepared(setting.network, setting.item_shape)
        shape, latent = self.prepared.shape, self.latent
        image = self.prepared.image

        def autoencoder() -> ImageAutoencoder | VectorAutoencoder:
            if image:
                return ImageAutoencoder(shape, latent, self.width)
            return VectorAutoencoder(shape, latent, self.hidden)

        def discriminator() -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(latent, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1)
            )

        self.autoencoder = build_empty(autoencoder, setting.generator)
        self.discriminator = build_empty(discriminator, setting.generator)
        self._noise = setting.generator

    def players(self) -> Mapping[str, Player]:
        """The autoencoder, which moves first and twice as often, and the discriminator."""
        return {
            "autoencoder": adam_player(self.autoencoder, self.learning_rate),
            "discriminator": adam_player(self.discriminator, self.learning_rate, every=2),
        }

    def forward(self, labeled: View, unlabeled: View) -> dict[str, Tensor]:
        """A loss of each player; of the network none."""
        mine, means = [], []
        for view in (labeled, unlabeled):
            loss, mean = self._reconstruction(view)
            # Both kinds are said to be labeled: the discriminator is to be deceived.
            mine.append(loss + self.adversarial * belief_loss(self.discriminator(mean), True))
            means.append(mean.detach())
        told = [belief_loss(self.discriminator(m), kind) for m, kind in zip(means, (True, False))]
        nothing = torch.zeros((), device=labeled.inputs.device, requires_grad=True)
        return {
            NETWORK: nothing,
            "autoencoder": torch.stack(mine).sum(),
            "discriminator": torch.stack(told).sum(),
        }

    def _reconstruction(self, view: View) -> tuple[Tensor, Tensor]:
        """The loss of what the autoencoder makes of rows, and the means of where they are."""
        x = self.prepared(view.inputs)
        # One row has no variance for batch normalization.
        self.autoencoder.train(len(x) > 1)
        found: Latent = self.autoencoder.encode(x)
        noise = torch.randn(found.mean.shape, generator=self._noise).to(found.mean)
        made = self.autoencoder.decode(found.mean + noise * (0.5 * found.log_variance).exp())
        apart = found.divergence()
        if self.divergence == "mean":
            apart = apart / x.numel()
        return F.mse_loss(made, x) + self.beta * apart, found.mean

    def beliefs(self, inputs: Tensor) -> Tensor:
        """(n,) in [0, 1]: how sure it is that each of (n, ...) inputs is a labeled row."""
        where = self.autoencoder.encode(self.prepared(inputs))
        belief: Tensor = self.discriminator(where.mean)[:, 0].float().sigmoid()
        return belief

    def evidence(self, model: NetworkModel, inputs: Rows) -> Mapping[str, Callable[[], object]]:
        """What the discriminator believes of each row, (N,)."""

        def latent_discriminator() -> Tensor:
            return model.per_row(inputs, lambda given, logits, embeddings: self.beliefs(given))

        return {"latent_discriminator": latent_discriminator}
