"""A bound on memory holds for the process: anonymous pages, measured while a call runs."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from labelwise.errors import ResourceError
from labelwise.strategies import select

ROWS, WIDTH, CLASSES = 60_000, 128, 20

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Evidence on disk whose float32 form alone would break the bounds below."""
    at = tmp_path_factory.mktemp("pool")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, WIDTH)).astype(np.float16)
    w = rng.normal(size=(CLASSES, WIDTH)).astype(np.float32) / 4
    np.save(at / "embeddings.npy", x)
    np.save(at / "head_weight.npy", w)
    np.save(at / "logits.npy", (x.astype(np.float32) @ w.T).astype(np.float16))
    return at


def peak(folder, name, memory, *evidence):
    """Bytes of anonymous memory a call takes beyond what the process held before it."""
    program = f"""
        import json, sys
        import numpy as np
        from labelwise.strategies import select
        from perf.common import PeakMemory
        evidence = {{name: f"{folder}/{{name}}.npy" for name in {evidence!r}}}
        small = {{name: np.load(path)[:2000] for name, path in evidence.items()}}
        select({name!r}, 50, **small)  # libraries and threads come with the first call
        with PeakMemory() as held:
            picks = select({name!r}, 400, memory={memory}, **evidence)
        print(json.dumps([held.megabytes * 1e6, picks.rows.tolist()]))
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize(
    ("name", "memory", "evidence"),
    [
        ("k_center", 60_000_000, ["embeddings"]),
        ("badge", 120_000_000, ["logits", "embeddings"]),
        ("base", 24_000_000, ["logits", "head_weight"]),
        ("margin", 12_000_000, ["logits"]),
        ("entropy", 12_000_000, ["logits"]),
        ("mase", 12_000_000, ["logits", "head_weight"]),
    ],
)
def test_the_bound_is_kept(folder, name, memory, evidence):
    held, rows = peak(folder, name, memory, *evidence)
    assert held <= memory
    arrays = {key: np.load(folder / f"{key}.npy") for key in evidence}
    assert rows == select(name, 400, **arrays).rows.tolist()


@pytest.mark.parametrize("name", ["k_center", "badge", "base"])
def test_too_small_a_bound_names_the_least_that_works(folder, name):
    evidence = ["logits", "head_weight"] if name == "base" else ["logits", "embeddings"]
    arrays = {
        key: folder / f"{key}.npy" for key in evidence if (name, key) != ("k_center", "logits")
    }
    with pytest.raises(ResourceError, match="memory must be at least") as error:
        select(name, 400, memory=1000, **arrays)
    number, unit = str(error.value).split("at least ")[1].split()[:2]
    least = float(number) * {"MB": 1e6, "bytes": 1}[unit]
    select(name, 400, memory=int(least * 1.01), **arrays)
