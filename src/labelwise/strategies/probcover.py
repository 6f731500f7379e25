"""ProbCover: cover as much of the pool as possible with balls of one radius."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, check
from labelwise.kernels import Euclidean, Generator, Progress, Similarity, greedy
from labelwise.kernels.cost import coverage_work
from labelwise.kernels.functions import FacilityLocation
from labelwise.strategies.clusters import cluster, unit_rows
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy

PURITY = 0.95
"""Share of balls without a row of another cluster that the estimated radius keeps."""

_MOST_CLUSTERS = 100
_SAMPLE = 5000


@strategy(
    cite="Yehuda et al., NeurIPS 2022",
    cost=coverage_work,
    costs="All pairs once: N^2 D operations, or the balls kept as lists.",
    fails=(
        "Depends on the radius; once balls cover the pool the rest is random; embeddings "
        "whose clusters are no classes."
    ),
)
def probcover(
    embeddings: Rows,
    labeled: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    progress: Progress | None = None,
    delta: float | None = None,
    classes: int | None = None,
    normalize: bool = True,
    dense: bool = False,
) -> Picks:
    """Pick in turn the row whose ball of radius delta holds most rows not yet covered.

    A row covers all rows at a distance below ``delta`` and itself. What labeled rows cover
    counts as covered from the start. When no candidate covers anything new the rest is drawn
    at random among them, with score 0, and the picks' notes say so.

    Args:
        embeddings: (N, D), best from self-supervised training. Holds a copy.
        labeled: (L,) rows that have labels.
        labels: (L,) their classes, used only to know how many classes there are.
        delta: the radius, > 0. By default it is estimated by `purity_radius`, with as many
            clusters as there are classes; the notes say what came out. The method is
            sensitive to it: the authors take 0.75 on CIFAR-10.
        classes: how many classes there are. By default one more than the largest of
            ``labels``; where these show fewer than two classes, n (the method is made for
            about one label per class), in 2..100.
        normalize: divide each row by its length first, as the authors' features are.
        dense: consent to comparing more than 200,000 x 200,000 pairs of rows.

    Returns:
        Picks; the score is how many rows the pick covered first.

    Raises:
        InputError: an option out of range, or a zero row when normalizing.
        ResourceError: more pairs than that without consent, or ``memory`` is too small.

    Source:
        Yehuda, Dekel, Hacohen & Weinshall, "Active Learning Through a Covering Lens",
        NeurIPS 2022.
    """
    if delta is not None and not (isinstance(delta, int | float) and delta > 0):
        raise InputError(f"delta must be a positive number, got {delta!r}")
    rows = check("embeddings", embeddings)
    rows = unit_rows(rows) if normalize else rows
    notes = []
    if delta is None:
        k = _cluster_count(classes, labels, n, len(rows))
        delta = purity_radius(rows, k, generator=generator)
        notes.append(f"delta = {delta:.4g}, estimated with {k} clusters at purity {PURITY}")
    inside = Similarity(Euclidean(rows), "top_hat", width=delta)
    covered = FacilityLocation(inside, covered=labeled, dense=dense, memory=memory)
    # Balls are often alike, and row order is often class order.
    ties = generator.child("ties")
    chosen = greedy(covered, n, candidates=candidates, ties=ties, memory=memory, progress=progress)
    rest = int((chosen.gains == 0).sum())
    if rest:
        notes.append(f"nothing was left to cover for the last {rest} picks, drawn at random")
    return Picks(chosen.rows.numpy(), scores=chosen.gains.numpy(), notes=tuple(notes))


def purity_radius(embeddings: Rows | Tensor, clusters: int, *, generator: Generator) -> float:
    """The largest radius at which 95 % of balls hold no row of another cluster.

    A ball is pure up to the distance to the nearest row of another k-means cluster, so the
    radius is a quantile of these distances. Centers are at most 5,000 rows drawn at random.

    Args:
        embeddings: (N, D).
        clusters: k of k-means, meant to be the number of classes.
        generator: starts k-means, draws the centers.

    Returns:
        The radius, in the embeddings' unit; infinity when all rows are in one cluster.

    Source:
        Yehuda et al., NeurIPS 2022, section 3.
    """
    rows = check("embeddings", embeddings) if not isinstance(embeddings, Rows) else embeddings
    member = cluster(rows, clusters, generator=generator).assignment.to(rows.device)
    geometry = Euclidean(rows)
    noise = generator.child("purity").uniform(np.arange(len(rows)))
    sample = torch.from_numpy(np.sort(np.argsort(noise, kind="stable")[:_SAMPLE]))
    nearest = torch.cat([_other_cluster(geometry, member, part) for part in sample.split(512)])
    distances = nearest.sort().values
    return float(distances[int((1 - PURITY) * len(distances))])


def _other_cluster(geometry: Euclidean, member: Tensor, rows: Tensor) -> Tensor:
    """Distance of each of ``rows`` to the nearest row of another cluster, float64."""
    points, mine = geometry.take(rows), member[rows.to(member.device)]
    best = torch.full((len(rows),), torch.inf, device=member.device)
    at = torch.full((len(rows),), -1, device=member.device)
    for start, block in geometry.blocks():
        # Squared distances less the norm of the row asked about, which does not matter here.
        found = geometry.offsets(points, block)
        same = mine[:, None] == member[None, start : start + len(block)]
        low, where = found.masked_fill_(same, torch.inf).min(1)
        closer = low < best
        best[closer], at[closer] = low[closer], start + where[closer]
    known = at.cpu() >= 0
    out = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    # From differences in float64: single precision may name either of two nearly equal
    # neighbors, but the distance is right to its own rounding.
    out[known] = geometry.exact(rows[known], at.cpu()[known]).cpu().clamp(min=0).sqrt()
    return out


def _cluster_count(classes: int | None, labels: Tensor | None, n: int, size: int) -> int:
    if classes is not None:
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
            raise InputError(f"classes must be a whole number >= 2, got {classes!r}")
        return min(classes, size)
    seen = 0 if labels is None or not len(labels) else int(labels.max()) + 1
    return min(seen if seen >= 2 else max(2, min(n, _MOST_CLUSTERS)), size)
