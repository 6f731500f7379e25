"""Kernels on random parts against a plain twin, resumed, and with kernels that misbehave."""

import numpy as np
import pytest
import torch
from cases import points

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import (
    Chosen,
    Concatenated,
    Euclidean,
    Generator,
    Progress,
    farthest_first,
    kmeans_plus_plus,
    partitioned,
)


def farthest(part):
    return farthest_first(
        part.geometry,
        part.n,
        candidates=part.candidates,
        covered=part.covered,
        progress=part.progress,
    )


def plus_plus(part):
    return kmeans_plus_plus(
        part.geometry,
        part.n,
        candidates=part.candidates,
        covered=part.covered,
        generator=part.generator,
        progress=part.progress,
    )


def deaf(part):
    """A kernel that neither reports its picks nor resumes."""
    return farthest_first(part.geometry, part.n, candidates=part.candidates)


def twin(x, n, parts, generator, candidates, covered, share):
    """Farthest-first on each part, in float64, by rows of the pool."""
    x = x.astype(np.float64)
    noise = generator.child("parts")
    free = np.setdiff1d(candidates, covered)
    rest = np.setdiff1d(np.arange(len(x)), np.concatenate([free, covered]))
    split = []
    for rows in (free, np.sort(covered), rest):
        order = sorted(rows, key=lambda row: noise.uniform(np.array([row]))[0])
        sizes = [len(rows) // parts + (p < len(rows) % parts) for p in range(parts)]
        ends = np.cumsum([0, *sizes])
        split.append([sorted(order[ends[p] : ends[p + 1]]) for p in range(parts)])
    picks = []
    for p in range(parts):
        mine, known = split[0][p], list(covered) if share == "all" else split[1][p]
        inside = sorted([*mine, *known, *split[2][p]])
        count = n // parts + (p < n % parts)
        centers = list(known)
        for _ in range(count):
            left = [row for row in mine if row not in centers]
            if centers:
                away = [min(((x[row] - x[c]) ** 2).sum() for c in centers) for row in left]
                row = left[int(np.argmax(away))]
            else:
                middle = x[inside].mean(0)
                row = left[int(np.argmin([((x[row] - middle) ** 2).sum() for row in left]))]
            centers.append(row)
            picks.append(row)
    return picks


@pytest.mark.parametrize("kind", ["gaussian", "far from the origin", "two scales"])
@pytest.mark.parametrize("share", ["split", "all"])
@pytest.mark.parametrize("known", [0, 2, 7])
def test_picks_are_those_of_plain_parts(kind, share, known):
    x = np.concatenate([points(kind, seed)[:, :1] for seed in (0, 1, 2)]).astype(np.float32)
    rng = np.random.default_rng(0)
    covered, candidates = rng.permutation(len(x))[:known], rng.permutation(len(x))[:40]
    generator = Generator(3)
    found = partitioned(
        farthest,
        Euclidean(x),
        8,
        3,
        generator=generator,
        candidates=torch.from_numpy(candidates),
        covered=torch.from_numpy(covered),
        share=share,
    )
    assert found.rows.tolist() == twin(x, 8, 3, generator, candidates, covered, share)


@pytest.mark.parametrize("kernel", [farthest, plus_plus])
def test_given_ids_the_order_of_rows_changes_nothing(kernel):
    x = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
    order = np.random.default_rng(1).permutation(90)
    a = partitioned(kernel, Euclidean(x), 11, 4, generator=Generator(0, np.arange(90)))
    b = partitioned(kernel, Euclidean(x[order]), 11, 4, generator=Generator(0, order))
    assert a.rows.tolist() == order[b.rows.numpy()].tolist()


def test_one_part_is_the_kernel_itself():
    x = np.random.default_rng(0).normal(size=(50, 4))
    g = Concatenated(Euclidean(x), Euclidean(x[:, :1]))
    found = partitioned(farthest, g, 9, 1, generator=Generator(0))
    alone = farthest_first(g, 9)
    assert found.rows.tolist() == alone.rows.tolist()
    torch.testing.assert_close(found.gains, alone.gains)


def test_parts_are_even_and_budgets_follow():
    seen = []

    def note(part):
        seen.append((part.n, len(part.candidates), len(part.geometry), part.memory))
        return Chosen(part.candidates[: part.n], torch.zeros(part.n))

    g = Euclidean(np.arange(23.0)[:, None])
    found = partitioned(note, g, 2, 4, generator=Generator(0), memory=10_000)
    assert seen == [(1, 6, 6, 10_000 - 48 * 23), (1, 6, 6, 10_000 - 48 * 23)]
    assert len(found.rows) == 2


@pytest.mark.parametrize("kernel", [farthest, plus_plus, deaf])
@pytest.mark.parametrize("stop", [1, 3, 4, 7, 10])
def test_an_interrupted_run_goes_on_to_the_same_picks(kernel, stop):
    x = np.random.default_rng(0).normal(size=(60, 3))
    full = partitioned(kernel, Euclidean(x), 10, 3, generator=Generator(5))
    told = []
    earlier = Chosen(full.rows[:stop], full.gains[:stop])
    again = partitioned(
        kernel,
        Euclidean(x),
        10,
        3,
        generator=Generator(5),
        progress=Progress(earlier, told.append),
    )
    assert again.rows.tolist() == full.rows.tolist()
    if stop < 10:
        assert told[-1].rows.tolist() == full.rows.tolist()


def test_nonsense_is_refused():
    g = Euclidean(np.arange(9.0)[:, None])
    for parts in (0, 10, 2.5, True):
        with pytest.raises(InputError, match=r"parts must be in 1\.\.9"):
            partitioned(farthest, g, 3, parts, generator=Generator(0))
    with pytest.raises(InputError, match="share must be"):
        partitioned(farthest, g, 3, 2, generator=Generator(0), share="some")
    with pytest.raises(InputError, match=r"n must be in 1\.\.9"):
        partitioned(farthest, g, 10, 2, generator=Generator(0))
    with pytest.raises(ResourceError, match="memory must be more than"):
        partitioned(farthest, g, 3, 2, generator=Generator(0), memory=100)
    with pytest.raises(InputError, match=r"must pick 2 distinct rows of part 0, got 2, 1"):
        partitioned(
            lambda part: Chosen(torch.tensor([0, 0]), torch.zeros(2)),
            g,
            3,
            2,
            generator=Generator(0),
        )
    with pytest.raises(InputError, match="must pick candidates"):
        partitioned(
            lambda part: Chosen(torch.arange(part.n), torch.zeros(part.n)),
            g,
            3,
            1,
            generator=Generator(0),
            candidates=torch.arange(3, 9),
        )
    other = Chosen(torch.tensor([0, 1, 2]), torch.zeros(3))
    with pytest.raises(InputError, match="checkpoint is of another call"):
        partitioned(farthest, g, 6, 3, generator=Generator(0), progress=Progress(other))
