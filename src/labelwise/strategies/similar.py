"""SIMILAR: submodular information measures, for rare classes, redundant and open pools."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from labelwise.errors import InputError, nearest
from labelwise.evidence import Rows, check
from labelwise.kernels import (
    Chosen,
    Euclidean,
    Generator,
    Geometry,
    GradientEmbedding,
    Points,
    Progress,
    Similarity,
    Subset,
    greedy,
    hold_limit,
)
from labelwise.kernels import functions as f
from labelwise.kernels.cost import Sizes, Work, coverage_work
from labelwise.kernels.progress import inside as told_inside
from labelwise.strategies.picks import Picks
from labelwise.strategies.query_sets import GivenSet, SetMaker
from labelwise.strategies.registry import strategy

Function = Literal[
    "fl",
    "gc",
    "logdet",
    "flqmi",
    "flvmi",
    "gcmi",
    "logdetmi",
    "flcg",
    "gccg",
    "logdetcg",
    "flcmi",
    "logdetcmi",
]
Method = Literal["auto", "naive", "lazy", "stochastic", "lazier"]

WITHOUT = {"flcg": "fl", "gccg": "gc", "logdetcg": "logdet"}
"""What a conditional gain is when nothing is private: the function itself."""

WITHOUT_PRIVATE = {**WITHOUT, "flcmi": "flvmi", "logdetcmi": "logdetmi"}


def similar_work(sizes: Sizes) -> Work:
    """Any of the functions: at most all pairs of the pool, or all picks for every row."""
    factor = 4.0 * sizes.rows * sizes.n
    return coverage_work(sizes) + Work(
        passes=(0, 2.0 * sizes.n),
        numbers=(0.0, sizes.rows * (40.0 * sizes.n + 20.0 * sizes.classes)),
        held=(0.0, 4 * factor + 8.0 * sizes.rows * (sizes.width + sizes.classes)),
    )


@strategy(
    cite="Kothawade et al., NeurIPS 2021",
    cost=similar_work,
    costs=(
        "By function: 2 N D an iteration for sums, all pairs for coverage, N n numbers for "
        "log-determinants."
    ),
    fails=(
        "Needs a query set like what is wanted; flqmi and gcmi ignore diversity, and few "
        "queries narrow what is found."
    ),
)
def similar(
    probs: Rows,
    embeddings: Rows,
    labeled: Tensor | None = None,
    labels: Tensor | None = None,
    query_probs: Rows | None = None,
    query_embeddings: Rows | None = None,
    query_labels: Tensor | None = None,
    private_probs: Rows | None = None,
    private_embeddings: Rows | None = None,
    private_labels: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    progress: Progress | None = None,
    function: Function = "fl",
    query_classes: int | str | Sequence[int] | None = None,
    private_classes: int | str | Sequence[int] | None = None,
    eta: float = 1.0,
    nu: float = 1.0,
    lam: float = 1.0,
    points: Literal["gradient", "embedding"] = "gradient",
    method: Method = "auto",
    neighbors: int | None = None,
    dense: bool = False,
) -> Picks:
    """Pick greedily what is like a query set, unlike a private set, and not alike in itself.

    A row is the gradient of the last layer, bias and all, at its predicted label; query and
    private points at their true labels. Similarities are (1 + cosine) / 2: 1/2 to all for a row
    without a gradient, whose other classes all have less than 1e-19. The pool V is all rows that
    are not labeled. With A the picks, Q the query and P the private set:

    ============ ================ ==================================================================
    scenario     function         value
    ============ ================ ==================================================================
    standard     fl               ``sum_V max_A s``
    \\            gc               ``sum_VA s - lam sum_AA s``
    \\            logdet           ``log det(S_A + lam I)``
    rare classes flqmi            ``sum_Q max_A s + eta sum_A max_Q s``
    \\            flvmi            ``sum_V min(max_A s, eta max_Q s)``
    \\            gcmi             ``2 lam sum_AQ s``
    \\            logdetmi         ``logdet(A) - logdet(A | Q)``, s(A, Q) times eta
    redundancy   flcg             ``sum_V max(max_A s - nu max_P s, 0)``
    \\            gccg             ``gc(A) - 2 lam nu sum_AP s``
    \\            logdetcg         ``logdet(A | P)``, s(A, P) times nu
    foreign rows flcmi            ``sum_V max(min(max_A s, eta max_Q s) - nu max_P s, 0)``
    \\            logdetcmi        ``logdet(A | P) - logdet(A | P, Q)``
    ============ ================ ==================================================================

    Args:
        probs: (N, C). embeddings: (N, D), the input of the last layer.
        labeled, labels: (L,) rows with labels and their classes.
        query_probs, query_embeddings, query_labels: (Q, C), (Q, D), (Q,): what to be like, such
            as validation rows of rare classes.
        private_probs, private_embeddings, private_labels: (P, C), (P, D), (P,): what to be
            unlike, such as rows found to be foreign; P = 0 while there are none.
        function: one of the above.
        query_classes: take the labeled rows of these classes for the query set instead: one,
            several, or text as ``"3+7"``.
        private_classes: the same for the private set. Where no private set is named at all,
            it is all labeled rows for flcg, gccg and logdetcg.
        eta: what likeness to Q counts for. nu: what likeness to P counts for; both >= 0.
        lam: redundancy of the graph cuts, or what is added to the diagonal of the log-determinants.
        points: ``"gradient"``, or ``"embedding"`` for the embeddings themselves.
        method: how `labelwise.kernels.greedy` finds the next pick.
        neighbors, dense: for fl, flvmi, flcg and flcmi over more than 200,000 rows: keep only
            this many similarities a row, or consent to all pairs.
        memory: for the facility locations and graph cuts; log-determinants hold up to 8 N n.

    Returns:
        Rows in the order picked; scores are their gains. Where no candidate gains anything, now
        or after some picks, the rest is drawn at random. A private set of no points, or of classes
        without a labeled row, leaves P empty: then the value is that without it. Notes say both.

    Raises:
        InputError: an unknown function, an empty query set, a part of a query or private set
            missing, or labels outside the classes.
        ResourceError: more than 200,000 x 200,000 pairs without consent.

    Source:
        Kothawade, Beck, Killamsetty & Iyer, "SIMILAR: Submodular information measures based
        active learning in realistic scenarios", NeurIPS 2021. Their code takes lam = 1. Costs
        N^2 inner products of C + D numbers for fl, flvmi, flcg, flcmi; N Q for flqmi, gcmi;
        N n for the others.
    """
    _check_options(function, points, {"eta": eta, "nu": nu, "lam": lam})
    p, h = check("probs", probs), check("embeddings", embeddings)
    inside = pool_rows(len(p), labeled, candidates)
    whole = _geometry(p, h, points, hold_limit(memory, often=True))
    maker = SetMaker(p, h, whole, points, labeled, labels)
    away = GivenSet("private", private_probs, private_embeddings, private_labels, private_classes)
    near = GivenSet("query", query_probs, query_embeddings, query_labels, query_classes)
    notes: list[str] = []
    query = maker.points(near) if function.endswith("mi") else None
    if query is not None and not len(query):
        raise InputError(f"{function} needs a query point, but no labeled row is of query_classes")
    private = None
    if function in WITHOUT_PRIVATE:
        private = maker.private(away, everything=function in WITHOUT)
        if not len(private):
            plain = WITHOUT_PRIVATE[function]
            notes.append(f"the private set is empty: {function} without it is {plain}")
            function, private = plain, None  # type: ignore[assignment]
    geometry = whole if len(inside) == len(p) else Subset(whole, inside)
    objective = build(
        function,
        Similarity(geometry, "cosine01"),
        query,
        private,
        eta=eta,
        nu=nu,
        lam=lam,
        memory=memory,
        neighbors=neighbors,
        dense=dense,
    )
    found, filled = _pick(
        objective, n, inside, candidates, generator, progress, method=method, memory=memory
    )
    if filled == n:
        notes.append(f"no candidate gains anything by {function}: picks are random")
    elif filled:
        notes.append(f"{filled} of {n} picks gain nothing by {function}: they are random")
    return Picks(found.rows.numpy(), scores=found.gains.numpy(), notes=tuple(notes))


def build(
    function: Function,
    similarity: Similarity,
    query: Points | None = None,
    private: Points | None = None,
    *,
    eta: float = 1.0,
    nu: float = 1.0,
    lam: float = 1.0,
    memory: int | None = None,
    **pairs: Any,
) -> f.SetFunction:
    """The set function of one name; see `similar` for names and knobs.

    Args:
        similarity: of the pool V.
        query, private: Q and P, for the functions that have them.
        pairs: ``neighbors`` and ``dense``, for functions of all pairs.

    >>> line = Similarity(Euclidean([[1.0, 0.0], [0.0, 1.0]], shift=False))
    >>> build("gcmi", line, line.take(torch.tensor([1]))).gains()
    tensor([1., 2.], dtype=torch.float64)
    """
    s, q, away = similarity, query, private
    wide = {**pairs, "memory": memory}
    made: dict[str, Callable[[], f.SetFunction]] = {
        "fl": lambda: f.FacilityLocation(s, **wide),
        "gc": lambda: f.GraphCut(s, lam, memory=memory),
        "logdet": lambda: f.LogDeterminant(s, lam),
        "flqmi": lambda: f.FacilityLocationQMI(s, _some(q), eta, memory=memory),
        "flvmi": lambda: f.FacilityLocationVMI(s, _some(q), eta, **wide),
        "gcmi": lambda: f.GraphCutMI(s, _some(q), lam, memory=memory),
        "logdetmi": lambda: f.LogDeterminantMI(s, _some(q), lam, eta),
        "flcg": lambda: f.FacilityLocationCG(s, _some(away), nu, **wide),
        "gccg": lambda: f.GraphCutCG(s, _some(away), lam, nu, memory=memory),
        "logdetcg": lambda: f.LogDeterminantCG(s, _some(away), lam, nu),
        "flcmi": lambda: f.FacilityLocationCMI(s, _some(q), _some(away), eta, nu, **wide),
        "logdetcmi": lambda: f.LogDeterminantCMI(s, _some(q), _some(away), lam, eta, nu),
    }
    return made[function]()


def _some(points: Points | None) -> Points:
    if points is None:
        raise InputError("this function needs a query or private set that was not given")
    return points


def _check_options(function: str, points: str, knobs: dict[str, float]) -> None:
    known = get_args(Function)
    if function not in known:
        raise InputError(f"function must be known, got {function!r}; {nearest(function, known)}")
    if points not in ("gradient", "embedding"):
        raise InputError(f'points must be "gradient" or "embedding", got {points!r}')
    for name, value in knobs.items():
        if isinstance(value, bool) or not 0 <= value < math.inf:
            raise InputError(f"{name} must be a finite number >= 0, got {value!r}")


def pool_rows(size: int, labeled: Tensor | None, candidates: Tensor) -> Tensor:
    """Rows that are not labeled, and all candidates: (M,) int64, ascending."""
    inside = torch.ones(size, dtype=torch.bool)
    if labeled is not None:
        inside[labeled] = False
    inside[candidates.cpu()] = True
    return inside.nonzero()[:, 0]


def _geometry(p: Rows, h: Rows, points: str, hold: int) -> Geometry:
    if points == "gradient":
        return GradientEmbedding(p, h, bias=True, hold=hold)
    return Euclidean(h, shift=False)


def _pick(
    objective: f.SetFunction,
    n: int,
    inside: Tensor,
    candidates: Tensor,
    generator: Generator,
    progress: Progress | None,
    *,
    method: Method,
    memory: int | None,
) -> tuple[Chosen, int]:
    """Greedy picks in rows of the pool, and how many are random for want of any gain."""
    places = torch.searchsorted(inside, candidates.cpu())
    stream = generator.of(inside.numpy())
    if objective.monotone and not bool(objective.gains(places).any()):
        noise = stream.child("fill").uniform(places.numpy())
        rows = candidates[torch.from_numpy(noise).argsort(stable=True)[:n]]
        return Chosen(rows, torch.zeros(n, dtype=torch.float64)), n
    found = greedy(
        objective,
        n,
        generator=stream,
        candidates=places,
        method=method,
        ties=stream.child("ties"),
        progress=told_inside(progress, inside),
        memory=memory,
    )
    nothing = objective.monotone & (found.gains.abs() <= objective.rounding)
    return Chosen(inside[found.rows], found.gains), int(nothing.sum())
