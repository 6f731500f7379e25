"""``perf.learners`` at tiny sizes: every part runs, is not run again, and stands on the page."""

import sys

import pytest
from perf import learners
from perf.learners_runs import FOR_GPU, PARTS, QUICK, TRAININGS, Run, find, label_rows

from labelwise.benchmark import paired
from labelwise.benchmark.findings import points
from labelwise.benchmark.journal import JOURNAL, Journal, parse
from labelwise.errors import ResultsError


def call(monkeypatch, folder, *options):
    monkeypatch.setattr(sys, "argv", ["perf.learners", str(folder), "--quick", *options])
    learners.main()
    return (folder / "learners.md").read_text()


def records(folder, part):
    return parse(folder / part / JOURNAL)[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All parts of one folder, and its page."""
    folder = tmp_path_factory.mktemp("learners")
    with pytest.MonkeyPatch.context() as patch:
        return folder, call(patch, folder, "--parts", ",".join(PARTS))


def test_trainings_of_a_seed_are_paired(made):
    fits = find(records(made[0], "objectives"), kind="fit")
    assert {(r["seed"], r["training"]) for r in fits} == {(s, t) for s in (0, 1) for t in TRAININGS}
    assert {r["steps"] for r in fits} == {4}  # 2 epochs of 40 labels in minibatches of 32
    assert len(fits) == 2 * len(TRAININGS)


def test_pretraining_and_patches_have_the_same_label_sets(made):
    found = records(made[0], "pretraining")
    heads = find(found, kind="head", encoder="pretrained")
    assert len(heads) == 2 * 2 * 2
    keys = ("seed", "labels", "draw")
    theirs = find(found, kind="head", encoder="patches")
    assert [[r[k] for k in keys] for r in heads] == [[r[k] for k in keys] for r in theirs]
    seen = find(found, kind="encoding", encoder="pretrained")[0]
    run = find(found, kind="pretraining")[0]
    # What pretraining said of its network is what its encoder shows.
    for name in ("knn", "knn_test"):
        assert seen[name] == pytest.approx(run[name], abs=0.011)
    for name in ("spread", "effective_rank"):
        assert seen[name] == pytest.approx(run[name], rel=1e-3)


def test_fewer_labels_are_part_of_more(made, tmp_path):
    with Journal(tmp_path / JOURNAL) as journal:
        run = Run(QUICK, 1, tmp_path, journal, "")
        data = run.small("digits", 0)
        assert len(data.pool) == QUICK.images
        assert data.test.ids == run.small("digits", 1).test.ids
        assert data.pool.ids != run.small("digits", 1).pool.ids
    few, many = (set(label_rows(data, 0, 1, n).tolist()) for n in (20, 80))
    assert few < many
    assert len(many) == 80
    assert many != set(label_rows(data, 0, 0, 80).tolist())


def test_the_page_says_what_the_journals_say(made):
    folder, text = made
    fits = find(records(folder, "objectives"), kind="fit")
    ours, base = (
        {r["seed"]: r["accuracy"] for r in find(fits, training=training)}
        for training in ("cross_entropy+fixmatch", "cross_entropy")
    )
    line = next(row for row in text.splitlines() if row.startswith("| `cross_entropy+fixmatch`"))
    assert f"| {points(paired(ours, base).mean)} [" in line
    assert "not run" not in text.split("## With a CUDA GPU")[1]
    assert "typiclust " in text
    assert f"for {QUICK.pretraining} epochs" in text


def test_what_is_done_is_not_done_again(made, monkeypatch):
    folder, text = made
    before = {part: (folder / part / JOURNAL).read_bytes() for part in PARTS}
    monkeypatch.setattr("labelwise.learners.network.train", None)  # a fit would call it
    assert call(monkeypatch, folder, "--parts", "objectives,pretraining,scratch") == text
    assert before == {part: (folder / part / JOURNAL).read_bytes() for part in PARTS}


def test_a_part_goes_on_where_it_was(made, monkeypatch, tmp_path):
    whole = (made[0] / "objectives" / JOURNAL).read_text().splitlines(keepends=True)
    (tmp_path / "objectives").mkdir()
    (tmp_path / "objectives" / JOURNAL).write_text("".join(whole[:-2]))
    call(monkeypatch, tmp_path, "--parts", "objectives")
    again, first = (find(records(f, "objectives"), kind="fit") for f in (tmp_path, made[0]))
    for one, other in zip(again, first, strict=True):
        assert (one["training"], one["accuracy"]) == (other["training"], other["accuracy"])


@pytest.mark.parametrize("part", ["objectives", "pretraining"])
def test_a_page_can_be_made_at_any_moment(made, tmp_path, part):
    whole = (made[0] / part / JOURNAL).read_text().splitlines(keepends=True)
    (tmp_path / part).mkdir()
    for lines in range(len(whole) + 1):
        (tmp_path / part / JOURNAL).write_text("".join(whole[:lines]))
        text = learners.page(tmp_path)
    other = "## Minutes" if part == "objectives" else "## What unlabeled"
    assert other in text
    assert text.count("Measured by `python -m perf.learners") == 1


def test_other_sizes_in_a_folder_are_refused(made, monkeypatch):
    with pytest.raises(ResultsError, match="other sizes"):
        call(monkeypatch, made[0], "--parts", "pretraining", "--epochs", "3")
    # Epochs of pretraining decide nothing of a fit from scratch.
    call(monkeypatch, made[0], "--parts", "objectives", "--epochs", "3")


def test_without_a_gpu_its_parts_are_said_to_be_not_run(tmp_path, monkeypatch, capsys):
    text = learners.page(tmp_path)
    for part in FOR_GPU:
        assert f"`python -m perf.learners runs/learners --parts {part}`" in text
    assert text.count("| *not run* |") == 3
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["perf.learners", str(tmp_path), "--parts", "scratch"])
    with pytest.raises(SystemExit):
        learners.main()
    assert "CUDA" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
