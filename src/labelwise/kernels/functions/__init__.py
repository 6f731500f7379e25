"""Set functions to maximize, each with its marginal gains; `kernels.greedy` picks with them."""

from labelwise.kernels.functions.base import SetFunction
from labelwise.kernels.functions.concave_over_modular import ConcaveOverModular
from labelwise.kernels.functions.facility_location import (
    FacilityLocation,
    FacilityLocationCG,
    FacilityLocationCMI,
    FacilityLocationQMI,
    FacilityLocationVMI,
)
from labelwise.kernels.functions.feature_based import FeatureBased
from labelwise.kernels.functions.graph_cut import DisparitySum, GraphCut, GraphCutCG, GraphCutMI
from labelwise.kernels.functions.log_determinant import (
    LogDeterminant,
    LogDeterminantCG,
    LogDeterminantCMI,
    LogDeterminantMI,
)
from labelwise.kernels.functions.saturated_coverage import SaturatedCoverage

__all__ = [
    "ConcaveOverModular",
    "DisparitySum",
    "FacilityLocation",
    "FacilityLocationCG",
    "FacilityLocationCMI",
    "FacilityLocationQMI",
    "FacilityLocationVMI",
    "FeatureBased",
    "GraphCut",
    "GraphCutCG",
    "GraphCutMI",
    "LogDeterminant",
    "LogDeterminantCG",
    "LogDeterminantCMI",
    "LogDeterminantMI",
    "SaturatedCoverage",
    "SetFunction",
]
