"""BASE: boundary samples with an equal quota for every class."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.errors import ResourceError
from labelwise.evidence import Rows, check
from labelwise.kernels import Chosen, Generator
from labelwise.strategies.mase import distances, prepare_head
from labelwise.strategies.pickers import top
from labelwise.strategies.registry import strategy

_HELD = 1 << 30
"""Bytes of class distances held at once, unless ``memory`` says otherwise."""


def base_distances(
    logits: Rows | Tensor, head_weight: Rows | Tensor, first: int = 0, last: int | None = None
) -> Tensor:
    """How far each embedding is from each class's boundary.

    For a class that is not the predicted one: the distance to the boundary between the two.
    For the predicted class: the distance to the nearest boundary, where it would be left.

    Args:
        logits: (N, C), C >= 2.
        head_weight: (C, D), the last layer's weight.
        first, last: only the classes in ``first .. last - 1``; all by default.

    Returns:
        (N, last - first) float64 >= 0, in the embedding's unit; infinity where two classes
        have the same weights.

    Raises:
        InputError: a single class, or shapes that do not fit.

    Source:
        Emam et al., "Active Learning at the ImageNet Scale", 2021. For a class that is not
        predicted the distance is a lower bound: a third class may win on the way.

    >>> base_distances(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    tensor([[1., 1.]], dtype=torch.float64)
    """
    rows, gaps = prepare_head(logits, head_weight)
    last = rows.shape[1] if last is None else last
    out = torch.empty(len(rows), last - first, dtype=torch.float64, device=rows.device)
    for start, block in rows.blocks():
        found, best = distances(block, gaps)
        found.scatter_(1, best[:, None], found.amin(1, keepdim=True))
        out[start : start + len(block)] = found[:, first:last]
    return out


@strategy(cite="Emam et al., arXiv 2021")
def base(
    logits: Rows,
    head_weight: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
) -> Chosen:
    """For each class in turn, the candidates closest to that class's boundary.

    Class c of C gets ``floor(n / C)`` picks and one more if ``c < n mod C``, whether or not
    any row is predicted as c. Classes pick in the order of their numbers, so a row wanted by
    two goes to the lower one. Distances are `base_distances`; equal ones go by noise.

    Args:
        logits: (N, C), C >= 2.
        head_weight: (C, D).
        memory: bytes for class distances, of which 8 N are needed; less memory means more
            passes over the logits, never other picks. 1 GiB by default.

    Returns:
        Rows by class, closest first; scores are minus the distances.

    Raises:
        InputError: a single class, or shapes that do not fit.
        ResourceError: memory for less than one class.
    """
    logits = check("logits", logits)
    size, classes = logits.shape
    need = 8 * size
    width = (max(_HELD, need) if memory is None else memory) // need
    if width < 1:
        raise ResourceError(f"memory must be at least {need} bytes for base, got {memory}")
    left = torch.zeros(size, dtype=torch.bool)
    left[candidates.cpu()] = True
    rows, gains = [], []
    for first in range(0, min(classes, n), width):
        last = min(first + width, classes, n)
        nearness = -base_distances(logits, head_weight, first, last).cpu()
        for c in range(first, last):
            quota = n // classes + (c < n % classes)
            found = top(
                nearness[:, c - first],
                n=quota,
                candidates=left.nonzero()[:, 0],
                generator=generator,
            )
            left[found.rows] = False
            rows.append(found.rows)
            gains.append(found.gains)
    return Chosen(torch.cat(rows), torch.cat(gains))
