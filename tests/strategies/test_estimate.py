"""Estimates: the outcome lies within them, and they cost next to nothing."""

import time

import numpy as np
import pytest
from tests.test_battery import make_network, make_pool

from labelwise.errors import InputError, ResourceError
from labelwise.kernels.cost import Sizes, Work
from labelwise.strategies import Estimate, estimate, get_strategy, list_strategies, select, strategy
from labelwise.strategies.registry import forget


@pytest.fixture(scope="module")
def pool():
    return make_pool(size=3000)[0] | make_network()


def fastest(call, enough, tries=8):
    """Seconds of the first call that is fast enough, else of the fastest: others run here too."""
    best = np.inf
    for _ in range(tries):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        if best <= enough:
            break
    return best


@pytest.mark.parametrize("name", [s.name for s in list_strategies() if not s.simulation_only])
def test_the_outcome_lies_in_the_interval(name, pool):
    labeled, labels = np.arange(8), np.arange(8) % 4
    said = estimate(name, 50, labeled=labeled, labels=labels, **pool)
    select(name, 50, labeled=labeled, labels=labels, **pool)  # first calls import libraries
    least, most = said.seconds
    took = fastest(lambda: select(name, 50, labeled=labeled, labels=labels, **pool), most * 3)
    assert least <= took * 3
    assert took <= most * 3  # others run on this machine: the benchmark holds it to the interval
    if get_strategy(name).cost is None:  # it depends on the model, and was measured
        assert said.memory is None
    else:
        assert 0 < said.memory[0] < said.memory[1]


def test_estimates_grow_with_the_pool_and_the_picks(pool):
    for found in list_strategies():
        if found.cost is None:
            continue
        small = found.cost(Sizes(rows=10_000, n=100, width=64, classes=10, draws=5, stored=256))
        large = found.cost(Sizes(rows=80_000, n=100, width=64, classes=10, draws=5, stored=256))
        assert large.held[1] > small.held[1], found.name
        assert large.numbers[1] + large.products[1] > small.numbers[1] + small.products[1]


def test_a_strategy_of_your_own_is_measured_on_samples(pool):
    @strategy(cite="test")
    def slow_pairs(embeddings, *, n, candidates):
        x = embeddings.tensor().double()
        near = (x @ x.T).amax(1)  # quadratic
        time.sleep(0.01)
        return near.argsort()[:n]

    try:
        said = estimate("slow_pairs", 20, embeddings=pool["embeddings"], seed=3)
        assert said.memory is None
        assert 0.005 < said.seconds[0] < said.seconds[1] < 60
        least, most = said.seconds[0] / 3, said.seconds[1] * 3
        took = fastest(lambda: select("slow_pairs", 20, embeddings=pool["embeddings"]), most)
        assert least < took < most
    finally:
        forget("slow_pairs")


def test_a_measured_strategy_sees_labels_and_draws():
    seen = []

    @strategy(cite="test")
    def looks(draws, labeled, labels, *, n, candidates):
        seen.append((draws.shape, len(labeled), len(labels)))
        return candidates[:n]

    draws = np.full((3, 600, 2), 0.5)
    try:
        estimate("looks", 10, draws=draws, labeled=[5, 9], labels=[0, 1])
    finally:
        forget("looks")
    assert seen[0] == ((3, 258, 2), 2, 2)


def test_a_measured_strategy_sees_as_little_of_what_providers_give():
    seen = []

    def embeddings():
        return np.zeros((600, 3))

    @strategy(cite="test")
    def watches(embeddings, *, n, candidates):
        seen.append(len(embeddings))
        return candidates[:n]

    try:
        estimate("watches", 10, providers=[embeddings])
    finally:
        forget("watches")
    assert seen[0] == 256


def test_what_select_refuses_estimate_refuses(pool):
    with pytest.raises(InputError, match="there is no strategy"):
        estimate("margn", 5, **pool)
    with pytest.raises(InputError, match=r"n must be in 1\.\.3000"):
        estimate("margin", 5000, **pool)
    with pytest.raises(InputError, match="Missing: pass embeddings"):
        estimate("k_center", 5, probs=pool["probs"])
    with pytest.raises(InputError, match="did you mean embeddings"):
        estimate("k_center", 5, embedings=pool["embeddings"])


def test_the_least_memory_of_a_strategy_without_a_bound_of_its_own(pool):
    with pytest.raises(ResourceError, match=r"memory must be at least 0.024 MB for margin"):
        select("margin", 5, probs=pool["probs"], memory=1000)
    select("margin", 5, probs=pool["probs"], memory="1MB")


def test_sums_of_work():
    both = Work(products=(1, 2), held=(3, 4)) + Work(products=(10, 20), passes=(1, 1))
    assert (both.products, both.held, both.passes) == ((11, 22), (3, 4), (2, 3))


def test_how_it_reads():
    assert repr(Estimate("a", (0.2, 0.5), None)) == "a: 0.2 to 0.5 s"
    assert repr(Estimate("a", (50, 7300), (1e6, 3e6))) == (
        "a: 0.014 to 2 h, 1 to 3 MB beyond the input"
    )
