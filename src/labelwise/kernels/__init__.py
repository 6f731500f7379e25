"""Floor 0: geometries and array algorithms. Nothing here knows of learning."""

from labelwise.kernels.noise import Generator, derive, numpy_stream, torch_stream
from labelwise.kernels.rows import Rows

__all__ = ["Generator", "Rows", "derive", "numpy_stream", "torch_stream"]
