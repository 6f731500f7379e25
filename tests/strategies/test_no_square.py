"""No strategy builds a number for each pair of rows, or for each row, class and column."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from perf.strategies import page_strategies

ROWS, CLASSES, WIDTH = 20_000, 20, 192
MOST = 275e6
"""Bytes: 4 N C D are 307 million, and N x N is 400 million even at a byte each."""

OTHER_SIZES = {"bait": (10, 200, 250e6)}
"""BAIT documents 16 N C^2 + 32 (C D)^2 bytes, here 160 million; 4 N C D more would break it."""

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")

PROGRAM = f"""
import json, sys
import labelwise as lw
from labelwise.strategies import get_strategy
from perf.common import PeakMemory
from perf.strategies import evidence
for name, classes, width in json.loads(sys.argv[1]):
    found = get_strategy(name)
    lw.select(name, 20, **evidence(found, 500, classes, width))
    given = evidence(found, {ROWS}, classes, width)
    with PeakMemory() as held:
        lw.select(name, 20, **given)
    print(json.dumps([name, held.megabytes * 1e6]))
"""


def sizes(name):
    """Classes, width and the most bytes a strategy may take."""
    return OTHER_SIZES.get(name, (CLASSES, WIDTH, MOST))


@pytest.fixture(scope="module")
def held():
    """Bytes each strategy takes beyond its evidence, all in one process."""
    asked = [(one.name, *sizes(one.name)[:2]) for one in page_strategies()]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(asked)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
    )
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(line) for line in ran.stdout.splitlines())


@pytest.mark.parametrize("name", [one.name for one in page_strategies()])
def test_memory_grows_with_neither(held, name):
    assert held[name] < sizes(name)[2]
