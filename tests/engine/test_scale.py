"""The page on scale says what its formulas give, and the formulas what a run exchanges."""

from pathlib import Path

import numpy as np
import pytest
from perf import scale
from perf.common import table
from perf.ray import Exchange

from labelwise.engine import LocalShards
from labelwise.kernels import farthest_first
from labelwise.kernels.farthest import BLOCK

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


def test_the_page_has_the_table_that_the_formulas_give():
    assert table(scale.run()) in PAGE.read_text()


def test_a_line_of_the_table_by_hand():
    """10^9 x 2,048 float16 on 64 machines of 3.2 TFLOP/s that read 3 GB/s."""
    row = scale.cost(1e9, scale.DISK, 64)
    assert row["held a shard, GB"] == pytest.approx(33 * 15.625e6 / 1e9)
    assert row["products, s"] == pytest.approx(2 * 1e9 * 1e4 * 2048 / 3.2e12 / 64)
    assert row["reading, s"] == pytest.approx(200 * 64e9 / 3e9)
    assert row["a block, MB"] == pytest.approx(768 * (25 * 64 + 2 * 2048 + 17) / 1e6)
    assert row["in all, min"] == pytest.approx(4284.5 / 60, rel=0.01)


@pytest.mark.parametrize("shards", [2, 7])
def test_a_run_exchanges_what_the_formulas_say(shards):
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(40, 48))
    x = (centers[rng.integers(0, 40, 8000)] + 0.5 * rng.normal(size=(8000, 48))).astype(np.float16)
    picks, point = 300, 2 * 48
    with LocalShards(x, shards=shards) as pool:
        ask, asked = pool.crew.ask, []

        def watched(calls):
            asked.append(next(iter(calls.values()))[0])
            return ask(calls)

        pool.crew.ask = watched
        with Exchange(pool) as exchange:
            farthest_first(pool, picks)
    blocks = asked.count("front")
    assert exchange.rounds <= 3 * blocks + 8
    most = blocks * BLOCK * (25 * shards + point + 17) + picks * point * shards
    assert most / 4 < exchange.bytes < most + 50_000
