"""Fits with too little of something, and objectives written wrongly: the right thing, or a line."""

import json

import pytest
import torch
from torch import nn

from labelwise.benchmark import simulate
from labelwise.cli import main
from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import MLP, CrossEntropy, Objective, Recipe, train
from labelwise.learners.objectives import parse_objectives
from labelwise.pools import open_data


class Seen(Objective):
    """Wants unlabeled rows, and notes which it was shown."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def __deepcopy__(self, memo):
        return self

    def forward(self, unlabeled):
        self.rows.append(sorted(unlabeled.rows.tolist()))
        return 0.1 * unlabeled.logits.square().mean()

    def signature(self):
        return {"name": "seen"}


def fit(objectives, labeled, unlabeled=None, pool=12, **recipe):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    rows = torch.arange(labeled)
    trained = train(
        network,
        Rows(torch.randn(pool, 2)),
        rows,
        rows % 2,
        classes=2,
        seed=0,
        recipe=Recipe(**{"epochs": 3} | recipe),
        objectives=objectives,
        unlabeled=unlabeled,
    )
    assert all(each.isfinite().all() for each in network.state_dict().values())
    return trained.history


@pytest.mark.parametrize("left", [1, 5])
def test_fewer_unlabeled_rows_than_a_minibatch_are_one_smaller_minibatch(left):
    seen = Seen()
    history = fit([CrossEntropy(), seen], 12 - left, minibatch=4, unlabeled_minibatch=64)
    assert history.steps == 3 * -(-(12 - left) // 4)
    assert seen.rows == [list(range(12 - left, 12))] * history.steps
    assert history.unlabeled_minibatch == left


@pytest.mark.parametrize("labels", [1, 3])
def test_fewer_labels_than_a_minibatch_are_one_smaller_minibatch(labels):
    assert fit([CrossEntropy()], labels, minibatch=64).steps == 3
    assert fit([CrossEntropy()], labels, minibatch=64, min_steps=10).steps == 10


def test_unlabeled_rows_wanted_where_there_are_none():
    with pytest.raises(InputError, match="wants unlabeled rows and every row is labeled"):
        fit([CrossEntropy(), Seen()], 12)
    with pytest.raises(InputError, match="wants unlabeled rows and every row is labeled"):
        fit([Seen()], 6, unlabeled=torch.arange(0))
    assert fit([CrossEntropy()], 12).steps == 3  # nobody wants them


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(60, 2, generator=generator)
    lines = [f"{x:.3f},{y:.3f},{'ab'[x > y]}" for x, y in points.tolist()]
    path = tmp_path_factory.mktemp("data") / "blobs.csv"
    path.write_text("width,height,label\n" + "\n".join(lines) + "\n")
    return path


def test_a_simulation_to_the_last_label_shows_objectives_every_row(blobs, tmp_path):
    data = open_data(str(blobs), label="label")
    seen, pool = Seen(), len(data.pool)
    learner = MLP(hidden=4, epochs=1, min_steps=1, objectives=[CrossEntropy(), seen])
    simulate(
        data,
        strategies="random",
        initial=pool - 4,
        batch=2,
        rounds=2,
        seeds=1,
        learner=learner,
        out=tmp_path / "out",
        cache=tmp_path / "cache",
    )
    assert {len(rows) for rows in seen.rows} == {4, 2, pool}
    assert seen.rows[-1] == list(range(pool))


def command(capfd, blobs, tmp_path, *options):
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *("simulate", str(blobs), "--label", "label", "--out", str(tmp_path / "out")),
                *("--strategies", "random", "--initial", "6", "--batch", "3", "--rounds", "1"),
                *("--seeds", "1", "--no-full", "--threads", "1", "--cache", str(tmp_path / "c")),
                *[part for option in options for part in ("--learner-option", option)],
                *("--learner-option", "min_steps=2", "--learner-option", "epochs=1"),
                *("--learner", "mlp"),
            ]
        )
    return ended.value.code, capfd.readouterr().err


def test_objectives_on_the_command_line(capfd, blobs, tmp_path):
    text = "objectives=cross_entropy:smoothing=0.1:class_weights=1,2.5+joint_entropy:weight=1e-2"
    code, error = command(capfd, blobs, tmp_path, text)
    assert code == 0, error
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["learner"]["objectives"] == [
        {"name": "cross_entropy", "smoothing": 0.1, "class_weights": [1.0, 2.5]},
        {"name": "joint_entropy", "weight": 0.01, "warmup": 0.0},
    ]


WRONG = {
    "crossentropy": "no objective is called 'crossentropy'; did you mean cross_entropy",
    "": "no objective is called ''; known: ",
    "cross_entropy+": "no objective is called ''",
    "cross_entropy:smooth=0.1": "has no option 'smooth'; did you mean smoothing?",
    "cross_entropy:smoothing": "must be name=value, got 'smoothing'",
    "cross_entropy:smoothing=2": "smoothing must be in [0, 1), got 2",
    "cross_entropy:smoothing=lots": "'cross_entropy' cannot be made of {'smoothing': 'lots'}",
    "cross_entropy:smoothing=0.1:smoothing=0.2": "'smoothing' of objective 'cross_entropy' is",
    "cross_entropy:class_weights=1,0": "class_weights must be positive",
    "cross_entropy:class_weights=1,2,3": "class_weights must be one a class: 2 classes, got 3",
    "3": "objectives must be names joined by +, such as cross_entropy:smoothing=0.1",
    "none": "objectives must be names joined by +, such as cross_entropy:smoothing=0.1",
}


@pytest.mark.parametrize("text", WRONG)
def test_objectives_written_wrongly_are_one_line(capfd, blobs, tmp_path, text):
    code, error = command(capfd, blobs, tmp_path, f"objectives={text}")
    assert code == 2
    last = error.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert WRONG[text] in last
    assert "Traceback" not in error


def test_a_plus_in_a_number_is_no_sum():
    weights = "cross_entropy:class_weights=1e+3,2 + joint_entropy"
    first, second = parse_objectives(weights)
    assert first.class_weights == (1000.0, 2.0)
    assert second.weight == 0.1
    for wrong in (3, None, [3], CrossEntropy()):
        with pytest.raises(InputError, match="objectives must be names joined by"):
            parse_objectives(wrong)


def test_no_objectives_are_cross_entropy():
    assert [type(each) for each in MLP(objectives=[]).objectives] == [CrossEntropy]
