"""Greedy maximization against its definition, over functions that are written out."""

import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import Generator, Progress
from labelwise.kernels.functions import SetFunction
from labelwise.kernels.greedy import greedy

MODULE = sys.modules["labelwise.kernels.greedy"]  # its name in the package is the function's


class Explicit(SetFunction):
    """f given by its definition on sets; counts how many gains it is asked for."""

    def __init__(self, size, of, submodular=True):
        super().__init__()
        self.size, self.of, self.submodular = size, of, submodular
        self.asked = 0

    def __len__(self):
        return self.size

    def gains(self, rows=None):
        rows = range(self.size) if rows is None else rows.tolist()
        self.asked += len(rows)
        now = self.of(self.chosen)
        return torch.tensor([self.of([*self.chosen, j]) - now for j in rows], dtype=torch.float64)

    def _add(self, row):
        pass


def coverage(seed, size=40):
    held = np.random.default_rng(seed).random((size, 60)) < 0.1
    return lambda chosen: float(held[chosen].any(0).sum())


def location(seed, size=40):
    s = np.random.default_rng(seed).random((size, size))
    return lambda chosen: float(s[:, chosen].max(1).sum()) if chosen else 0.0


def cut(seed, size=40):
    """A graph cut: submodular, and falling once half the rows are in it."""
    s = np.random.default_rng(seed).random((size, size))
    s = s + s.T
    return lambda chosen: float(s[:, chosen].sum() - 1.5 * s[np.ix_(chosen, chosen)].sum())


def squares(seed, size=40):
    """Supermodular: gains grow."""
    w = np.random.default_rng(seed).random(size)
    return lambda chosen: float(w[chosen].sum() ** 2)


FUNCTIONS = {f.__name__: f for f in (coverage, location, cut, squares)}
SUBMODULAR = ("coverage", "location", "cut")


def by_definition(of, n, candidates, chosen=()):
    chosen, gains = list(chosen), []
    start = len(chosen)
    for _ in range(n):
        gain = {j: of([*chosen, j]) - of(chosen) for j in sorted(set(candidates) - set(chosen))}
        top = max(gain.values())
        row = min(j for j, g in gain.items() if g >= top - 1e-12 * abs(top))
        chosen.append(row)
        gains.append(gain[row])
    return chosen[start:], gains


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("batch", [(1, 1), (3, 7), (64, 4096)])
def test_picks_are_the_definitions(name, seed, batch, monkeypatch):
    monkeypatch.setattr(MODULE, "_BATCH", batch)
    monkeypatch.setattr(MODULE, "_LINE", [2, 9, 40, 4096][seed])
    of = FUNCTIONS[name](seed)
    candidates = np.random.default_rng(seed).permutation(40)[:30]
    n = [1, 12, 29, 30][seed]
    rows, gains = by_definition(of, n, candidates)
    for method in ("naive", "auto", "lazy")[: 3 if name in SUBMODULAR else 2]:
        function = Explicit(40, of, name in SUBMODULAR)
        chosen = greedy(function, n, candidates=torch.tensor(candidates), method=method)
        assert chosen.rows.tolist() == rows
        np.testing.assert_allclose(chosen.gains.numpy(), gains, rtol=1e-9, atol=1e-9)
        assert function.chosen == rows
        assert function.value == pytest.approx(sum(gains))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 8), max_size=5), min_size=1, max_size=12),
    st.integers(1, 12),
    st.integers(1, 5),
)
def test_lazy_breaks_ties_as_naive_does(sets, n, batch):
    def of(chosen):
        return float(len(set().union(*(sets[j] for j in chosen))))

    n = min(n, len(sets))
    if not any(sets):
        return
    rows, _ = by_definition(of, n, range(len(sets)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "_BATCH", (batch, batch))
        patch.setattr(MODULE, "_LINE", batch)
        assert greedy(Explicit(len(sets), of), n).rows.tolist() == rows


def test_lazy_asks_for_few_gains(monkeypatch):
    monkeypatch.setattr(MODULE, "_BATCH", (1, 4))
    weights = np.random.default_rng(0).random((20, 2))

    def of(chosen):  # twenty pairs: a pick changes one other gain only
        inside = np.isin(np.arange(40), chosen).reshape(20, 2)
        return float(np.sqrt((weights * inside).sum(1)).sum())

    lazy, naive = (Explicit(40, of) for _ in range(2))
    greedy(lazy, 10)
    greedy(naive, 10, method="naive")
    assert naive.asked == sum(40 - i for i in range(10))
    assert lazy.asked < naive.asked / 2


@pytest.mark.parametrize("method", ["stochastic", "lazier"])
@pytest.mark.parametrize("name", SUBMODULAR)
def test_samples_are_of_the_stated_size_and_the_best_of_each_is_picked(method, name):
    of, n, epsilon = FUNCTIONS[name](1), 10, 0.3
    size = int(np.ceil(40 / n * np.log(1 / epsilon)))
    generator = Generator(3)
    chosen, expected = [], []
    for pick in range(n):
        left = np.setdiff1d(np.arange(40), chosen)
        noise = generator.child("greedy").uniform(left, draw=pick)
        sample = left[np.argsort(noise)[:size]]
        chosen += by_definition(of, 1, sample, chosen)[0]
        expected.append(size)
    function = Explicit(40, of)
    found = greedy(function, n, generator=generator, method=method, epsilon=epsilon)
    assert found.rows.tolist() == chosen
    assert function.asked == sum(expected) or (
        method == "lazier" and function.asked < sum(expected)
    )


def test_samples_belong_to_items_not_to_rows():
    order = np.random.default_rng(0).permutation(40)
    s = np.random.default_rng(1).random((40, 40))
    ids = np.array([f"item {i}" for i in range(40)])

    def run(order):
        def of(chosen):
            return float(s[:, order][:, chosen].max(1).sum()) if chosen else 0.0

        generator = Generator(5, ids=ids[order])
        return order[greedy(Explicit(40, of), 8, generator=generator, method="lazier").rows]

    assert run(np.arange(40)).tolist() == run(order).tolist()


def test_the_promise_of_the_sample_is_kept():
    of = location(2)
    best = of(greedy(Explicit(40, of), 8).rows.tolist())
    values = [
        of(greedy(Explicit(40, of), 8, generator=Generator(s), method="stochastic").rows.tolist())
        for s in range(10)
    ]
    assert np.mean(values) >= 0.97 * best
    assert len(set(values)) > 1


@pytest.mark.parametrize("method", ["naive", "lazy", "stochastic", "lazier"])
def test_a_resumed_run_ends_with_the_same_picks(method):
    of = location(0)
    whole = greedy(Explicit(40, of), 12, method=method, generator=Generator(0))
    for stop in (1, 5, 12):
        earlier = type(whole)(whole.rows[:stop], whole.gains[:stop])
        told = []
        progress = Progress(earlier, tell=told.append)
        function = Explicit(40, of)
        again = greedy(function, 12, method=method, generator=Generator(0), progress=progress)
        assert again.rows.tolist() == whole.rows.tolist()
        assert again.gains.tolist() == pytest.approx(whole.gains.tolist())
        assert function.value == pytest.approx(of(whole.rows.tolist()))
        if stop < 12:
            assert told[-1].rows.tolist() == whole.rows.tolist()


def test_an_interrupted_run_tells_every_pick_it_made():
    of, told = location(0), []

    class Interrupted(Explicit):
        def gains(self, rows=None):
            if len(self.chosen) == 5:
                raise KeyboardInterrupt
            return super().gains(rows)

    with pytest.raises(KeyboardInterrupt):
        greedy(Interrupted(40, of), 12, progress=Progress(tell=told.append))
    whole = greedy(Explicit(40, of), 12)
    assert told[-1].rows.tolist() == whole.rows[:5].tolist()
    assert greedy(Explicit(40, of), 12, progress=Progress(told[-1])).rows.tolist() == (
        whole.rows.tolist()
    )


def test_rows_in_the_set_are_not_picked_and_gains_fall():
    function = Explicit(40, location(0))
    for row in (3, 4):
        function.add(row, float(function.gains(torch.tensor([row]))))
    chosen = greedy(function, 38)
    assert sorted(chosen.rows.tolist()) == sorted(set(range(40)) - {3, 4})
    assert all(a >= b - 1e-9 for a, b in pairwise(chosen.gains.tolist()))


@pytest.mark.parametrize("method", ["naive", "lazy", "stochastic", "lazier"])
def test_ties_may_be_drawn_by_item(method):
    def of(chosen):
        return float(len({j // 10 for j in chosen}))

    ids = np.array([f"item {i}" for i in range(40)])
    firsts = set()
    for seed in range(8):
        ties = Generator(seed, ids=ids)
        options = {"ties": ties, "generator": Generator(0, ids=ids), "method": method}
        rows = greedy(Explicit(40, of), 6, epsilon=1e-9, **options).rows.tolist()
        noise = ties.uniform(40)
        expected = [10 * g + int(noise[10 * g : 10 * g + 10].argmin()) for g in range(4)]
        assert rows[:4] == sorted(expected, key=lambda row: noise[row])
        rest = np.setdiff1d(np.arange(40), rows[:4])
        assert rows[4:] == rest[np.argsort(noise[rest])[:2]].tolist()
        firsts.add(rows[0])
        earlier = type(greedy(Explicit(40, of), 1))(torch.tensor(rows[:3]), torch.ones(3))
        again = greedy(Explicit(40, of), 6, epsilon=1e-9, progress=Progress(earlier), **options)
        assert again.rows.tolist() == rows
    assert len(firsts) > 2


def test_gains_of_minus_infinity_are_picked_last():
    def of(chosen):
        return float(len(chosen)) if 0 not in chosen else -np.inf

    class Walled(Explicit):
        def gains(self, rows=None):
            rows = range(self.size) if rows is None else rows.tolist()
            return torch.tensor([-np.inf if j == 0 else 1.0 for j in rows], dtype=torch.float64)

    for method in ("naive", "lazy"):
        assert greedy(Walled(4, of), 4, method=method).rows.tolist() == [1, 2, 3, 0]


def test_bad_requests_name_the_rule_and_the_value():
    nothing = Explicit(5, lambda chosen: 0.0)
    with pytest.raises(InputError, match="no candidate gains anything"):
        greedy(nothing, 2)
    with pytest.raises(InputError, match="no candidate gains anything"):
        greedy(nothing, 2, method="stochastic", generator=Generator(0))
    some = Explicit(5, lambda chosen: float(len(chosen)), submodular=False)
    with pytest.raises(InputError, match=r"n must be in 1\.\.5 .* got 6"):
        greedy(some, 6)
    with pytest.raises(InputError, match=r"'lazy' is right for submodular .* use 'naive'"):
        greedy(some, 1, method="lazy")
    with pytest.raises(InputError, match="'lazier' is right for submodular"):
        greedy(some, 1, method="lazier", generator=Generator(0))
    with pytest.raises(InputError, match="did you mean lazy"):
        greedy(some, 1, method="lzy")
    with pytest.raises(InputError, match="needs a generator"):
        greedy(some, 1, method="stochastic")
    with pytest.raises(InputError, match="epsilon must be between 0 and 1, got 1"):
        greedy(some, 1, method="stochastic", generator=Generator(0), epsilon=1)
    with pytest.raises(InputError, match=r"candidates must be rows in 0\.\.4, got 7"):
        greedy(some, 1, candidates=torch.tensor([7]))
    with pytest.raises(ResourceError, match="memory must be at least"):
        greedy(some, 1, memory=10)
    broken = Explicit(5, lambda chosen: np.nan if 3 in chosen else 1.0)
    with pytest.raises(InputError, match="gain of row 3 is not a number"):
        greedy(broken, 1)
    stale = Progress(type(greedy(some, 1))(torch.tensor([2]), torch.tensor([1.0])))
    with pytest.raises(InputError, match="it holds row 2, which may not be picked"):
        greedy(Explicit(5, some.of), 2, candidates=torch.tensor([0, 1, 3]), progress=stale)


def test_functions_without_gain_to_begin_with_may_gain_later():
    of = Explicit(4, lambda chosen: float(len(chosen) * (len(chosen) - 1)), submodular=False)
    assert greedy(of, 3).rows.tolist() == [0, 1, 2]
