"""Pretraining on two gloo processes: the encoder of one process, and a clear end of a lost rank.

Run as a program this file is one of the two.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from labelwise.cli import main
from labelwise.errors import InputError, LabelwiseError, ResultsError
from labelwise.learners import load_model, pretrain
from labelwise.learners.objectives.simclr import SimCLR
from labelwise.learners.parallel import joined
from labelwise.pools import ArrayPool, Data, ImagePool, PixelImages

WAIT = 400
"""Seconds for all of it, on a machine that does other things too."""

LOST = 9
"""The exit code of the rank that is lost."""


def points(count):
    """Rows of three classes, and their labels."""
    labels = np.arange(count) % 3
    rows = np.random.default_rng(0).normal(size=(count, 12))
    return (rows + 2 * np.repeat(np.eye(3), 4, 1)[labels]).astype(np.float32), labels


def blobs(count=100):
    """Three classes, and a test set."""
    rows, labels = points(count + 30)
    pools = ArrayPool(rows[:count]), ArrayPool(rows[count:], [f"t{i}" for i in range(30)])
    return Data(pools[0], labels[:count], pools[1], labels[count:], ["a", "b", "c"], "blobs")


def images():
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (32, 8, 8, 3)).astype(np.uint8)
    return Data(ImagePool(PixelImages(pixels)), np.full(32, -1), None, None, ["a", "b"], "images")


TABLE = {"network_options": {"hidden": 10}, "unlabeled_minibatch": 33, "every": 2}
IMAGES = {"network_options": {"width": 2}, "unlabeled_minibatch": 16, "every": 1, "epochs": 2}
CASES = {
    # Every row is told from all others of the minibatch, which stand on the other rank too.
    "simclr": (blobs, {"method": "simclr:hidden=16:width=8", "epochs": 4, **TABLE}),
    # Features are decorrelated over the whole minibatch; a network with batch normalization.
    "barlow_twins": (images, {"method": "barlow_twins:hidden=16:width=8", **IMAGES}),
    "moco": (images, {"method": "moco:hidden=16:width=8:queue=20", **IMAGES}),
}


class Mortal(SimCLR):
    """Rank 1 does not come back from the eighth step."""

    name = "simclr"

    def forward(self, unlabeled, step, labeled=None):
        if step.number == 8 and os.environ.get("RANK") == "1":
            os._exit(LOST)
        return super().forward(unlabeled, labeled)


def mortal():
    return {**CASES["simclr"][1], "method": Mortal(hidden=16, width=8)}


def command(path, out):
    options = ["--epochs", 2, "--option", "unlabeled_minibatch=33", "--every", 1, "--threads", 1]
    options += ["--method", "vicreg:hidden=16:width=8", "--network-option", "hidden=10"]
    given = ["pretrain", path, "--out", out, "--cache", path.with_name("cache"), *options]
    return [str(each) for each in given]


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two ranks left: a folder for each case, and what each of them said."""
    folder = tmp_path_factory.mktemp("ranks")
    rows, labels = points(120)
    np.savez(folder / "blobs.npz", x=rows, y=labels)
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    shared["PYTHONPATH"] = os.pathsep.join(each for each in sys.path if each)
    ports = ",".join(free_port() for _ in range(3))
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), ports],
            env={**os.environ, **shared, "RANK": str(rank)},
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
    assert [rank.returncode for rank in ranks] == [0, LOST], said
    for rank, (out, _) in enumerate(said):
        (folder / f"{rank}.out").write_text(out)
    return folder


def told(folder):
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def close(one, other):
    """Two networks within 2e-3 of a weight's size, as fits on ranks are."""
    mine, theirs = (load_file(each / "model.safetensors") for each in (one, other))
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=2e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_end_with_the_encoder_of_one(case, folder, tmp_path):
    make, options = CASES[case]
    alone = pretrain(make(), tmp_path, **options)
    close(folder / case, tmp_path)
    log = [json.loads(line) for line in (folder / case / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == list(range(1, alone.epochs + 1))
    for rank in told(folder):
        assert rank[case]["epochs"] == alone.epochs
        assert rank[case]["loss"] == pytest.approx(alone.loss, rel=1e-3)
        for name, value in alone.found.items():
            assert rank[case]["found"][name] == pytest.approx(value, rel=0.02, abs=0.02)


def test_it_is_the_network_that_learned(folder, tmp_path):
    """What two ranks end with is not what they began with."""
    make, options = CASES["simclr"]
    pretrain(make(), tmp_path, **{**options, "learning_rate": 1e-12, "epochs": 1})
    with pytest.raises(AssertionError):
        close(folder / "simclr", tmp_path)


def test_minutes_are_settled_for_all(folder):
    card = json.loads((folder / "minutes" / "pretraining.json").read_text())
    assert [rank["minutes"]["epochs"] for rank in told(folder)] == [card["epochs"]] * 2


def test_one_rank_reads_the_folder_and_all_hear_of_it(folder):
    for rank in told(folder):
        assert rank["again"] is True
        assert "holds a pretraining of another seed (0 there, 1 here)" in rank["refused"]
        assert "must be given the same" in rank["differ"]


def test_the_command_says_everything_once(folder, tmp_path):
    first, second = ((folder / f"{rank}.out").read_text() for rank in range(2))
    assert first.startswith("2 epochs in ")
    assert first.rstrip().endswith(f"encoder: pretrained:{folder / 'command'}")
    assert second == ""
    with pytest.raises(SystemExit) as ended:
        main(command(folder / "blobs.npz", tmp_path / "alone"))
    assert ended.value.code == 0
    close(folder / "command", tmp_path / "alone")


def test_a_rank_that_dies_ends_the_other_and_its_work_goes_on(folder, tmp_path):
    rank = told(folder)[0]
    assert "rank 0 of 2 lost the others: one has ended, or did not" in rank["died"]
    assert "\n" not in rank["died"]
    assert rank["died seconds"] < 30  # not the half hour it would wait for an answer
    # One process goes on from the checkpoint that two wrote, to where one ends.
    card = json.loads((folder / "mortal" / "checkpoint" / "checkpoint.json").read_text())
    assert card["epoch"] == 2
    done = pretrain(blobs(), folder / "mortal", **mortal())
    assert done.epochs == 4
    pretrain(blobs(), tmp_path, **CASES["simclr"][1])
    close(folder / "mortal", tmp_path)
    assert load_model(folder / "mortal").classes == 3


# One of the two processes.


def everything(folder, ranks):
    found = {}
    for case, (make, options) in CASES.items():
        done = pretrain(make(), folder / case, **options)
        found[case] = {"epochs": done.epochs, "loss": done.loss, "found": done.found}
    make, options = CASES["simclr"]
    done = pretrain(make(), folder / "minutes", **{**options, "epochs": None, "minutes": 0.02})
    found["minutes"] = {"epochs": done.epochs}
    # As on machines without a disk in common, where another rank finds nothing.
    here = folder / ("simclr" if ranks.first else "elsewhere")
    again = pretrain(make(), here, **options)
    found["again"] = again.loss == found["simclr"]["loss"]
    with pytest.raises(ResultsError) as refused:
        pretrain(make(), here, seed=1, **options)
    found["refused"] = str(refused.value)
    with pytest.raises(InputError) as refused:
        pretrain(blobs(100 + ranks.rank), folder / "differ", **options)
    found["differ"] = str(refused.value)
    return found


def program(folder, ports):
    folder, ports = Path(folder), iter(ports.split(","))
    os.environ["MASTER_PORT"] = next(ports)
    with joined() as ranks:
        found = everything(folder, ranks)
    os.environ["MASTER_PORT"] = next(ports)
    with contextlib.suppress(SystemExit):
        main(command(folder / "blobs.npz", folder / "command"))
    sys.stdout.flush()
    os.environ["MASTER_PORT"] = next(ports)
    path = folder / f"{ranks.rank}.json"
    path.write_text(json.dumps(found))
    start = time.monotonic()
    with joined(), pytest.raises(LabelwiseError) as ended:
        pretrain(blobs(), folder / "mortal", **mortal())
    found |= {"died": str(ended.value), "died seconds": time.monotonic() - start}
    path.write_text(json.dumps(found))


if __name__ == "__main__":
    program(*sys.argv[1:])
