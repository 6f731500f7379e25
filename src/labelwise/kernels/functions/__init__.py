"""Set functions to maximize, each with its marginal gains; `kernels.greedy` picks with them."""

from labelwise.kernels.functions.base import SetFunction
from labelwise.kernels.functions.graph_cut import DisparitySum, GraphCut, GraphCutCG, GraphCutMI
from labelwise.kernels.functions.log_determinant import (
    LogDeterminant,
    LogDeterminantCG,
    LogDeterminantCMI,
    LogDeterminantMI,
)

__all__ = [
    "DisparitySum",
    "GraphCut",
    "GraphCutCG",
    "GraphCutMI",
    "LogDeterminant",
    "LogDeterminantCG",
    "LogDeterminantCMI",
    "LogDeterminantMI",
    "SetFunction",
]
