"""Strategies of what training leaves behind, from the command line, as its error lines tell."""

import json
import re
import shlex
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from labelwise.benchmark import Results
from labelwise.learners import list_encoders, list_learners
from labelwise.learners.given_by import given_by
from labelwise.learners.objectives import parse_objectives
from labelwise.learners.pretraining_recipes import list_methods
from labelwise.strategies import get_strategy, list_strategies

LEARNED = ["tod", "lpl", "vaal", "waal", "dalbt", "adma", "pt4al"]
ASKED_BY_NAME = {"lpl": "predicted_loss", "vaal": "latent_discriminator", "waal": "critic"}
QUICK = ["--learner-option", "epochs=1", "--learner-option", "min_steps=6"]
PATCHES = ["--encoder", "patches-fast", "--encoder-option", "filters=6"]
PATCHES += ["--encoder-option", "size=12"]
SIZE = 12
"""Side of the images."""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A file of 160 small images in three classes: which part is bright."""
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 3
    pixels = rng.integers(0, 120, (160, SIZE, SIZE, 3))
    for label in range(3):
        pixels[labels == label, 4 * label : 4 * label + 4] += 110
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, x=pixels.astype(np.uint8), y=labels)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def simulate(run, images, cache, tmp_path):
    """Called with a strategy and further arguments."""

    def call(strategy, *arguments, initial=12, out="out"):
        return run(
            *("simulate", images, "--strategies", strategy, "--out", tmp_path / out),
            *("--initial", initial, "--batch", 6, "--rounds", 2, "--seeds", 1, "--no-full"),
            *("--cache", cache, "--threads", 1, *arguments),
        )

    return call


def table(folder):
    results = Results.load(folder)
    assert results.complete
    return results.table.to_pylist()


@pytest.mark.parametrize("name", ["tod", "lpl", "vaal", "waal", "dalbt"])
@pytest.mark.parametrize("learner", ["mlp", "resnet18"])
def test_with_the_objectives_a_strategy_was_published_with(name, learner, simulate, tmp_path):
    objectives = get_strategy(name).objectives
    if name == "vaal":
        objectives += ":hidden=16:latent=4:width=4"
    if name == "dalbt":
        objectives += ":hidden=16:width=8"
    shape = "hidden=16" if learner == "mlp" else "width=4"
    code, _, err = simulate(
        *(name, "--learner", learner, "--learner-option", shape, *QUICK),
        *("--learner-option", f"objectives={objectives}"),
        *(PATCHES if learner == "mlp" else ()),
    )
    assert code == 0, err
    rows = table(tmp_path / "out")
    assert [row["labels"] for row in rows] == [12, 18, 24]
    scores = [row["picked_scores"] for row in rows[1:]]
    assert all(len(set(each)) > 1 for each in scores)
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["encoder"]["name"] == ("patches-fast" if learner == "mlp" else "pixels")


@pytest.mark.parametrize("name", ASKED_BY_NAME)
def test_the_error_line_tells_the_options_that_work(name, simulate, tmp_path):
    code, _, err = simulate(name, "--learner", "logistic", *PATCHES)
    line = err.strip().splitlines()[-1]
    assert code == 2
    assert line.startswith(f"error: strategy {name!r} needs {ASKED_BY_NAME[name]}, which the ")
    told = re.search(r"--learner \S+ --learner-option \S+", line)
    assert told, line
    smaller = ["--learner-option", "hidden=16", *QUICK]
    code, _, err = simulate(name, *shlex.split(told[0]), *smaller, *PATCHES, out="told")
    assert code == 0, err
    assert len(table(tmp_path / "told")) == 3


def test_pt4al_from_a_cold_start_by_the_loss_that_pretraining_left(run, simulate, images, tmp_path):
    code, _, err = simulate("pt4al", initial=0)
    assert code == 2
    line = err.strip().splitlines()[-1]
    assert "'pt4al' needs pretext_loss, which no model gives before there are labels" in line
    assert "pretrain --method rotation, as --evidence pretext_loss=FOLDER" in line
    folder = tmp_path / "rotation"
    code, out, err = run(
        *("pretrain", images, "--out", folder, "--method", "rotation", "--epochs", 3),
        *("--network-option", "width=4", "--cache", tmp_path / "cache", "--threads", 1),
    )
    assert code == 0, err
    assert f"--evidence pretext_loss={folder}" in out
    loss = np.load(folder / "pretext_loss.npy")
    half = len(pool_ids(images)) // 2
    assert loss.shape == (len(pool_ids(images)),)
    learner = ["--learner", "resnet18", "--learner-option", "width=4", *QUICK]
    code, _, err = simulate("pt4al", *learner, "--evidence", f"pretext_loss={folder}", initial=0)
    assert code == 0, err
    rows = table(tmp_path / "out")
    assert [row["labels"] for row in rows] == [6, 12]
    hardest = np.argsort(-loss, kind="stable")
    ids = {item: place for place, item in enumerate(pool_ids(images))}
    first, second = ([ids[item] for item in row["picked_ids"]] for row in rows)
    assert first == hardest[:half][np.arange(6) * half // 6].tolist()
    assert set(second) <= set(hardest[half:].tolist())
    # The same as a file, and what does not fit it.
    code, _, err = simulate(
        *("pt4al", *learner, "--evidence", f"pretext_loss={folder / 'pretext_loss.npy'}"),
        initial=0, out="file",
    )  # fmt: skip
    assert code == 0, err
    again = table(tmp_path / "file")
    assert [row["picked_ids"] for row in again] == [row["picked_ids"] for row in rows]


def pool_ids(path):
    from labelwise.pools import open_data

    return open_data(str(path)).pool.ids


def test_evidence_that_does_not_fit_is_one_line(run, simulate, images, tmp_path):
    (tmp_path / "short.txt").write_text("1.5\n2\n")
    (tmp_path / "whole.txt").write_text("1\n2\n")
    for given, code, part in (
        ("pretext_loss=nowhere.npy", 2, "there is no file 'nowhere.npy'"),
        (f"pretext_loss={tmp_path}", 3, "holds no pretraining"),
        (f"pretext_loss={tmp_path / 'short.txt'}", 2, "number of pool rows is 2, but the pool"),
        (f"labels={tmp_path / 'whole.txt'}", 2, "'labels' cannot be given to a simulation"),
        (f"draws={tmp_path / 'short.npy'}", 2, "no file"),
        ("pretext_loss", 2, "--evidence must be written name=value"),
    ):
        found, _, err = simulate("pt4al", "--evidence", given, initial=0)
        assert found == code, err
        assert part in err.strip().splitlines()[-1]
        assert "Traceback" not in err
    folder = tmp_path / "simclr"
    code, _, err = run(
        *("pretrain", images, "--out", folder, "--method", "simclr:hidden=8:width=4"),
        *("--epochs", 1, "--network-option", "width=4", "--cache", tmp_path / "cache"),
    )
    assert code == 0, err
    code, _, err = simulate("pt4al", "--evidence", f"pretext_loss={folder}", initial=0)
    assert code == 3
    assert "by simclr left no pretext_loss" in err


def test_a_pretext_loss_of_another_pool_is_refused(run, images, tmp_path):
    folder = tmp_path / "rotation"
    code, _, err = run(
        *("pretrain", images, "--out", folder, "--method", "rotation", "--epochs", 1),
        *("--network-option", "width=4", "--cache", tmp_path / "cache", "--holdout", 0.4),
    )
    assert code == 0, err
    code, _, err = run(
        *("simulate", images, "--strategies", "pt4al", "--initial", 0, "--batch", 4),
        *("--out", tmp_path / "out", "--evidence", f"pretext_loss={folder}"),
    )
    assert code == 2
    assert "was of another pool, so its pretext_loss is of other items" in err


def test_pt4al_by_the_learner_s_own_rotation(simulate, tmp_path):
    code, _, err = simulate(
        *("pt4al", "--learner", "resnet18", "--learner-option", "width=4", *QUICK),
        *("--learner-option", "objectives=cross_entropy+rotation:weight=0.5"),
    )
    assert code == 0, err
    assert len(table(tmp_path / "out")) == 3


class Tiny(nn.Module):
    """A stand-in for a pretrained network of seven classes."""

    num_features = 6

    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 5, 3)
        self.fc1 = nn.Linear(5, 6)
        self.fc = nn.Linear(6, num_classes) if num_classes else nn.Identity()

    def forward(self, x):
        x = torch.relu(self.conv1(x)).mean((2, 3))
        return self.fc(self.fc1(x))


@pytest.fixture
def timm(monkeypatch, tmp_path):
    """Stands for timm as far as it is called; gives the path of weights."""

    def create_model(name, pretrained, num_classes):
        assert not pretrained
        return Tiny(num_classes)

    config = {"input_size": (3, SIZE, SIZE), "mean": (0.5,) * 3, "std": (0.2,) * 3}
    fake = types.SimpleNamespace(
        is_model={"tiny"}.__contains__,
        create_model=create_model,
        data=types.SimpleNamespace(resolve_model_data_config=lambda network: config),
    )
    monkeypatch.setitem(sys.modules, "timm", fake)
    torch.manual_seed(3)
    save_file(Tiny(7).state_dict(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def test_adma_with_a_network_of_local_weights(timm, simulate, tmp_path):
    centers = np.random.default_rng(1).integers(0, 256, (7, SIZE, SIZE, 3)).astype(np.uint8)
    np.save(tmp_path / "centers.npy", centers)
    tuned = ["--learner", "finetune:timm:tiny", "--learner-option", f"weights={timm}", *QUICK]
    code, _, err = simulate("adma", *tuned)
    assert code == 2
    line = err.strip().splitlines()[-1]
    assert "'adma' needs distinctiveness" in line
    assert "finetune:<network> with source_centers and source_layers" in line
    known = ["--learner-option", f"source_centers={tmp_path / 'centers.npy'}"]
    known += ["--learner-option", "source_layers=conv1,fc1"]
    code, _, err = simulate("adma", *tuned, *known, out="known")
    assert code == 0, err
    rows = table(tmp_path / "known")
    # In the first round distinctiveness alone counts, and later half of the score is entropy.
    assert [row["labels"] for row in rows] == [12, 18, 24]
    first, second = ([np.float64(s) for s in row["picked_scores"]] for row in rows[1:])
    assert all(0 <= score <= 1 for score in [*first, *second])
    assert not set(first) & set(second)
    code, _, err = simulate("adma", *tuned, *known[:2], "--learner-option", "source_layers=conv1")
    assert code == 2
    assert "source_layers must be" in err


@pytest.mark.parametrize("name", LEARNED)
def test_explain_says_which_learner_gives_the_evidence(name, run):
    code, out, _ = run("strategies", "--explain", name)
    assert code == 0
    text = " ".join(out.split())
    told = text.partition("learner: ")[2].partition(" costs: ")[0]
    found = get_strategy(name)
    assert found.objectives in told
    for need in found.needs:
        assert need in told
        assert given_by(need) in told
    shown = json.loads(run("strategies", name, "--json")[1])
    assert shown["objectives"] == found.objectives
    assert set(found.needs) <= set(shown["given_by"])


def test_objectives_of_strategies_can_be_made():
    published = {one.name: one.objectives for one in list_strategies() if one.objectives}
    assert {"tod", "lpl", "vaal", "waal", "dalbt"} <= published.keys()
    for name, objectives in published.items():
        gives = {given for each in parse_objectives(objectives) for given in each.gives}
        known = {"probs", "previous_probs", "round", *gives}
        assert set(get_strategy(name).needs) <= known


def test_objectives_that_do_not_go_together_say_so_once(simulate, tmp_path):
    code, _, err = simulate(
        *("random,tod", "--learner", "mlp", "--learner-option", "hidden=8", *QUICK),
        *("--learner-option", "objectives=cross_entropy+tod", "--together", "all"),
        *PATCHES,
    )
    assert code == 0, err
    said = [line for line in err.splitlines() if "one after another" in line]
    assert len(said) == 1
    assert said[0].endswith(
        "fitted one after another: it minimizes CrossEntropy + TemporalDiscrepancy, and only "
        "CrossEntropy goes together"
    )
    assert len(table(tmp_path / "out")) == 6


@pytest.mark.parametrize(
    ("option", "part"),
    [
        ("clip=much", "learner 'mlp' cannot be made of {'clip': 'much'}"),
        ("objectives=cross_entropy+simclear", "no objective is called 'simclear'; did you mean"),
        ("objective=tod", "no option is called 'objective'; did you mean objectives?"),
    ],
)
def test_wrong_options_of_a_learner_are_one_line(option, part, simulate):
    code, _, err = simulate("random", "--learner", "mlp", "--learner-option", option)
    assert code == 2
    assert part in err.strip().splitlines()[-1]
    assert "Traceback" not in err


def test_help_names_all_there_is_to_choose_from(run):
    shown = "".join(run("simulate", "--help")[1].split())  # lines end at hyphens too
    for name in [*list_learners(), *list_encoders()]:
        assert name.removesuffix("<...>") in shown, name
    shown = "".join(run("pretrain", "--help")[1].split())
    for name in list_methods():
        assert name in shown
