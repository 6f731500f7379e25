"""A simulation on two processes of ``torchrun`` ends where one process does."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from labelwise.benchmark import Results
from labelwise.cli import main

WAIT = 400
"""Seconds for a command, on a machine that does other things too."""


@pytest.fixture
def arguments(tmp_path):
    generator = np.random.default_rng(0)
    classes = generator.integers(3, size=90)
    points = generator.normal(size=(90, 2)) + 2.0 * np.stack([classes, -classes], axis=1)
    lines = [f"{x:.4f},{y:.4f},{'abc'[c]}" for (x, y), c in zip(points, classes)]
    (tmp_path / "blobs.csv").write_text("width,height,label\n" + "\n".join(lines) + "\n")
    return [
        *("simulate", str(tmp_path / "blobs.csv"), "--label", "label", "--no-full"),
        *("--initial", "7", "--batch", "4", "--rounds", "1", "--seeds", "1", "--learner", "mlp"),
        *("--learner-option", "epochs=2", "--learner-option", "min_steps=20"),
        *("--learner-option", "hidden=8", "--cache", str(tmp_path / "cache")),
    ]


@pytest.fixture
def environment():
    path = os.pathsep.join(each for each in sys.path if each)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def torchrun(environment, arguments):
    """Output and errors of a command on two ranks."""
    launch = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port())
    done = subprocess.run(
        [sys.executable, *launch, "-m", "labelwise", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=WAIT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def by_hand(environment, arguments):
    """The same without the launcher: what it sets is all that matters."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "labelwise", *arguments],
            env={**environment, **shared, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=WAIT) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], said
    return said


@pytest.mark.slow
def test_two_ranks_write_what_one_process_writes(arguments, environment, tmp_path):
    def record(folder, strategy):
        table = Results.load(tmp_path / folder).table.to_pylist()
        (found,) = [row for row in table if row["strategy"] == strategy and row["round"] == 1]
        return found

    two = [*arguments, "--out", str(tmp_path / "two")]
    out, error = torchrun(environment, [*two, "--strategies", "margin"])
    assert out.count("report:") == 1
    assert "Traceback" not in error
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--out", str(tmp_path / "one"), "--strategies", "margin,entropy"])
    assert ended.value.code == 0
    # All ranks go on from what rank 0 had written.
    first, second = by_hand(environment, [*two, "--strategies", "margin,entropy"])
    assert "report:" in first[0]
    assert second[0] == ""
    for strategy in ("margin", "entropy"):
        alone, together = record("one", strategy), record("two", strategy)
        assert alone["picked_ids"] == together["picked_ids"]
        assert alone["accuracy"] == pytest.approx(together["accuracy"], abs=0.06)


@pytest.mark.slow
def test_two_ranks_pretrain_what_one_process_does(environment, tmp_path):
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(90, 6)).astype(np.float32)
    np.savez(tmp_path / "blobs.npz", x=rows, y=np.arange(90) % 3)
    command = ["pretrain", str(tmp_path / "blobs.npz"), "--method", "simclr:hidden=8:width=4"]
    command += ["--epochs", "3", "--option", "unlabeled_minibatch=25", "--every", "1"]
    command += ["--network-option", "hidden=8", "--cache", str(tmp_path / "cache")]
    out, error = torchrun(environment, [*command, "--out", str(tmp_path / "two")])
    assert "Traceback" not in error
    assert out.count("encoder: pretrained:") == 1
    with pytest.raises(SystemExit) as ended:
        main([*command, "--out", str(tmp_path / "one")])
    assert ended.value.code == 0
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, values in one.items():
        torch.testing.assert_close(two[name], values, atol=1e-4, rtol=1e-4)
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert [len(log) for log in logs] == [3, 3]
