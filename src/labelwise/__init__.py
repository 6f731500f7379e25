"""labelwise: which items are worth labeling (or training on) next, and is it paying off?

Everything public is reachable from here and imported when first touched, so that
``import labelwise`` costs next to nothing.

>>> import labelwise as lw
>>> lw.select("margin", 1, probs=[[0.9, 0.1], [0.5, 0.5]]).rows
array([1])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from labelwise._version import __version__ as __version__

if TYPE_CHECKING:
    from labelwise.benchmark import Results as Results
    from labelwise.benchmark.report import write_report as write_report
    from labelwise.benchmark.simulate import simulate as simulate
    from labelwise.errors import DataError as DataError
    from labelwise.errors import InputError as InputError
    from labelwise.errors import LabelwiseError as LabelwiseError
    from labelwise.errors import MissingDependencyError as MissingDependencyError
    from labelwise.errors import ResourceError as ResourceError
    from labelwise.errors import ResultsError as ResultsError
    from labelwise.kernels import Generator as Generator
    from labelwise.learners import make_encoder as make_encoder
    from labelwise.learners import make_learner as make_learner
    from labelwise.pools import open_data as open_data
    from labelwise.strategies import Estimate as Estimate
    from labelwise.strategies import Picks as Picks
    from labelwise.strategies import Strategy as Strategy
    from labelwise.strategies import estimate as estimate
    from labelwise.strategies import get_strategy as get_strategy
    from labelwise.strategies import list_strategies as list_strategies
    from labelwise.strategies import select as select
    from labelwise.strategies import strategy as strategy

_HOME = {
    "DataError": "labelwise.errors",
    "Estimate": "labelwise.strategies",
    "Generator": "labelwise.kernels",
    "InputError": "labelwise.errors",
    "LabelwiseError": "labelwise.errors",
    "MissingDependencyError": "labelwise.errors",
    "Picks": "labelwise.strategies",
    "ResourceError": "labelwise.errors",
    "Results": "labelwise.benchmark",
    "ResultsError": "labelwise.errors",
    "Strategy": "labelwise.strategies",
    "estimate": "labelwise.strategies",
    "get_strategy": "labelwise.strategies",
    "list_strategies": "labelwise.strategies",
    "make_encoder": "labelwise.learners",
    "make_learner": "labelwise.learners",
    "open_data": "labelwise.pools",
    "select": "labelwise.strategies",
    "simulate": "labelwise.benchmark",
    "strategy": "labelwise.strategies",
    "write_report": "labelwise.benchmark.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'labelwise' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
