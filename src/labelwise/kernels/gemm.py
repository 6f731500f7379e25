"""Matrix products in true single precision, through the fastest route a machine has.

On processors without Intel's name the library behind ``torch.mm`` takes a slower path than
oneDNN's, which torch reaches only through its fused linear layer; the ratio is about two.
``python -m perf.gemm`` measures both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

SINGLE_ROUNDOFF = 2.0**-24
DOUBLE_ROUNDOFF = 2.0**-53

_Linear = Callable[[Tensor, Tensor, Tensor | None, str, list[float], str], Tensor]


@cache
def _fused_linear() -> _Linear | None:
    """torch's oneDNN linear layer, where this build has one; its signature is checked once."""
    if not torch.backends.mkldnn.is_available() or not hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    ):
        return None
    op: _Linear = torch.ops.mkldnn._linear_pointwise
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    try:
        probe = op(a, a, torch.tensor([1.0, -1.0]), "none", [], "")
    except (RuntimeError, TypeError):
        return None  # another build's private signature: torch.mm is exact too, only slower
    return op if torch.equal(probe, torch.tensor([[6.0, 10.0], [12.0, 24.0]])) else None


def linear(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """``a @ b.T + bias``, rounded only as single (or the inputs' own) precision must.

    Args:
        a: (N, K). b: (M, K). bias: (M,) or None. All of one dtype, on one device.

    Returns:
        (N, M), newly allocated.

    >>> linear(torch.ones(1, 2), torch.tensor([[1.0, 2.0]]), torch.tensor([0.5]))
    tensor([[3.5000]])
    """
    fused = _fused_linear()
    if fused is not None and a.device.type == "cpu" and a.dtype == torch.float32 and len(a):
        return fused(a, b.contiguous(), bias, "none", [], "")
    if bias is None:
        return a @ b.T
    return torch.addmm(bias, a, b.T)


def fast_mm(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` for (N, K) and (K, M), by the same route as `linear`."""
    return linear(a, b.T)


def single_roundoff(device: torch.device) -> float:
    """Largest relative rounding of one operand in a float32 product on this device.

    2**-24, unless the caller's process has allowed shorter formats: TF32 on CUDA, bfloat16 on
    CPU. Kernels widen their error bounds accordingly, so picks stay exact.
    """
    if torch.get_float32_matmul_precision() != "highest":
        return 2.0**-8
    if device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        return 2.0**-11
    return SINGLE_ROUNDOFF
