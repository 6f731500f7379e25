"""Small pictures and files that the tests of pools share."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """An image of noise: ``picture(seed, height, width)``."""

    def make(seed: int = 0, height: int = 6, width: int = 8) -> Image.Image:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    return make


@pytest.fixture
def png(picture) -> Callable[..., bytes]:
    """The bytes of such an image as PNG."""

    def make(seed: int = 0, height: int = 6, width: int = 8) -> bytes:
        buffer = io.BytesIO()
        picture(seed, height, width).save(buffer, "PNG")
        return buffer.getvalue()

    return make


@pytest.fixture
def folder(tmp_path: Path, png) -> Callable[[list[str]], Path]:
    """A folder with a PNG at each path."""

    def make(paths: list[str]) -> Path:
        root = tmp_path / "photos"
        for seed, path in enumerate(paths):
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(seed))
        return root

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """A file with a content: ``write("a.csv", "x,y\\n")``."""

    def make(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make
