"""The offline image encoder: features of k-means patches, good without internet and GPU."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from labelwise.errors import DataError, InputError
from labelwise.kernels import fast_mm, numpy_stream, torch_stream
from labelwise.learners.base import Progress
from labelwise.learners.patch_filters import MIDDLE, Filters, learn_filters, windows

if TYPE_CHECKING:
    from labelwise.pools import Pool

VERSION = 1
"""Changes when the same options would give other features."""

CHUNK = 512
"""Images that are decoded at once."""

FIT_IMAGES = 10_000
"""Filters are learned from patches of at most this many images."""

BLOCK_BYTES = {"cpu": 12 << 20, "cuda": 1 << 30}
"""Responses computed at once: on a CPU they stay in the last-level cache until they are pooled."""

Precision = Literal["bfloat16", "float32"]


class PatchEncoder:
    """Single-layer k-means patch features, the same for an image and its mirror image.

    Every patch is normalized for contrast, whitened and compared with F filters and their F
    mirror images; a response is ``max(0, inner product - threshold)``. Responses are averaged
    over ``pool x pool`` cells, those of mirrored filters over mirrored cells, each pair is added
    up, and the root taken: ``pool**2 * F`` features. On CIFAR-10 with 5,000 labels the contrast
    normalization is worth 4 points of a ridge classifier's accuracy, the root 1, the pairing 3.

    One matrix product does nearly all of the work. It runs in bfloat16 where the processor
    multiplies that natively, else in float32, never in float16.

    Args:
        filters: F, filter pairs.
        patch: side of a patch in pixels.
        stride: pixels from one patch to the next; 2 is four times less work for about 2 points.
        pool: cells along each side of the image.
        size: images are scaled to ``size x size`` first. Twice the size wants twice the stride;
            larger images are scaled down, for their details are beyond a single layer.
        threshold: what a response must exceed.
        components: whitened coordinates kept of the ``3 * patch**2``. With the constant that
            carries the threshold, 63 make 64 columns, which processors multiply fastest.
        regularization: added to the variance of each coordinate before whitening.
        contrast: added to a patch's variance, in squared units of 0..255.
        samples: patches to learn from.
        iterations: of k-means.
        precision: of the large product; None takes what is fastest on the device.
        device: where to encode, such as ``"cuda"``; None takes a GPU when there is one.

    Raises:
        InputError: options that do not fit each other.

    Source:
        Coates, Lee & Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature
        Learning", AISTATS 2011. Signed pairs, root and pooling 3 x 3 are ours.
    """

    def __init__(
        self,
        filters: int = 800,
        patch: int = 6,
        stride: int = 1,
        pool: int = 3,
        *,
        size: int = 32,
        threshold: float = 0.5,
        components: int = 63,
        regularization: float = 1.0,
        contrast: float = 10.0,
        samples: int = 200_000,
        iterations: int = 8,
        precision: Precision | None = None,
        device: str | None = None,
    ) -> None:
        counts = {
            "filters": filters, "patch": patch, "stride": stride, "pool": pool, "size": size,
            "components": components, "samples": samples, "iterations": iterations,
        }  # fmt: skip
        for option, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{option} must be a positive integer, got {value!r}")
        for option, amount in (("regularization", regularization), ("contrast", contrast)):
            if not amount > 0:
                raise InputError(f"{option} must be positive, got {amount!r}")
        if size < patch or (size - patch) % stride:
            raise InputError(
                f"size - patch must be a multiple of stride, or mirrored images have other "
                f"patches; got size={size}, patch={patch}, stride={stride}"
            )
        self._positions = (size - patch) // stride + 1
        if pool > self._positions:
            raise InputError(
                f"pool must be at most {self._positions}, the patches along a side, got {pool}"
            )
        if precision not in (None, "bfloat16", "float32"):
            raise InputError(f"precision must be 'bfloat16' or 'float32', got {precision!r}")
        self._options: dict[str, Any] = counts | {
            "components": min(components, 3 * patch * patch),
            "threshold": float(threshold),
            "regularization": float(regularization),
            "contrast": float(contrast),
        }
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._precision: Precision = precision or fastest_precision(self._device)
        self._filters: Filters | None = None

    @classmethod
    def fast(cls, **options: Any) -> Self:
        """The encoder ``"patches-fast"``: stride 2."""
        return cls(**{"stride": 2, **options})

    @property
    def name(self) -> str:
        """``"patches"``, or ``"patches-fast"`` with a stride above 1."""
        return "patches" if self._options["stride"] == 1 else "patches-fast"

    def signature(self) -> dict[str, Any]:
        """Every option that changes a feature, and the version of the encoding."""
        options = {**self._options, "precision": self._precision}
        return {"name": self.name, "version": VERSION, **options}

    def item_shape(self) -> tuple[int]:
        """``(pool**2 * filters,)``."""
        return (self._options["pool"] ** 2 * self._options["filters"],)

    def dtype(self) -> np.dtype[Any]:
        """float16: features lie in 0..3 or so, and its rounding changes no accuracy."""
        return np.dtype(np.float16)

    def fit(self, pool: Pool | NDArray[np.uint8], *, seed: int) -> Self:
        """Learn the filters from patches of some images of the pool; no label is looked at.

        Args:
            pool: an image pool, or uint8 images (N, H, W, 3).
            seed: decides which patches are looked at.

        Raises:
            InputError: no image, or a pool of another kind.
            DataError: an image that cannot be read.
        """
        count = len(pool)
        if count == 0:
            raise InputError("pool is empty: the patches encoder learns from at least one image")
        patch, positions = self._options["patch"], self._positions
        numbers = numpy_stream(seed, "patches", "sample")
        rows = np.sort(numbers.choice(count, min(count, FIT_IMAGES), replace=False))
        shape = (3, self._options["samples"])
        image, top, left = torch.from_numpy(
            (numbers.random(shape) * [[len(rows)], [positions], [positions]]).astype(np.int64)
        )
        pixels = torch.from_numpy(_images(pool, rows, self._options["size"]))
        patches = windows(pixels, patch, self._options["stride"])[image, top, left]
        self._filters = learn_filters(
            patches.reshape(len(image), -1).float() - MIDDLE,
            self._options["filters"],
            components=self._options["components"],
            regularization=self._options["regularization"],
            contrast=self._options["contrast"],
            iterations=self._options["iterations"],
            generator=torch_stream(seed, "patches", "kmeans"),
        )
        return self

    def encode(
        self,
        pool: Pool | NDArray[np.uint8],
        *,
        out: NDArray[Any] | None = None,
        progress: Progress | None = None,
    ) -> NDArray[Any]:
        """Features of every image.

        Args:
            pool: an image pool, or uint8 images (N, H, W, 3).
            out: (N, D) to write to, of any floating-point dtype; by default a new float16 array.
            progress: called with images done and images in all.

        Returns:
            (N, D), not negative.

        Raises:
            InputError: not fitted, a pool of another kind, or ``out`` of another shape.
            DataError: an image that cannot be read.
        """
        count, shape = len(pool), (len(pool), *self.item_shape())
        if out is None:
            out = np.empty(shape, self.dtype())
        elif out.shape != shape:
            raise InputError(f"out must have shape {shape}, got {out.shape}")
        engine = _Engine(self._fitted(), self._options, self._precision, self._device)
        done = 0
        with torch.inference_mode():
            for start in range(0, count, CHUNK):
                rows = np.arange(start, min(start + CHUNK, count))
                pixels = torch.from_numpy(_images(pool, rows, self._options["size"]))
                for features in engine.run(pixels):
                    out[done : done + len(features)] = features.cpu().numpy()
                    done += len(features)
                if progress:
                    progress(done, count)
        return out

    def save(self, folder: Path | str) -> None:
        """Write ``encoder.safetensors`` and ``encoder.json`` to a folder, made when absent."""
        from safetensors.torch import save_file

        filters, folder = self._fitted(), Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"version": VERSION, "options": self._options}, indent=1)
        aside = folder / ".encoder.safetensors"
        save_file(filters._asdict(), aside)
        os.replace(aside, folder / "encoder.safetensors")
        aside = folder / ".encoder.json"
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, folder / "encoder.json")

    @classmethod
    def load(
        cls, folder: Path | str, *, precision: Precision | None = None, device: str | None = None
    ) -> Self:
        """A fitted encoder from a folder that `save` wrote.

        Raises:
            DataError: files that are missing, damaged or of another version.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        try:
            kept = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
            if kept["version"] != VERSION:
                raise DataError(
                    f"the encoder in {str(folder)!r} is of version {kept['version']}, and this "
                    f"labelwise reads version {VERSION}; fit it anew"
                )
            encoder = cls(**kept["options"], precision=precision, device=device)
            encoder._filters = Filters(**load_file(folder / "encoder.safetensors"))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(
                f"{str(folder)!r} holds no patches encoder: {error}; name a folder that "
                "PatchEncoder.save wrote"
            ) from error
        return encoder

    def _fitted(self) -> Filters:
        if self._filters is None:
            raise InputError("the patches encoder is not fitted; call fit(pool, seed=0) first")
        return self._filters


def fastest_precision(device: torch.device) -> Precision:
    """bfloat16 where the device multiplies it natively, else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return "bfloat16" if native is not None and native() else "float32"


class _Engine:
    """The arithmetic, with buffers that are used for every block of images.

    Memory that is allocated for each block costs as much as the arithmetic on it.
    """

    def __init__(
        self, filters: Filters, options: dict[str, Any], precision: Precision, device: torch.device
    ) -> None:
        self.options, self.device = options, device
        self.filters = Filters(*(part.to(device) for part in filters))
        self.positions = (options["size"] - options["patch"]) // options["stride"] + 1
        dtype = getattr(torch, precision)
        pairs = torch.cat([filters.directions, filters.directions * filters.signs])
        threshold = torch.full((len(pairs), 1), -options["threshold"])
        # A constant coordinate carries the threshold; (K + 1, 2F).
        self.bank = torch.cat([pairs, threshold], 1).T.contiguous().to(device, dtype)
        one = self.positions**2
        budget = BLOCK_BYTES.get(device.type, BLOCK_BYTES["cpu"])
        self.images = max(1, budget // (one * len(pairs) * dtype.itemsize))
        rows = self.images * one
        self.patches = torch.empty(rows, len(filters.projection), device=device)
        self.coordinates = torch.ones(rows, len(self.bank), dtype=dtype, device=device)
        self.responses = torch.empty(rows, len(pairs), dtype=dtype, device=device)

    def run(self, pixels: Tensor) -> Iterator[Tensor]:
        """Features (b, D) float32 of block after block of (n, S, S, 3) uint8 images."""
        for block in pixels.split(self.images):
            yield self._features(block.to(self.device).float() - MIDDLE)

    def _features(self, images: Tensor) -> Tensor:
        n, side, pairs = len(images), self.positions, len(self.filters.directions)
        patch, stride = self.options["patch"], self.options["stride"]
        rows = n * side * side
        patches = self.patches[:rows]
        patches.view(n, side, side, patch, 3 * patch).copy_(windows(images, patch, stride))
        coordinates = fast_mm(patches, self.filters.projection)
        coordinates.mul_(self._inverse_deviation(images).view(rows, 1))
        coordinates.sub_(self.filters.offset)
        whitened, responses = self.coordinates[:rows], self.responses[:rows]
        whitened[:, :-1] = coordinates
        torch.mm(whitened, self.bank, out=responses).relu_()
        cells = functional.adaptive_avg_pool2d(
            responses.view(n, side, side, 2 * pairs).permute(0, 3, 1, 2), self.options["pool"]
        ).float()
        straight, turned = cells.split(pairs, 1)
        return ((straight + turned.flip(3)) / 2).sqrt().reshape(n, -1)

    def _inverse_deviation(self, images: Tensor) -> Tensor:
        """(n, o, o): one over each patch's standard deviation, from sums of pixels and squares.

        Pixels are integers, so that the sums are exact and their difference is as good.
        """
        patch, stride = self.options["patch"], self.options["stride"]
        moments = torch.stack([images.mean(3), images.square().mean(3)], 1)
        mean, square = functional.avg_pool2d(moments, patch, stride).unbind(1)
        variance = (square - mean.square()).clamp(min=0)
        return (variance + self.options["contrast"]).rsqrt()


def _images(
    pool: Pool | NDArray[np.uint8], rows: NDArray[np.int64], size: int
) -> NDArray[np.uint8]:
    """Some images as contiguous (n, size, size, 3) uint8."""
    if not isinstance(pool, np.ndarray):
        read = getattr(pool, "images", None)
        if read is None:
            raise InputError(
                f"the patches encoder reads images, and this is a pool of kind {pool.kind}"
            )
        return np.ascontiguousarray(read(rows, size=size))
    if pool.dtype != np.uint8 or pool.ndim != 4 or pool.shape[3] != 3:
        raise InputError(
            f"images must be uint8 of shape (N, H, W, 3), got {pool.dtype} of shape {pool.shape}"
        )
    pixels = pool[rows]
    if pixels.shape[1:3] != (size, size):
        scaled = functional.interpolate(
            torch.from_numpy(pixels).permute(0, 3, 1, 2), (size, size), mode="bilinear",
            antialias=True,
        )  # fmt: skip
        pixels = scaled.permute(0, 2, 3, 1).numpy()
    return np.ascontiguousarray(pixels)
