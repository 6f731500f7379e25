"""Floor 6: does a strategy pay off? Simulated annotation, its results and their statistics."""

from labelwise.benchmark.curves import Curve, aubc, labels_needed
from labelwise.benchmark.efficiency import Efficiency, label_efficiency
from labelwise.benchmark.plan import Plan, StrategyEntry, parse_strategies, parse_strategy
from labelwise.benchmark.preparation import StrategyLike, default_cache
from labelwise.benchmark.progress import Event, Listener
from labelwise.benchmark.results import TIMINGS, FullData, Results, schema
from labelwise.benchmark.simulate import simulate
from labelwise.benchmark.statistics import (
    Comparison,
    Paired,
    compare,
    detectable_effect,
    holm,
    paired,
    signed_rank,
)

__all__ = [
    "TIMINGS",
    "Comparison",
    "Curve",
    "Efficiency",
    "Event",
    "FullData",
    "Listener",
    "Paired",
    "Plan",
    "Results",
    "StrategyEntry",
    "StrategyLike",
    "aubc",
    "compare",
    "default_cache",
    "detectable_effect",
    "holm",
    "label_efficiency",
    "labels_needed",
    "paired",
    "parse_strategies",
    "parse_strategy",
    "schema",
    "signed_rank",
    "simulate",
]
