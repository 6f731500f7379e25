"""A selection stopped anywhere goes on to the picks it would have made."""

import sys

import numpy as np
import pytest
import torch
from cases import points

from labelwise.errors import InputError
from labelwise.kernels import (
    Chosen,
    Euclidean,
    Generator,
    Progress,
    Similarity,
    farthest_first,
    greedy,
    kmeans_plus_plus,
)
from labelwise.kernels.functions import FacilityLocation
from labelwise.kernels.progress import inside

KERNELS = {
    "farthest-first": lambda g, n, **more: farthest_first(g, n, **more),
    "k-means++": lambda g, n, **more: kmeans_plus_plus(g, n, generator=Generator(4), **more),
    "greedy k-means++": lambda g, n, **more: kmeans_plus_plus(
        g, n, generator=Generator(4), trials=3, **more
    ),
}


class Stopped(Exception):
    pass


class StopAt(Progress):
    """Raises once so many picks were made, as Ctrl-C does."""

    def __init__(self, most, earlier=None):
        super().__init__(earlier, self._stop)
        self.most, self.last = most, None

    def _stop(self, chosen):
        self.last = chosen
        if len(chosen.rows) >= self.most:
            raise Stopped


@pytest.mark.parametrize("covered", [None, [1, 4]])
@pytest.mark.parametrize("kind", ["gaussian", "grid of ties", "copies", "two scales"])
@pytest.mark.parametrize("name", KERNELS)
def test_a_run_stopped_anywhere_ends_with_the_same_picks(name, kind, covered):
    g = Euclidean(points(kind, 1))
    n = min(20, len(g) - 2)
    options = {"covered": None if covered is None else torch.tensor(covered), "block": 3}
    whole = KERNELS[name](g, n, **options)
    for most in range(1, n, 2):
        stop = StopAt(most)
        with pytest.raises(Stopped):
            KERNELS[name](g, n, progress=stop, **options)
        assert len(stop.last.rows) >= most
        resumed = KERNELS[name](g, n, progress=Progress(stop.last), **options)
        assert resumed.rows.tolist() == whole.rows.tolist()
        np.testing.assert_allclose(resumed.gains.numpy(), whole.gains.numpy(), rtol=1e-12)
        # A checkpoint may have been cut short between two reports.
        cut = Chosen(whole.rows[:most], whole.gains[:most])
        again = KERNELS[name](g, n, progress=Progress(cut), **options)
        assert again.rows.tolist() == whole.rows.tolist()


@pytest.mark.parametrize("name", KERNELS)
def test_picks_are_told_in_order_and_all_of_them(name):
    g, told = Euclidean(points("gaussian", 3)), []
    n = len(g) // 2
    chosen = KERNELS[name](g, n, block=2, progress=Progress(tell=told.append))
    assert len(told) > 2
    for report in told:
        assert report.rows.tolist() == chosen.rows[: len(report.rows)].tolist()
    assert torch.equal(told[-1].gains, chosen.gains)


@pytest.mark.parametrize("name", KERNELS)
def test_a_checkpoint_of_another_call_is_refused(name):
    g = Euclidean(points("gaussian", 0))
    for rows, match in (([0, 0], "row 0, twice"), ([2], "row 2"), ([len(g)], f"row {len(g)}")):
        earlier = Chosen(torch.tensor(rows), torch.zeros(len(rows)).double())
        with pytest.raises(InputError, match=match):
            KERNELS[name](g, 3, covered=torch.tensor([2]), progress=Progress(earlier))
    earlier = Chosen(torch.tensor([0, 1]), torch.zeros(2).double())
    with pytest.raises(InputError, match="holds 2 picks, but n is 1"):
        KERNELS[name](g, 1, progress=Progress(earlier))


@pytest.mark.parametrize("part", [False, True])
def test_greedy_stopped_by_whoever_is_told_has_told_every_pick_once(part, monkeypatch):
    monkeypatch.setattr(sys.modules["labelwise.kernels.greedy"], "_TELL_SECONDS", 0.0)
    rows = torch.arange(5, 45) if part else torch.arange(55)
    x = Euclidean(points("gaussian", 1)[rows])

    def run(progress=None):
        told = inside(progress, rows) if part else progress
        found = greedy(FacilityLocation(Similarity(x, "rbf", width=1.0)), 12, progress=told)
        return rows[found.rows].tolist()

    whole = run()
    stop = StopAt(5)
    with pytest.raises(Stopped):
        run(stop)
    assert stop.last.rows.tolist() == whole[: len(stop.last.rows)]
    assert run(Progress(stop.last)) == whole
