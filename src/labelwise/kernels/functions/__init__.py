"""Set functions to maximize, each with its marginal gains; `kernels.greedy` picks with them."""

from labelwise.kernels.functions.base import SetFunction
from labelwise.kernels.functions.concave_over_modular import ConcaveOverModular
from labelwise.kernels.functions.feature_based import FeatureBased
from labelwise.kernels.functions.graph_cut import DisparitySum, GraphCut, GraphCutCG, GraphCutMI
from labelwise.kernels.functions.log_determinant import (
    LogDeterminant,
    LogDeterminantCG,
    LogDeterminantCMI,
    LogDeterminantMI,
)

__all__ = [
    "ConcaveOverModular",
    "DisparitySum",
    "FeatureBased",
    "GraphCut",
    "GraphCutCG",
    "GraphCutMI",
    "LogDeterminant",
    "LogDeterminantCG",
    "LogDeterminantCMI",
    "LogDeterminantMI",
    "SetFunction",
]
