"""BatchBALD: a batch whose labels together tell most about the model."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, check
from labelwise.kernels import Generator, Progress, greedy
from labelwise.kernels.cost import Sizes, Work, score_work
from labelwise.strategies.joint_information import (
    SAMPLES,
    TOLD,
    JointInformation,
    ScreenedInformation,
)
from labelwise.strategies.pickers import pick
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy

_AGREE = 1e-12
"""Nats; below it rounding alone tells one row's information from another's."""


def batch_bald_work(sizes: Sizes) -> Work:
    """At every pick bounds for the pool over few groups of labelings, gains for some rows."""
    classes, samples = max(2, sizes.classes), max(1, sizes.draws)
    sampled = max(0, sizes.n - int(math.log(SAMPLES, classes)) - 1)
    # Groups are made where they pay; of the labelings few are soon all that tell anything.
    screened = sizes.rows * classes >= 4 * 64 * samples
    share = 0.03 if screened else 1.0
    least = sampled * classes * (0.02 * 64 * sizes.rows + 0.002 * SAMPLES)
    most = sizes.n * classes * sizes.rows * (64 + 0.2 * 512 + share * SAMPLES)
    groups = 2.0 * sizes.n * SAMPLES * 576 * samples
    held = 8.0 * SAMPLES * (samples + classes)
    work = Work(
        products=(2 * samples * least, 2 * samples * most + groups),
        passes=(2, 4),
        numbers=(least, 5 * most + groups),
        steps=(sizes.n, 100.0 * sizes.n),
        held=(8.0 * sizes.rows + held, 100.0 * sizes.rows + 8 * held + 1.5e8),
    )
    return work + score_work(sizes)


@strategy(
    cite="Kirsch et al., NeurIPS 2019",
    cost=batch_bald_work,
    costs=(
        "2 S C operations and C logarithms for each gain and labeling: for the pool over 64 "
        "groups of labelings a pick, for some rows over all; 64 num_samples (S + C) bytes."
    ),
    fails=(
        "Batches of more than log S nats (a few dozen rows with tens of draws): the rest is "
        "near random; noise drawn anew for each row makes it meaningless."
    ),
)
def batch_bald(
    draws: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    progress: Progress | None = None,
    num_samples: int = SAMPLES,
    shortlist: int | None = None,
    method: Literal["lazy", "naive"] = "lazy",
) -> Picks:
    """Pick rows one at a time, each the one whose label adds most to what the batch tells.

    Two rows that tell the same are not both picked, as BALD would. Information is submodular,
    so a row's BALD, and later its gain at an earlier pick, is an upper bound, and most rows are
    not looked at again at every pick. All draws together hold log S nats: once a batch has told
    them (the notes say when) all gains are near 0 and picks near random; more draws or
    PowerBALD (``bald`` with ``picker="power"``) serve larger batches.

    Args:
        draws: (S, N, C), each draw one function for all rows.
        num_samples: labelings of the batch that are looked at: all while C ** |batch| is no
            more, a random sample of them after. 40,000 as in the authors' code.
        shortlist: only this many candidates, those of the largest BALD, are looked at; at least
            n. All by default. The authors' code can keep a share of the pool, 20 n rows at
            least; by default it keeps all.
        method: ``"lazy"`` as above; while all labelings are looked at it picks as ``"naive"``
            does, which asks for every gain at every pick, as the authors' code does. Of a
            sample, the bounds are as uncertain as the gains.

    Returns:
        Rows in the order picked; the score of each is the information it adds, in nats. Where
        the draws agree on every candidate, rows are drawn at random, and the notes say so.

    Raises:
        InputError: an option out of range.
        ResourceError: ``memory`` is too small, or there is not enough for ``num_samples``.

    Source:
        Kirsch, van Amersfoort & Gal, "BatchBALD: Efficient and Diverse Batch Acquisition for
        Deep Bayesian Active Learning", NeurIPS 2019.
    """
    if method not in ("lazy", "naive"):
        raise InputError(f'method must be "lazy" or "naive", got {method!r}')
    whole = isinstance(shortlist, int) and not isinstance(shortlist, bool)
    if shortlist is not None and not (whole and shortlist >= n):
        raise InputError(f"shortlist must be a whole number >= n ({n}), got {shortlist!r}")
    rows = check("draws", draws)
    make = ScreenedInformation if method == "lazy" else JointInformation
    function = make(rows, generator=generator, num_samples=num_samples)
    alone = function.gains()
    if float(alone[candidates.cpu()].max()) <= _AGREE:
        found = pick(alone, n=n, candidates=candidates, generator=generator)
        agree = "the draws agree on every candidate: picked at random"
        return Picks(found.rows.numpy(), scores=found.gains.numpy(), notes=(agree,))
    notes = []
    if shortlist is not None and shortlist < len(candidates):
        best = pick(alone, n=shortlist, candidates=candidates, generator=generator)
        candidates = best.rows.sort().values
        notes.append(f"only the {shortlist:,} candidates with the largest BALD were looked at")
    found = greedy(
        function,
        n,
        candidates=candidates,
        method=method,
        ties=generator.child("ties"),
        memory=memory,
        progress=progress,
    )
    if not function.exact:
        used = f"{function.configurations:,} sampled labelings"
        notes.append(f"joint entropies are estimates from {used}")
    if function.told is not None:
        notes.append(
            f"the first {function.told} picks tell {1 - TOLD:.0%} of what {rows.shape[0]} draws "
            "can: later ones are near random"
        )
    return Picks(found.rows.numpy(), scores=found.gains.numpy(), notes=tuple(notes))
