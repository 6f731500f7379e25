"""The command line: what it prints, what it refuses, and how it ends."""

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from safetensors.numpy import save_file

from labelwise import __version__
from labelwise.cli import app as command_line
from labelwise.cli import main
from labelwise.cli.files import read_ids, read_numbers
from labelwise.cli.options import parse_pairs, parse_size
from labelwise.errors import InputError
from labelwise.strategies import list_strategies, select

PROBS = np.array([[0.9, 0.1], [0.5, 0.5], [0.8, 0.2], [0.6, 0.4]])


@pytest.fixture
def fails(run):
    """Run a command that must fail: one line on stderr, nothing on stdout, and the code."""

    def call(code, *arguments):
        found, out, err = run(*arguments)
        assert out == ""
        assert err.count("\n") == 1, err
        assert err.startswith("error: ")
        assert "Traceback" not in err
        assert found == code, err
        return err

    return call


@pytest.fixture
def probs(tmp_path):
    np.save(tmp_path / "p.npy", PROBS)
    return tmp_path / "p.npy"


# The command as a whole


def test_help_names_every_command_and_imports_nothing_heavy():
    heavy = ("torch", "numpy", "scipy", "sklearn", "matplotlib", "pyarrow", "PIL", "rich")
    code = (
        "import sys\nfrom labelwise.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as ended:\n    assert ended.code == 0\n"
        f"loaded = [name for name in {heavy!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("simulate", "demo", "select", "strategies"):
        assert f"\n  {name} " in done.stdout


def test_version(run):
    assert run("--version") == (0, f"labelwise {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["simulat"], "simulat"),
        (["simulate", "digits"], "--out"),
        (["simulate", "digits", "--out", "x", "--rouns", "3"], "--rouns"),
        (["simulate", "digits", "--out", "x", "--rounds", "many"], "many"),
        (["strategies", "a", "b"], "labelwise strategies --help"),
    ],
)
def test_a_mistake_in_the_command_line_is_one_line(fails, arguments, part):
    assert part in fails(2, *arguments)


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, 5), (errno.EACCES, 4), (errno.EROFS, 4)],
)
def test_what_the_system_refuses_is_one_line(monkeypatch, fails, number, code):
    def full(*_, **__):
        raise OSError(number, "the reason", "some/file")

    monkeypatch.setattr("labelwise.strategies.list_strategies", full)
    assert "some/file: the reason" in fails(code, "strategies")


def test_an_unforeseen_failure_keeps_its_traceback(monkeypatch):
    def broken():
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("labelwise.strategies.list_strategies", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["strategies"])


def test_a_reader_that_has_gone_is_no_failure():
    done = subprocess.run(
        f"{sys.executable} -c 'from labelwise.cli import main; main()' strategies | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_interrupted_is_130_and_one_line(monkeypatch, run):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("labelwise.strategies.list_strategies", interrupted)
    code, out, err = run("strategies")
    assert (code, out) == (130, "")
    assert err.strip().splitlines() == ["interrupted: nothing was written"]


def test_classes_of_click_are_found():
    assert issubclass(typer.BadParameter, command_line.UsageError)
    assert command_line.ClickException.__name__ == "ClickException"


# strategies


def test_strategies_lists_every_one(run):
    code, out, _ = run("strategies")
    assert code == 0
    for one in list_strategies():
        assert f"\n{one.name} " in f"\n{out}"
    assert "SIMULATION ONLY" in out


@pytest.mark.parametrize("name", [one.name for one in list_strategies()])
def test_strategies_explained_in_a_few_lines(run, name):
    code, out, _ = run("strategies", "--explain", name)
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == name
    assert len(lines) < 15
    assert max(map(len, lines)) <= 90
    heads = [line.split(":")[0] for line in lines[1:] if not line.startswith(" ")]
    assert heads == ["does", "needs", "learner", "costs", "fails", "source"]


def test_one_strategy_is_explained_or_shown(fails):
    fails(2, "strategies", "margin", "--explain", "margin")
    fails(2, "strategies", "--explain", "no such strategy")


def test_strategies_as_json(run):
    listed = json.loads(run("strategies", "--json")[1])
    assert [one["name"] for one in listed] == [one.name for one in list_strategies()]
    badge = next(one for one in listed if one["name"] == "badge")
    assert badge["needs"] == ["probs", "embeddings"]
    assert badge["options"]["first"] == "largest"
    assert badge == json.loads(run("strategies", "badge", "--json")[1])


def test_one_strategy_is_shown_in_full(run, fails):
    out = run("strategies", "margin")[1]
    assert "needs:   probs" in out
    assert "Scheffer" in out
    assert "did you mean margin?" in fails(2, "strategies", "margn")


# select


def test_select_picks_what_the_library_picks(run, probs, tmp_path):
    out = tmp_path / "picks.csv"
    code, text, err = run("select", "--strategy", "margin", "-n", 2, "--probs", probs, "--out", out)
    assert code == 0, err
    assert "2 picks by margin" in text
    picks = select("margin", 2, probs=PROBS)
    assert out.read_text().splitlines()[0].startswith("rank,row,score")
    assert read_numbers(out, "labeled").tolist() == picks.rows.tolist() == [1, 3]


def test_select_within_limits(run, probs, tmp_path):
    (tmp_path / "costs.csv").write_text("cost\n1.5\n2\n1\n1\n")
    (tmp_path / "not.csv").write_text("row\n3\n")
    money = ("--costs", tmp_path / "costs.csv", "--budget", 3, "--exclude", tmp_path / "not.csv")
    code, out, _ = run("select", "--strategy", "margin", "--probs", probs, *money, "--json")
    assert code == 0
    assert json.loads(out)["picks"]["row"] == [1, 2]
    one = ("--quota", 1, "-n", 1, "--out", tmp_path / "picks.csv")
    assert run("select", "--strategy", "margin", "--probs", probs, *one)[0] == 0


def test_select_saves_pseudo_labels_apart(run, fails, probs, tmp_path):
    out, sure = tmp_path / "picks.csv", tmp_path / "sure.csv"
    common = ["select", "--probs", probs, "-n", 1, "--out", out]
    ask = [*common, "--strategy", "ceal:threshold=0.65"]
    code, _, err = run(*ask, "--pseudo-labels", sure)
    assert code == 0, err
    picks = select("ceal", 1, probs=PROBS, threshold=0.65)
    assert len(picks.pseudo_rows)
    assert read_numbers(out, "labeled").tolist() == picks.rows.tolist()
    assert read_numbers(sure, "labeled").tolist() == picks.pseudo_rows.tolist()
    assert sure.read_text().splitlines()[0] == "row,pseudo_label,strategy,seed"
    assert "--pseudo-labels" in run(*ask)[2]
    found = json.loads(run(*ask, "--json")[1])["pseudo_labels"]
    assert found == {"row": picks.pseudo_rows.tolist(), "pseudo_label": [0] * len(found["row"])}
    refused = fails(2, *common, "--strategy", "margin", "--pseudo-labels", sure)
    assert "no pseudo-labels to save: margin gives none" in refused


def test_select_says_beforehand_what_it_takes(run, probs):
    common = ["select", "--strategy", "margin", "-n", 2, "--probs", probs, "--estimate"]
    code, out, _ = run(*common)
    assert code == 0
    assert re.fullmatch(r"margin: .* to .* s, .* to .* MB beyond the input\n", out)
    said = json.loads(run(*common, "--json")[1])
    assert said["strategy"] == "margin"
    assert 0 < said["seconds"][0] < said["seconds"][1]
    assert 0 < said["memory"][0] < said["memory"][1]


def test_select_reads_other_files_and_goes_on_from_a_checkpoint(run, tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    save_file({"embeddings": x}, tmp_path / "x.safetensors")
    pq.write_table(pa.table({"x": list(x)}), tmp_path / "x.parquet")
    expected = select("k_center", 9, embeddings=x).rows.tolist()
    for name in ("x.safetensors", "x.parquet"):
        code, out, err = run(
            *["select", "--strategy", "k_center", "-n", 9, "--json"],
            *["--embeddings", tmp_path / name, "--checkpoint", tmp_path / "c"],
        )
        assert (code, err) == (0, "")
        picked = json.loads(out)["picks"]
        assert picked["row"] == expected
        assert picked["score"][0] is None
    assert not (tmp_path / "c").exists()
    (tmp_path / "c").write_text("mine")
    code, _, err = run(
        *["select", "--strategy", "k_center", "-n", 9, "--json"],
        *["--embeddings", tmp_path / "x.parquet", "--checkpoint", tmp_path / "c"],
    )
    assert code == 2
    assert "cannot be read" in err


def test_long_selections_report_in_logs(capsys):
    from labelwise.cli.progress import _PickLines
    from labelwise.strategies import Status

    tell = _PickLines()
    for seconds in range(0, 100, 5):
        tell(Status(seconds, 1000, float(seconds), (60.0, 120.0)))
    assert capsys.readouterr().err == "".join(
        f"[{t}/1000] 1 min 0 s to 2 min 0 s left\n" for t in (30, 60, 90)
    )


def test_select_as_json_needs_no_file(run, probs):
    arguments = ["select", "--strategy", "entropy:picker=power", "-n", 2, "--probs", probs]
    code, out, err = run(*arguments, "--seed", 5, "--json")
    assert code == 0, err
    found = json.loads(out)
    expected = select("entropy", 2, probs=PROBS, picker="power", seed=5)
    assert found["picks"]["row"] == expected.rows.tolist()
    assert found["options"]["picker"] == "power"
    assert found["seed"] == 5


def test_what_was_picked_before_can_be_given_back(run, probs, tmp_path):
    (tmp_path / "ids.txt").write_text("a\nb\nc\nd\n")
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    common = ["select", "--strategy", "margin", "--probs", probs, "--ids", tmp_path / "ids.txt"]
    assert run(*common, "-n", 2, "--out", first)[0] == 0
    code, _, err = run(*common, "-n", 2, "--labeled", first, "--out", second)
    assert code == 0, err
    assert [line.split(",")[2] for line in second.read_text().splitlines()] == ["id", "c", "a"]


def test_every_evidence_has_an_option(run, probs, tmp_path):
    out = run("select", "--help")[1]
    for name in ("logits", "probs", "embeddings", "draws", "head-weight", "head-bias", "labeled"):
        assert f"--{name} " in out
    assert "--oracle-labels" not in out
    np.save(tmp_path / "z.npy", np.log(PROBS))
    np.save(tmp_path / "w.npy", np.eye(2))
    arguments = ["--logits", tmp_path / "z.npy", "--head-weight", tmp_path / "w.npy", "--json"]
    code, out, err = run("select", "--strategy", "mase", "-n", 1, *arguments)
    assert code == 0, err
    assert json.loads(out)["picks"]["row"] == [1]


SELECT_REFUSES = {
    "unknown strategy": (["--strategy", "margn", "-n", "2"], "did you mean margin"),
    "no evidence": (["--strategy", "badge", "-n", "2"], "embeddings"),
    "n is 0": (["--strategy", "margin", "-n", "0"], "n "),
    "n too large": (["--strategy", "margin", "-n", "9"], "4"),
    "labeled out of range": (["--strategy", "margin", "-n", "2", "--labeled", "ROWS"], "labeled"),
    "memory": (["--strategy", "margin", "-n", "2", "--memory", "lots"], "4GB"),
    "device": (["--strategy", "margin", "-n", "2", "--device", "gpu"], "'gpu'"),
    "engine": (["--strategy", "margin", "-n", "2", "--engine", "steam"], "'steam'"),
    "engine for few": (["--strategy", "margin", "-n", "2", "--engine", "ray"], "k_center can"),
    "option": (["--strategy", "margin", "-n", "2", "--option", "picker"], "name=value"),
    "option unknown": (["--strategy", "margin", "-n", "2", "--option", "piker=top"], "picker"),
    "option twice": (
        ["--strategy", "margin:picker=top", "-n", "2", "--option", "picker=power"],
        "twice",
    ),
    "evidence misspelt": (["--strategy", "margin", "-n", "2", "--prob", "x.npy"], "--prob"),
    "no such file": (["--strategy", "bald", "-n", "2", "--draws", "none.npy"], "none.npy"),
    "simulation only": (["--strategy", "balanced_random", "-n", "2"], "balanced_random"),
    "ids too few": (["--strategy", "margin", "-n", "2", "--ids", "IDS"], "ids"),
    "round": (["--strategy", "margin", "-n", "2", "--round", "first"], "whole number"),
}


@pytest.mark.parametrize("case", SELECT_REFUSES)
def test_select_refuses(fails, probs, tmp_path, case):
    (tmp_path / "rows.txt").write_text("1\n7\n")
    (tmp_path / "ids.txt").write_text("a\nb\n")
    arguments, part = SELECT_REFUSES[case]
    places = {"ROWS": tmp_path / "rows.txt", "IDS": tmp_path / "ids.txt"}
    arguments = [places.get(argument, argument) for argument in arguments]
    out = tmp_path / "picks.csv"
    assert part in fails(2, "select", *arguments, "--probs", probs, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ([[0.5, 0.5], [np.nan, 0.5]], "row 1"),
        ([[0.5, 0.5], [3.0, -1.0]], "logits"),
        ([0.5, 0.5], "shape"),
    ],
)
def test_select_names_the_bad_row(fails, tmp_path, values, part):
    np.save(tmp_path / "p.npy", np.array(values))
    out = tmp_path / "picks.csv"
    arguments = ["--strategy", "margin", "-n", 1, "--probs", tmp_path / "p.npy", "--out", out]
    assert part in fails(2, "select", *arguments)
    assert not out.exists()


def test_select_refuses_a_place_before_it_works(fails, probs, tmp_path):
    common = ["select", "--strategy", "margin", "-n", 1, "--probs", probs]
    assert "--out" in fails(2, *common)
    assert "no folder" in fails(2, *common, "--out", tmp_path / "none" / "picks.csv")
    assert ".csv or .parquet" in fails(2, *common, "--out", tmp_path / "picks.txt")


def test_a_disk_that_fills_up_while_picks_are_saved(fails, monkeypatch, probs, tmp_path):
    def full(path, table):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("labelwise.strategies.picks._write_csv", full)
    arguments = ["--strategy", "margin", "-n", 1, "--probs", probs, "--out", tmp_path / "p.csv"]
    assert "No space left" in fails(5, "select", *arguments)
    assert list(tmp_path.iterdir()) == [probs]


# Files and options


def test_sizes():
    assert parse_size(None) is None
    assert [parse_size(text) for text in ("4GB", "4 gib", "512MiB", "7", "1.5k")] == [
        4 * 10**9,
        4 * 2**30,
        512 * 2**20,
        7,
        1500,
    ]
    for text in ("", "4XB", "-1GB", "GB"):
        with pytest.raises(InputError, match="4GB"):
            parse_size(text)


def test_pairs():
    written = ["a=1", "b=0.5", "c=true", "d=none", "e=x=y", "f-g=1e-3"]
    found = parse_pairs(written, "--option")
    assert found == {"a": 1, "b": 0.5, "c": True, "d": None, "e": "x=y", "f_g": 1e-3}
    with pytest.raises(InputError, match="--option a is given twice"):
        parse_pairs(["a=1", "a=2"], "--option")
    with pytest.raises(InputError, match="name=value"):
        parse_pairs(["=1"], "--option")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_are_read_from_every_kind_of_file(tmp_path):
    np.save(tmp_path / "rows.npy", np.array([2, 0]))
    assert read_numbers(tmp_path / "rows.npy", "labeled").tolist() == [2, 0]
    assert read_numbers(write(tmp_path / "r.txt", "2\n0\n\n"), "labeled").tolist() == [2, 0]
    table = write(tmp_path / "r.csv", "id,row\nc,2\na,0\n")
    assert read_numbers(table, "labeled").tolist() == [2, 0]
    by_id = write(tmp_path / "i.csv", "id,label\nc,1\na,0\n")
    assert read_numbers(by_id, "labeled", ["a", "b", "c"]).tolist() == [2, 0]
    assert read_numbers(by_id, "labels").tolist() == [1, 0]
    assert read_numbers(write(tmp_path / "b.txt", "0.5\n-1"), "head_bias").tolist() == [0.5, -1]


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("r.txt", "1\ntwo\n", "entry 2 .* 'two'"),
        ("r.txt", "1\n\n2\n", "line 2 .* empty"),
        ("r.csv", "id\na\n", "column 'row', it has id"),
        ("r.csv", "id,row\na\n", "line 2 .* 1 fields"),
        ("r.csv", "", "it has nothing"),
    ],
)
def test_rows_that_cannot_be_read(tmp_path, name, text, part):
    with pytest.raises(InputError, match=part):
        read_numbers(write(tmp_path / name, text), "labeled")


def test_ids(tmp_path):
    assert read_ids(write(tmp_path / "a.txt", "x\ny\n")) == ["x", "y"]
    assert read_ids(write(tmp_path / "a.csv", "n,id\n1,x\n2,y\n")) == ["x", "y"]
    with pytest.raises(InputError, match=r"'x' is in .* 2 times"):
        read_ids(write(tmp_path / "b.txt", "x\ny\nx\n"))
    with pytest.raises(InputError, match="no file"):
        read_ids(tmp_path / "none.txt")
    with pytest.raises(InputError, match=r"'z' .* not among the ids"):
        read_numbers(write(tmp_path / "z.csv", "id\nz\n"), "labeled", ["x"])
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_ids(tmp_path / "binary.txt")


def test_a_bandit_goes_on_from_its_state(run, probs, tmp_path):
    ask = ["select", "--strategy", "albl:arms=margin+entropy", "--probs", probs, "-n", 1, "--json"]
    code, out, err = run(*ask, "--seed", 1)
    assert (code, err) == (0, "")
    first = json.loads(out)
    (tmp_path / "first.json").write_text(out)
    np.save(tmp_path / "rows.npy", first["picks"]["row"])
    np.save(tmp_path / "labels.npy", [0])
    known = ["--labeled", tmp_path / "rows.npy", "--labels", tmp_path / "labels.npy"]
    code, out, err = run(*ask, "--seed", 2, *known, "--state", tmp_path / "first.json")
    assert (code, err) == (0, "")
    assert json.loads(out)["state"]["count"] > first["state"]["count"] >= 1
    code, _, err = run(*ask, *known, "--state", tmp_path / "none.json")
    assert code != 0
    assert "state: cannot read" in err
    code, _, err = run(*ask, *known, "--state", "7")
    assert "state must be what earlier picks have as their state, got int" in err
