"""Floor 2: what a strategy may ask for, computed only when asked."""

from labelwise.evidence.graph import Evidence, provider
from labelwise.evidence.rules import (
    NUMBERS,
    OBJECTS,
    RULES,
    Checked,
    Rule,
    as_float,
    check,
    row_numbers,
    rows_first,
)
from labelwise.evidence.signature import Signature, read_signature
from labelwise.kernels import Rows

__all__ = [
    "NUMBERS",
    "OBJECTS",
    "RULES",
    "Checked",
    "Evidence",
    "Rows",
    "Rule",
    "Signature",
    "as_float",
    "check",
    "provider",
    "read_signature",
    "row_numbers",
    "rows_first",
]
