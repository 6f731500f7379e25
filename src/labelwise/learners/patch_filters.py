"""Filters for image patches, learned without labels: whitening, then spherical k-means.

Patches are 32-bit floats in pixel units, minus 128. A patch is made comparable by subtracting its
own mean and dividing by its own standard deviation, then whitened. Both steps are linear but for
one number a patch, so an encoder applies them as one matrix product and one multiplication.

Filters come in pairs that mirror each other. The whitening basis is built from patterns that are
even or odd from left to right, so in it a mirrored patch is the same vector with the signs of the
odd coordinates changed.

Source:
    Coates, Lee & Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning",
    AISTATS 2011; spherical k-means: Coates & Ng, "Learning Feature Representations with
    K-means", 2012. The pairing is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from labelwise.kernels import fast_mm, linear

MIDDLE = 128.0
"""Subtracted from pixels before anything else, so that sums stay small."""

CHUNK = 8192
"""Patches that are assigned to filters at once."""


class Filters(NamedTuple):
    """What turns a patch into responses; d numbers a patch, K coordinates, F pairs.

    A patch x with standard deviation s has coordinates ``z = (x @ projection) / s - offset``; a
    filter answers ``z @ direction``, its mirrored twin ``(z * signs) @ direction``.

    Attributes:
        projection: (d, K) float32; its columns sum to zero, which subtracts a patch's mean.
        offset: (K,) float32.
        signs: (K,) float32, -1 for the coordinates that mirroring negates, else 1.
        directions: (F, K) float32 of length one.
    """

    projection: Tensor
    offset: Tensor
    signs: Tensor
    directions: Tensor


def windows(images: Tensor, patch: int, stride: int) -> Tensor:
    """Every patch of some images, as a view.

    Args:
        images: (n, S, S, 3), contiguous.
        patch: side of a patch, at most S. stride: pixels from one patch to the next.

    Returns:
        (n, o, o, patch, 3 * patch) with o = (S - patch) // stride + 1.

    >>> windows(torch.arange(27).view(1, 3, 3, 3), 2, 1)[0, 0, 1, 0]
    tensor([3, 4, 5, 6, 7, 8])
    """
    n, size, _, channels = images.shape
    count = (size - patch) // stride + 1
    image, row, column, _ = images.stride()
    return images.as_strided(
        (n, count, count, patch, patch * channels),
        (image, row * stride, column * stride, row, 1),
    )


def contrast_normalized(patches: Tensor, contrast: float) -> Tensor:
    """Patches with mean 0 and standard deviation near 1.

    Args:
        patches: (n, d).
        contrast: added to the variance, in squared pixel units, so that flat patches stay flat.

    >>> contrast_normalized(torch.tensor([[-3.0, 3.0]]), 7.0)
    tensor([[-0.7500,  0.7500]])
    """
    patches = patches - patches.mean(1, keepdim=True)
    return patches / (patches.square().mean(1, keepdim=True) + contrast).sqrt()


def mirrored(patch: int) -> Tensor:
    """(3 * patch**2,) int64: where each number of a patch goes when left and right are swapped."""
    return torch.arange(3 * patch * patch).view(patch, patch, 3).flip(1).reshape(-1)


def learn_filters(
    patches: Tensor,
    count: int,
    *,
    components: int,
    regularization: float,
    contrast: float,
    iterations: int,
    generator: torch.Generator,
) -> Filters:
    """Learn a whitening and pairs of filters.

    Args:
        patches: (n, 3 * patch**2) float32, n >= 1, pixels minus `MIDDLE`.
        count: F, pairs of filters.
        components: K, whitened coordinates to keep, those of the largest variance.
        regularization: added to every variance before whitening; patches have variance near 1.
        contrast: as in `contrast_normalized`.
        iterations: of k-means.
        generator: for the first filters, and to replace a filter that nothing chose.
    """
    patch = int((patches.shape[1] // 3) ** 0.5)
    patches = contrast_normalized(patches, contrast)
    basis, offset, signs = _whitening(patches, mirrored(patch), components, regularization)
    coordinates = fast_mm(patches, basis) - offset
    directions = _paired_kmeans(coordinates, signs, count, iterations, generator)
    # Subtracting a patch's mean before a product is subtracting the columns' means once.
    return Filters(basis - basis.mean(0), offset, signs, directions)


def _whitening(
    patches: Tensor, mirror: Tensor, components: int, regularization: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Basis (d, K), offset (K,) and mirror signs (K,) of the regularized whitening.

    The law of patches is taken to be the same when mirrored, which makes the covariance of even
    and odd patterns zero; each block is diagonalized by itself.
    """
    mean = patches.mean(0).double()
    mean = (mean + mean[mirror]) / 2
    centered = patches.double() - mean
    covariance = centered.T @ centered / len(patches)
    own = torch.arange(len(mirror))
    left, middle = own[own < mirror], own[own == mirror]
    identity = torch.eye(len(mirror), dtype=torch.float64)
    half = 0.5**0.5
    even = torch.cat([half * (identity[left] + identity[mirror[left]]), identity[middle]])
    odd = half * (identity[left] - identity[mirror[left]])
    vectors, variances, signs = [], [], []
    for block, sign in ((even, 1.0), (odd, -1.0)):
        values, inside = torch.linalg.eigh(block @ covariance @ block.T)
        vectors.append(inside.T @ block)
        variances.append(values.clamp(min=0))
        signs.append(torch.full_like(values, sign))
    variance = torch.cat(variances)
    kept = variance.argsort(descending=True, stable=True)[:components]
    basis = (torch.cat(vectors)[kept] / (variance[kept, None] + regularization).sqrt()).T
    return basis.float().contiguous(), (mean @ basis).float(), torch.cat(signs)[kept].float()


def _paired_kmeans(
    points: Tensor, signs: Tensor, count: int, iterations: int, generator: torch.Generator
) -> Tensor:
    """Directions (F, K) such that each point is near one of them or of their mirror images."""
    directions = _unit(_draw(points, count, generator))
    for _ in range(iterations):
        sums = torch.zeros_like(directions)
        sizes = torch.zeros(count)
        # The inner product with a direction is even + odd, with its mirror image even - odd.
        even, odd = (directions * (signs > 0)).contiguous(), (directions * (signs < 0)).contiguous()
        for block in points.split(CHUNK):
            straight, turned = linear(block, even), linear(block, odd)
            nearest = (straight + turned.abs()).argmax(1)
            turn = turned.gather(1, nearest[:, None]) < 0
            sums.index_add_(0, nearest, torch.where(turn, block * signs, block))
            sizes.index_add_(0, nearest, torch.ones(len(block)))
        fresh = _draw(points, count, generator)
        directions = _unit(torch.where((sizes > 0)[:, None], sums, fresh))
    return directions


def _draw(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return points[torch.randint(len(points), (count,), generator=generator)]


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)
