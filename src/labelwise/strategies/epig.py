"""EPIG: ask about the rows whose labels tell most about predictions elsewhere."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, check, rows_first
from labelwise.kernels import Generator, numpy_stream, per_row
from labelwise.kernels.cost import Sizes, Work, score_work
from labelwise.strategies.bald import sum_to_one
from labelwise.strategies.entropy import entropy_of
from labelwise.strategies.pickers import Picker, pick
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy

_BLOCK_NUMBERS = 1 << 19
"""Numbers of a block of joint distributions: a few rows', with some target points'."""

_SMALLEST = 1e-300

_TARGETS = 100


def epig_scores(draws: Rows | Tensor, target_draws: Rows | Tensor) -> Tensor:
    """Expected predictive information gain of each row, in nats.

    What the row's label tells about the label of a target point, averaged over the targets:

        EPIG(i) = mean_t I(y_i; y_t) = H(p_i) + mean_t H(p_t) - mean_t H(q_it)

    where p_i and p_t are mean predictions and q_it(y, z) = mean_s P[s, i, y] P[s, t, z] is the
    joint one. The joint distributions of a block of rows and some targets are one matrix
    product.

    Args:
        draws: (S, N, C), anything `Rows` takes; draws[s] is one function for all rows.
        target_draws: (S, T, C), predictions at the target points by the same S samples.

    Returns:
        (N,) float64 in [0, log C], in nats. 0 where the row's label and the targets' are
        independent, as they are when all draws agree. Larger = asked first.
        2 N T S C^2 operations and N T C^2 logarithms, memory O(T S C) and a block.

    Raises:
        InputError: wrong shape, another S or C, or a row of a draw that is no distribution.

    Source:
        Bickford Smith, Kirsch, Farquhar, Gal, Foster & Rainforth, "Prediction-Oriented
        Bayesian Active Learning", AISTATS 2023.

    >>> two = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])
    >>> epig_scores(two, two[:, :1])
    tensor([0.6931, 0.0000], dtype=torch.float64)
    """
    sizes: dict[str, tuple[int, str]] = {}
    rows = rows_first(check("draws", draws, sizes))
    points = rows_first(check("target_draws", target_draws, sizes))
    samples, classes = rows.shape[1:]
    targets = sum_to_one(points.tensor().to(rows.device))
    own = float(entropy_of(targets.mean(1)).mean())
    wide = targets.permute(1, 0, 2).reshape(samples, -1) / samples
    each = max(classes, _BLOCK_NUMBERS // (classes * classes) * classes)
    parts = wide.split(each, dim=1)

    def gain(block: Tensor) -> Tensor:
        probs = sum_to_one(block)
        left = probs.transpose(1, 2).reshape(-1, samples)
        joint = torch.zeros(len(left), dtype=torch.float64, device=left.device)
        for part in parts:
            both = left @ part
            # Several times faster than xlogy, and the same: 0 times the log of what is not 0.
            joint -= both.clamp_min(_SMALLEST).log_().mul_(both).sum(1)
        joint = joint.view(-1, classes).sum(1) / len(targets)
        return (entropy_of(probs.mean(1)) + own - joint).clamp_min_(0)

    step = max(1, _BLOCK_NUMBERS // (classes * max(samples, parts[0].shape[1])))
    return per_row(rows.blocks(step), len(rows), gain)


def epig_work(sizes: Sizes) -> Work:
    """Joint distributions of every row with 100 target points."""
    classes, draws = max(1, sizes.classes), max(1, sizes.draws)
    pairs = float(sizes.rows * _TARGETS * classes * classes)
    work = Work(
        products=(0.1 * pairs * draws, 2 * pairs * draws),
        numbers=(0.1 * pairs, 10 * pairs),
        held=(0.0, 40.0 * _TARGETS * draws * classes + 1e8),
    )
    return work + score_work(sizes)


@strategy(
    cite="Bickford Smith et al., AISTATS 2023",
    cost=epig_work,
    costs="2 N T S C^2 operations and N T C^2 logarithms (T: 100 targets); 16 T S C bytes.",
    fails=(
        "Ignores likeness within the batch (use a picker); few draws are noisy; slow with "
        "hundreds of classes; targets that are not what the model will meet."
    ),
)
def epig(
    draws: Rows,
    target_draws: Rows | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    targets: int | None = _TARGETS,
    picker: str | Picker = "top",
) -> Picks:
    """The n candidates with the largest `epig_scores`, most telling first.

    BALD asks what tells most about the model, also of parts of it that no prediction that
    matters depends on; EPIG asks what tells most about the predictions themselves.

    Args:
        draws: (S, N, C), each draw one function for all rows.
        target_draws: (S, T, C), the same S samples at points like those the model will meet; no
            labels are needed. Without it rows of the pool, labeled ones too, are the targets,
            and the notes say so.
        targets: how many target points to average over, drawn at random where there are more;
            None takes all. 100 as in the authors' code.

    Returns:
        Picks by `epig_scores`.

    Raises:
        InputError: ``targets`` not a positive whole number, or shapes that do not fit.
    """
    whole = isinstance(targets, int) and not isinstance(targets, bool) and targets >= 1
    if targets is not None and not whole:
        raise InputError(f"targets must be a whole number >= 1 or None, got {targets!r}")
    pool = check("draws", draws)
    notes: tuple[str, ...] = ()
    if target_draws is None:
        noise = generator.child("targets").uniform(np.arange(pool.shape[1]))
        # In the order of their noise: sums come out the same whatever the order of rows.
        at = torch.from_numpy(np.argsort(noise, kind="stable")[:targets].copy())
        points = rows_first(pool).take(at).transpose(0, 1)
        notes = (f"no target_draws: {len(at)} rows of the pool are the targets",)
    else:
        points = check("target_draws", target_draws)
        if targets is not None and targets < points.shape[1]:
            stream = numpy_stream(generator.seed, "targets")
            at = torch.from_numpy(stream.permutation(points.shape[1])[:targets])
            points = rows_first(points).take(at).transpose(0, 1)
    scores = epig_scores(pool, points)
    found = pick(scores, n=n, candidates=candidates, generator=generator, picker=picker)
    return Picks(found.rows.cpu().numpy(), scores=found.gains.cpu().numpy(), notes=notes)
