"""Variational autoencoders of rows: of images by convolutions, of anything else by layers."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelwise.errors import InputError
from labelwise.learners.images import channels_first
from labelwise.learners.networks import Standardize


class Latent(NamedTuple):
    """Where in the latent space rows are: a normal distribution each.

    Attributes:
        mean: (n, Z). log_variance: (n, Z).
    """

    mean: Tensor
    log_variance: Tensor

    def divergence(self) -> Tensor:
        """Divergence from the standard normal distribution in nats, summed over everything.

        >>> Latent(torch.ones(3, 2), torch.zeros(3, 2)).divergence()
        tensor(3.)
        """
        mean, log_variance = self
        return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()


class Prepared(nn.Module):
    """Rows as an autoencoder wants them: standardized as the network standardizes them.

    Images come out channels first. Without a standardization of the network's, bytes are divided
    by 255 and other numbers stay as they are.

    Args:
        network: whose standardization is copied.
        item_shape: of an input row.
    """

    def __init__(self, network: nn.Module, item_shape: tuple[int, ...]) -> None:
        super().__init__()
        try:
            self._swap = not channels_first(item_shape)
            self.image = True
        except InputError:
            self.image = False
        self.shape: tuple[int, ...] = (math.prod(item_shape),)
        if self.image:
            self.shape = item_shape
            if self._swap:
                self.shape = (item_shape[2], item_shape[0], item_shape[1])
        self.standardize: Standardize | None = None
        for module in network.modules():
            if isinstance(module, Standardize) and module.mean.ndim == len(self.shape):
                self.standardize = copy.deepcopy(module)
                break

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, ...) inputs to (n, ...) float32 of `shape`."""
        x = inputs.flatten(1) if not self.image else inputs
        if self.image and self._swap:
            x = x.permute(0, 3, 1, 2)
        if self.standardize is not None:
            standardized: Tensor = self.standardize(x)
            return standardized
        return x.float() / 255 if x.dtype == torch.uint8 else x.float()


class ImageAutoencoder(nn.Module):
    """Convolutions of stride 2 with batch normalization, up to four, and their mirror image.

    Args:
        shape: (channels, H, W).
        latent: Z.
        width: channels of the first convolution; each next one has twice as many.

    Source:
        The layers of Sinha et al., ICCV 2019, with width 128 for 32 x 32 pixels, but that the
        mirror image has as many of them; theirs begins at 4 x 4 and has one less. Smaller images
        have fewer; sides are filled up with zeros to what can be halved.
    """

    def __init__(self, shape: tuple[int, ...], latent: int, width: int) -> None:
        super().__init__()
        channels, height, wide = shape
        depth = max(1, min(4, int(math.log2(max(1, min(height, wide))))))
        unit = 1 << depth
        self._size = height, wide
        self._fill = (0, -wide % unit, 0, -height % unit)
        self._small = (-(-height // unit), -(-wide // unit))
        widths = [width << place for place in range(depth)]
        down: list[nn.Module] = []
        for ins, outs in zip([channels, *widths], widths):
            down += [nn.Conv2d(ins, outs, 4, 2, 1, bias=False), nn.BatchNorm2d(outs), nn.ReLU()]
        self.down = nn.Sequential(*down, nn.Flatten())
        inner = widths[-1] * math.prod(self._small)
        self.mean, self.log_variance = nn.Linear(inner, latent), nn.Linear(inner, latent)
        self.inflate = nn.Linear(latent, inner)
        up: list[nn.Module] = []
        for ins, outs in zip(reversed(widths), [*reversed(widths[:-1]), width]):
            up += [nn.ConvTranspose2d(ins, outs, 4, 2, 1, bias=False), nn.BatchNorm2d(outs)]
            up.append(nn.ReLU())
        self.up = nn.Sequential(*up, nn.Conv2d(width, channels, 1))

    def encode(self, x: Tensor) -> Latent:
        """Where (n, channels, H, W) images are."""
        inner = self.down(F.pad(x, self._fill))
        return Latent(self.mean(inner), self.log_variance(inner))

    def decode(self, z: Tensor) -> Tensor:
        """(n, channels, H, W) images of (n, Z) places."""
        x = self.inflate(z)
        x = self.up(x.reshape(len(x), -1, *self._small))
        return x[:, :, : self._size[0], : self._size[1]]


class VectorAutoencoder(nn.Module):
    """Two hidden layers of ReLU each way.

    Args:
        shape: (D,).
        latent: Z.
        width: of the hidden layers.
    """

    def __init__(self, shape: tuple[int, ...], latent: int, width: int) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Linear(shape[0], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.mean, self.log_variance = nn.Linear(width, latent), nn.Linear(width, latent)
        self.up = nn.Sequential(
            nn.Linear(latent, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, shape[0]),
        )

    def encode(self, x: Tensor) -> Latent:
        """Where (n, D) rows are."""
        inner = self.down(x)
        return Latent(self.mean(inner), self.log_variance(inner))

    def decode(self, z: Tensor) -> Tensor:
        """(n, D) rows of (n, Z) places."""
        x: Tensor = self.up(z)
        return x
