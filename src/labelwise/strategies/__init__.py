"""Floor 3: one idea a file. Scores, pickers, and the strategies made of them.

A score is in the module of its strategy's name: ``labelwise.strategies.margin.margin_scores``.
"""

from labelwise.strategies.call import call_needs
from labelwise.strategies.estimate import Estimate, estimate
from labelwise.strategies.experience import Experience
from labelwise.strategies.memory import parse_memory
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import (
    Strategy,
    as_strategy,
    get_strategy,
    list_strategies,
    strategy,
)
from labelwise.strategies.selection import select
from labelwise.strategies.watch import Status

__all__ = [
    "Estimate",
    "Experience",
    "Picks",
    "Status",
    "Strategy",
    "as_strategy",
    "call_needs",
    "estimate",
    "get_strategy",
    "list_strategies",
    "parse_memory",
    "select",
    "strategy",
]
