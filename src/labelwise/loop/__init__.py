"""Floor 5: round = query -> annotate -> fit -> evaluate; resumable, for people and oracles."""

from labelwise.loop.annotators import Annotator, NoAnswers, Oracle
from labelwise.loop.initial import random_initial, stratified_initial
from labelwise.loop.outcomes import Fitted, Round
from labelwise.loop.rounds import COLD_EVIDENCE, Loop
from labelwise.loop.shared import Provider, SharedEvidence, oracle_evidence
from labelwise.loop.state import State
from labelwise.loop.tasks import (
    Balance,
    Label,
    SingleLabel,
    Task,
    accuracy,
    class_balance,
    macro_accuracy,
)

__all__ = [
    "COLD_EVIDENCE",
    "Annotator",
    "Balance",
    "Fitted",
    "Label",
    "Loop",
    "NoAnswers",
    "Oracle",
    "Provider",
    "Round",
    "SharedEvidence",
    "SingleLabel",
    "State",
    "Task",
    "accuracy",
    "class_balance",
    "macro_accuracy",
    "oracle_evidence",
    "random_initial",
    "stratified_initial",
]
