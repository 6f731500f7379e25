"""GALAXY as its authors simulate it: every label is known before the next pick."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from labelwise.evidence import Rows, check
from labelwise.kernels import Generator
from labelwise.strategies.galaxy import bisect
from labelwise.strategies.lines import lines_work
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy


@strategy(
    cite="Zhang et al., ICML 2022 (their simulation)",
    simulation_only=True,
    cost=lines_work,
    costs="A sort of N rows for each class; 4 N C bytes for probabilities, 8 N for each line.",
    fails="Sees each label before the next pick, which a batch to annotators cannot.",
)
def galaxy_sequential(
    probs: Rows,
    oracle_labels: Tensor,
    labeled: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    turns: Literal["fixed", "random"] = "fixed",
) -> Picks:
    """`galaxy` where the label of every pick comes before the next: as in the paper.

    It pays for every label it sees, and the model is not fitted anew within the batch; but a
    batch that goes to annotators at once cannot be picked so.

    Args:
        probs: (N, C), C >= 2.
        oracle_labels: (N,) true classes; looked up for a row after it has been picked.
        labeled, labels: (L,) rows with labels and their classes.
        turns: see `galaxy`.

    Returns:
        Rows in the order asked for, without scores.

    Raises:
        InputError: a single class, an option or a label out of range.

    Source:
        Zhang, Katz-Samuels & Nowak, "GALAXY: Graph-based Active Learning at the Extreme", ICML
        2022; see `galaxy`.
    """
    truth = check("oracle_labels", oracle_labels)

    def answer(row: int) -> int:
        return int(truth[row])

    p = check("probs", probs)
    return bisect(p, labeled, labels, n, candidates, generator, answer, turns)
