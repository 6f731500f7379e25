"""The commands that run a simulation: what they leave behind and how they go on."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from labelwise.benchmark import Results
from labelwise.cli.progress import _Lines
from labelwise.cli.simulate import Budget, _on, sample, smaller
from labelwise.learners import make_encoder, make_learner
from labelwise.pools import open_data

PLAN = ["--strategies", "random,margin", "--initial", "6", "--batch", "4", "--rounds", "2"]
PLAN += ["--seeds", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A table of three blobs: 120 rows, in a file."""
    generator = np.random.default_rng(0)
    classes = generator.integers(3, size=120)
    points = generator.normal(size=(120, 2)) + 2.0 * np.stack([classes, -classes], axis=1)
    path = tmp_path_factory.mktemp("data") / "blobs.csv"
    lines = [
        f"p{i},{x:.4f},{y:.4f},{'abc'[c]}" for i, ((x, y), c) in enumerate(zip(points, classes))
    ]
    path.write_text("id,width,height,label\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def simulate(data, tmp_path):
    """The arguments of a small simulation into ``tmp_path / "out"``."""
    return [
        *("simulate", data, "--label", "label", "--id", "id", *PLAN, "--learner", "logistic"),
        *("--cache", tmp_path / "cache", "--out", tmp_path / "out"),
    ]


def test_simulate_from_a_file_to_a_report(run, simulate, tmp_path):
    code, out, err = run(*simulate)
    assert code == 0, err
    results = Results.load(tmp_path / "out")
    assert results.complete
    page = tmp_path / "out" / "report" / "index.html"
    assert out.rstrip().endswith(f"report: {page}")
    assert f"labelwise {' '.join(map(str, sys.argv[1:]))}"[:20] in page.read_text()
    rows = [line for line in out.splitlines() if line.startswith(("random ", "margin "))]
    final = 100 * results.curves()["margin"].mean()[-1]
    assert f"{final:.1f} ±" in rows[1]
    assert re.search(r"\[[+−\d.]+, [+−\d.]+\]", rows[1])
    assert len(re.findall(r"^\[ *\d+/12\] seed \d, ", err, flags=re.M)) == 12


def test_json_is_all_there_is_on_stdout(run, simulate, tmp_path):
    code, out, err = run(*simulate, "--json", "--no-full")
    assert code == 0, err
    found = json.loads(out)
    assert [row["strategy"] for row in found["strategies"]] == ["random", "margin"]
    assert found["strategies"][0]["final_difference"] is None
    assert found["strategies"][1]["final_difference"]["n"] == 2
    assert found["full"] == {}
    assert found["report"] == str(tmp_path / "out" / "report" / "index.html")


def test_the_same_command_again_changes_nothing_and_another_is_refused(run, simulate, tmp_path):
    assert run(*simulate)[0] == 0
    table = (tmp_path / "out" / "results.parquet").read_bytes()
    code, _, err = run(*simulate)
    assert code == 0, err
    assert "round 1" not in err
    assert (tmp_path / "out" / "results.parquet").read_bytes() == table
    code, out, err = run(*simulate, "--batch", 5)
    assert (code, out) == (4, "")
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert "batch is 4 there and 5 now" in err


def test_ctrl_c_says_how_to_go_on(run, simulate, monkeypatch, tmp_path):
    def interrupt(self, event):
        if event.step == "round" and event.done == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(_Lines, "__call__", interrupt)
    code, out, err = run(*simulate)
    assert (code, out) == (130, "")
    assert [line for line in err.splitlines() if not line.startswith("note: ")] == [
        f"interrupted: finished rounds are kept in {tmp_path / 'out'}; "
        "run the same command again to go on"
    ]
    monkeypatch.undo()
    code, _, err = run(*simulate)
    assert code == 0, err
    assert "3 rounds found" in err


def test_a_real_ctrl_c(simulate, tmp_path):
    # A shell makes its background jobs deaf to Ctrl-C, and this test may run in one.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from labelwise.cli import main; main()"
    )
    command = [sys.executable, "-c", code]
    arguments = [*map(str, simulate), "--rounds", "20"]
    process = subprocess.Popen(
        [*command, *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if ", round 2:" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1].startswith("interrupted: finished rounds are kept")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["none.csv"], 3, "none.csv"),
        (["DATA", "--label", "lable"], 3, "label"),
        (["DATA", "--strategies", "margn"], 2, "did you mean margin"),
        (["DATA", "--strategies", ""], 2, "strategies"),
        (["DATA", "--initial", "500"], 2, "the pool has"),
        (["DATA", "--seeds", "0"], 2, "seeds"),
        (["DATA", "--learner", "logistics"], 2, "did you mean logistic"),
        (["DATA", "--learner-option", "penalty"], 2, "name=value"),
        (["DATA", "--learner-option", "penalti=1"], 2, "penalti"),
        (["DATA", "--encoder", "tabel"], 2, "did you mean table"),
        (["DATA", "--primary", "best"], 2, "area, final"),
        (["DATA", "--threads", "0"], 2, "threads"),
        (["DATA", "--holdout", "1.5"], 2, "holdout"),
        (["DATA", "--memory", "much"], 2, "4GB"),
        (["DATA", "--out", "DATA"], 4, "blobs.csv"),
    ],
)
def test_simulate_refuses(run, data, tmp_path, arguments, code, part):
    arguments = [str(data) if argument == "DATA" else argument for argument in arguments]
    out = tmp_path / "out"
    places = ["--out", out, "--cache", tmp_path / "cache"]
    found, text, err = run("simulate", *PLAN, *places, *arguments)
    assert text == ""
    errors = [line for line in err.splitlines() if not line.startswith(("note: ", "["))]
    assert len(errors) == 1, err
    assert errors[0].startswith("error: ")
    assert part in errors[0]
    assert found == code, err
    assert not out.exists()


def test_a_full_disk_is_one_line(simulate, tmp_path):
    # No file of this process may grow beyond 4 KiB: what a full disk does to the journal.
    code = (
        "import resource, signal\nfrom labelwise.cli import main\n"
        "import labelwise.benchmark, labelwise.learners, labelwise.pools, matplotlib\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, simulate), "--rounds", "12"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MPLCONFIGDIR": str(tmp_path)},
    )
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: no space left to write")


def test_quick_is_smaller_and_says_so():
    budget = Budget(rounds=10, seeds=5, full=True, encoder=None)
    assert budget.smaller("image", full=None) == Budget(4, 2, False, "patches-fast")
    assert budget.smaller("table", full=True) == Budget(4, 2, True, None)
    named = Budget(rounds=3, seeds=1, full=True, encoder="pixels")
    assert named.smaller("image", full=None) == Budget(3, 1, False, "pixels")


def test_a_quick_pool_keeps_every_class_in_proportion(monkeypatch):
    labels = np.repeat([0, 1, 2], [9000, 900, 5])
    rows = sample(labels, 1000, "pool")
    assert len(rows) == 1000
    assert np.all(np.diff(rows) > 0)
    counts = np.bincount(labels[rows])
    assert abs(counts[0] - 908) <= 2
    assert abs(counts[1] - 91) <= 2
    assert counts[2] >= 1
    assert not np.array_equal(rows, sample(labels, 1000, "test"))
    data = open_data("digits")
    monkeypatch.setattr("labelwise.cli.simulate.QUICK_ITEMS", 100)
    monkeypatch.setattr("labelwise.cli.simulate.QUICK_TEST_ITEMS", 50)
    small = smaller(data)
    assert (len(small.pool), len(small.test)) == (100, 50)
    assert "100 of" in small.name
    assert small.fingerprint != data.fingerprint
    row = data.pool.ids.index(small.pool.ids[7])
    assert small.labels[7] == data.labels[row]


def test_the_demo_says_what_to_look_at(run, monkeypatch, tmp_path):
    monkeypatch.setattr("labelwise.cli.demo.STRATEGIES", "random,margin")
    monkeypatch.setattr("labelwise.cli.demo.ROUNDS", 1)
    monkeypatch.setattr("labelwise.cli.demo.SEEDS", 2)
    monkeypatch.chdir(tmp_path)
    code, out, err = run("demo")
    assert code == 0, err
    assert "What to look at" in out
    assert "report: demo/report/index.html" in out
    pictures = {path.name for path in (tmp_path / "demo" / "report").iterdir()}
    assert {"index.html", "learning_curves.png", "contact_sheet.png"} <= pictures
    assert len(list(tmp_path.iterdir())) == 1  # the cache is in there too


def test_a_device_reaches_what_is_inside():
    for name in ("mlp", "ensemble:mlp", "laplace:mlp", "ensemble:laplace:mlp"):
        made = _on("cpu", make_learner, name, {"epochs": 3})
        while hasattr(made, "learner"):
            made = made.learner
        assert (made.recipe.device, made.recipe.epochs) == ("cpu", 3)
    assert _on("cpu", make_learner, "ensemble:logistic", {}).learner.name == "logistic"
    both = _on("cpu", make_encoder, "concat:timm:resnet18+tfidf", {"balance": False})
    assert both.encoders[0].device == "cpu"
    assert not hasattr(both.encoders[1], "device")
