"""One encoded image to RGB pixels, whatever its format, depth, palette or orientation."""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from labelwise.errors import DataError, InputError

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]
"""Height and width, in pixels."""

BROKEN: tuple[type[Exception], ...] = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on damaged files."""


def check_size(size: int | tuple[int, int] | None) -> Size | None:
    """A requested size as (height, width); an integer asks for a square.

    Raises:
        InputError: not one or two integers >= 1.

    >>> check_size(32)
    (32, 32)
    """
    if size is None:
        return None
    pair = size if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2 or not all(isinstance(p, int | np.integer) and p >= 1 for p in pair):
        raise InputError(f"size must be an integer or (height, width), both >= 1, got {size!r}")
    return int(pair[0]), int(pair[1])


def decode(source: bytes | NDArray[np.uint8] | Image.Image, size: Size | None) -> Image.Image:
    """An image as upright RGB of 8 bits.

    EXIF orientation is applied; grey becomes three equal channels; palettes are looked up;
    transparent parts are laid over white; 16-bit grey is divided by 257. Of an animation or a
    file of several pages the first counts.

    Args:
        source: the bytes of a file, pixels (H, W) or (H, W, 1 | 3 | 4) of uint8, or an image.
        size: (height, width) to scale to: the image is scaled until it covers that size, and
            what sticks out is cut off on both sides alike. JPEG files are decoded at the least
            sufficient scale.

    Raises:
        DataError: not an image, damaged, or of pixels without a known range; says why.
    """
    from PIL import Image

    try:
        if isinstance(source, bytes):
            image = _fast_jpeg(source, size) or _open(source, size)
        elif isinstance(source, np.ndarray):
            image = Image.fromarray(as_rgb(source if source.ndim == 3 else source[..., None]))
        else:
            image = source
            image.load()
        return _fit(_upright_rgb(image), size)
    except _failures() as error:
        raise DataError(_reason(error)) from error


def as_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels (..., H, W, C) with C of 1, 3 or 4 as (..., H, W, 3).

    A fourth channel is opacity: the image is laid over white.
    """
    if pixels.shape[-1] == 1:
        return np.repeat(pixels, 3, axis=-1)
    if pixels.shape[-1] == 3:
        return pixels
    opacity = pixels[..., 3:].astype(np.uint16)
    color = pixels[..., :3].astype(np.uint16)
    return ((color * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


@cache
def _failures() -> tuple[type[Exception], ...]:
    from PIL import Image

    return (*BROKEN, Image.DecompressionBombError)


def _open(encoded: bytes, size: Size | None) -> Image.Image:
    from PIL import Image

    if not encoded:
        raise ValueError("the file is empty")
    image = Image.open(io.BytesIO(encoded))
    if size is not None and image.format == "JPEG":
        # A square of the longer side is enough for an image that lies on its side, too.
        image.draft(None, (max(size), max(size)))
    image.load()
    return image


def _upright_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image, ImageOps

    if "exif" in image.info:  # Pillow itself turns TIFF files
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray(as_rgb(((wide + 128) // 257).astype(np.uint8)[..., None]))
    if image.mode in ("I", "F"):
        raise ValueError(
            f"pixels of mode {image.mode!r} (32 bits) have no known range; "
            "save the image with 8 or 16 bits"
        )
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return Image.fromarray(as_rgb(np.asarray(image.convert("RGBA"))))
    return image.convert("RGB")


def _fit(image: Image.Image, size: Size | None) -> Image.Image:
    from PIL import Image, ImageOps

    if size is None or image.size == (size[1], size[0]):
        return image
    return ImageOps.fit(image, (size[1], size[0]), method=Image.Resampling.BICUBIC)


@cache
def _has_simplejpeg() -> bool:
    return importlib.util.find_spec("simplejpeg") is not None


def _fast_jpeg(encoded: bytes, size: Size | None) -> Image.Image | None:
    """The image through simplejpeg where that is installed and surely gives Pillow's answer."""
    if not encoded.startswith(b"\xff\xd8\xff") or not _has_simplejpeg():
        return None
    import simplejpeg
    from PIL import Image

    if b"Exif\x00\x00" in encoded[:65536]:
        return None
    try:
        if simplejpeg.decode_jpeg_header(encoded)[2] not in ("YCbCr", "Gray", "RGB"):
            return None
        least = {} if size is None else {"min_height": max(size), "min_width": max(size)}
        return Image.fromarray(simplejpeg.decode_jpeg(encoded, "RGB", **least))
    except ValueError:
        return None  # Pillow decides whether the file is damaged, and says how


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if "cannot identify image file" in text:
        return "not an image of a known format"
    return text or type(error).__name__
