"""A selection that is stopped goes on to the picks it would have made."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from labelwise.errors import InputError, ResourceError
from labelwise.strategies import select


class Stop(Exception):
    """Raised by the test in the middle of a run."""


@pytest.fixture
def pool():
    rng = np.random.default_rng(0)
    return {
        "embeddings": rng.normal(size=(3000, 8)).astype(np.float32),
        "probs": rng.dirichlet(np.ones(4), size=3000),
    }


def stopped(name, n, path, monkeypatch, **arrays):
    """Run until some picks are made and written."""
    monkeypatch.setattr("labelwise.strategies.watch._SAVED_EVERY", 0.0)

    def stop(status):
        if status.picked >= n // 3:
            raise Stop

    with pytest.raises(Stop):
        select(name, n, checkpoint=path, progress=stop, **arrays)
    assert path.exists()


@pytest.mark.parametrize("name", ["k_center", "badge"])
def test_the_picks_are_those_of_an_uninterrupted_run(name, pool, tmp_path, monkeypatch):
    arrays = pool if name == "badge" else {"embeddings": pool["embeddings"]}
    whole = select(name, 900, **arrays)
    path = tmp_path / "picks.ckpt"
    stopped(name, 900, path, monkeypatch, **arrays)
    seen = []
    again = select(name, 900, checkpoint=path, progress=seen.append, **arrays)
    assert again.rows.tolist() == whole.rows.tolist()
    assert again.scores.tolist() == whole.scores.tolist()
    assert seen[0].picked >= 300
    assert seen[-1].picked == 900
    assert seen[-1].left == (0.0, 0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_belongs_to_its_call(pool, tmp_path, monkeypatch):
    path = tmp_path / "picks.ckpt"
    x = pool["embeddings"]
    stopped("k_center", 900, path, monkeypatch, embeddings=x)
    other = x.copy()
    other[0] += 1
    for changed in (
        {"embeddings": other},
        {"embeddings": x, "labeled": [3]},
        {"embeddings": x, "seed": 1},
        {"embeddings": x, "metric": "cosine"},
        {"embeddings": x, "candidates": range(2000)},
    ):
        with pytest.raises(InputError, match=r"left by another call.*; delete it"):
            select("k_center", 900, checkpoint=path, **changed)
    with pytest.raises(InputError, match="left by another call"):
        select("k_center", 901, checkpoint=path, embeddings=x)
    assert path.exists()


def test_what_is_no_checkpoint_is_left_alone(pool, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(InputError, match="cannot be read"):
        select("k_center", 5, checkpoint=path, embeddings=pool["embeddings"])
    assert path.read_text() == "mine"


def test_strategies_that_pick_at_once_keep_none(pool, tmp_path):
    with pytest.raises(InputError, match="margin makes all its picks at once"):
        select("margin", 5, checkpoint=tmp_path / "c", probs=pool["probs"])


def test_a_folder_that_cannot_be_written_is_said(pool, tmp_path, monkeypatch):
    monkeypatch.setattr("labelwise.strategies.watch._SAVED_EVERY", 0.0)
    with pytest.raises(ResourceError, match="cannot be written"):
        select("k_center", 9, checkpoint=tmp_path / "no" / "c", embeddings=pool["embeddings"])


def test_ctrl_c_leaves_nothing_but_the_checkpoint(tmp_path):
    """A real process, interrupted by a real signal while it reads a file and writes picks."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20_000, 64)))
    program = """
        import time, labelwise.strategies.watch as watch
        from labelwise.kernels import Euclidean
        from labelwise.strategies import select
        watch._SAVED_EVERY = 0.0
        Euclidean.__init__.__kwdefaults__["hold"] = 0  # read the file in every pass
        def slowly(status):
            print(status.picked, flush=True)
            time.sleep(0.2)
        select("k_center", 6000, embeddings="x.npy", checkpoint="c", progress=slowly)
    """
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    run = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for _ in range(4):
        run.stdout.readline()
    run.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, errors = run.communicate(timeout=60)
    assert run.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert time.monotonic() - start < 20
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "scratch", "x.npy"]
    assert list(scratch.iterdir()) == []
    whole = select("k_center", 6000, embeddings=tmp_path / "x.npy")
    again = select("k_center", 6000, embeddings=tmp_path / "x.npy", checkpoint=tmp_path / "c")
    assert again.rows.tolist() == whole.rows.tolist()
