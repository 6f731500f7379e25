"""A simulation is paired by seed, survives anything, and says what it cannot do beforehand."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_digits

from labelwise.benchmark import TIMINGS, Results, parse_strategies, parse_strategy, simulate
from labelwise.benchmark import journal as journal_module
from labelwise.benchmark.plan import first_difference
from labelwise.benchmark.progress import Pace
from labelwise.errors import DataError, InputError, ResourceError, ResultsError
from labelwise.learners import Outputs
from labelwise.loop import class_balance
from labelwise.pools import ArrayPool, Data

CLASSES = 4
STRATEGIES = "random,margin,k_center,badge:first=uniform"


class MeansModel:
    """Nearest class mean, as a linear head: h . m - |m|^2 / 2."""

    def __init__(self, weight):
        self.head_weight, self.head_bias = weight, -(weight**2).sum(1) / 2
        self.classes = len(weight)

    def predict(self, inputs, rows=None):
        x = (inputs.tensor() if rows is None else inputs.take(rows)).float()
        logits = x @ self.head_weight.T + self.head_bias
        return Outputs(logits, logits.softmax(1), inputs if rows is None else x)


class Means:
    """A quick deterministic learner; ``tremble`` makes its fits depend on the process."""

    name = "means"

    def __init__(self, tremble=0.0, delay=0.0, kind="means"):
        self.tremble, self.delay, self.kind, self.fits = tremble, delay, kind, 0

    def signature(self):
        return {"kind": self.kind}

    def fit(self, inputs, rows, labels, *, classes, seed, unlabeled=None):
        self.fits += 1
        time.sleep(self.delay)
        x = inputs.take(rows).float()
        start = torch.randn(classes, x.shape[1], generator=torch.Generator().manual_seed(seed))
        weight = torch.stack(
            [x[labels == c].mean(0) if (labels == c).any() else start[c] for c in range(classes)]
        )
        return MeansModel(weight + self.tremble * torch.arange(x.shape[1]))


def blobs(labels=None, shift=0.0):
    rng = np.random.default_rng(0)
    truth = rng.choice(CLASSES, size=320, p=[0.55, 0.25, 0.15, 0.05])
    truth[:CLASSES] = truth[200 : 200 + CLASSES] = np.arange(CLASSES)
    x = (rng.normal(size=(320, 6)) + 2 * np.eye(6)[truth] + shift).astype(np.float32)
    return Data(
        pool=ArrayPool(x[:200], [f"train/{i}" for i in range(200)]),
        labels=truth[:200] if labels is None else labels,
        test=ArrayPool(x[200:], [f"test/{i}" for i in range(120)]),
        test_labels=truth[200:],
        classes=list("abcd"),
        name="blobs",
    )


def run(out, data=None, **changes):
    options = {
        "strategies": STRATEGIES,
        "initial": 10,
        "batch": 8,
        "rounds": 4,
        "seeds": 2,
        "learner": Means(),
        "encoder": "identity",
        "cache": os.path.join(os.path.dirname(out), "cache"),
    } | changes
    return simulate(data or blobs(), out=out, **options)


def lasting(results):
    """Every column but the timings, as plain values: what must be bit-identical."""
    return results.table.drop_columns(list(TIMINGS)).to_pylist()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Two threads on arrays this small, on a busy machine, mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(one_thread, tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole") / "run")


class Stop(Exception):
    """Raised by a listener, to end a run where we like."""


def stop_after(rounds, error=Stop):
    left = itertools.count(rounds, -1)

    def listener(event):
        if event.step == "round" and next(left) <= 1:
            raise error

    return listener


class TestTable:
    def test_a_row_for_every_strategy_seed_and_round(self, whole):
        cells = [(r["strategy"], r["seed"], r["round"]) for r in whole.table.to_pylist()]
        names = ["random", "margin", "k_center", "badge:first=uniform"]
        assert cells == list(itertools.product(names, [0, 1], range(5)))
        assert whole.complete

    def test_labels_and_picks_add_up(self, whole):
        truth = dict(zip(blobs().pool.ids, blobs().labels.tolist()))
        for (_, _), rows in itertools.groupby(
            whole.table.to_pylist(), key=lambda r: (r["strategy"], r["seed"])
        ):
            paid = []
            for row in rows:
                assert len(row["picked_ids"]) == (10 if row["round"] == 0 else 8)
                paid += row["picked_ids"]
                assert len(set(paid)) == len(paid) == row["labels"] == 10 + 8 * row["round"]
                counts = np.bincount([truth[i] for i in row["picked_ids"]], minlength=CLASSES)
                assert row["class_counts"] == counts.tolist()
                assert row["class_balance"] == class_balance(counts)
                assert row["initial"] == 10
                assert row["learner"] == "means"

    def test_strategies_are_paired_by_seed(self, whole):
        for seed in (0, 1):
            first = [
                {k: v for k, v in row.items() if k != "strategy"}
                for row in whole.table.to_pylist()
                if row["round"] == 0 and row["seed"] == seed
            ]
            assert all(row == first[0] for row in first)
        assert whole.picks("margin", seed=0, round=0) != whole.picks("margin", seed=1, round=0)

    def test_measures_are_those_of_a_model_fitted_by_hand(self, whole):
        data = blobs()
        row = {item: i for i, item in enumerate(data.pool.ids)}
        paid = [i for r in range(3) for i in whole.picks("margin", seed=1, round=r)]
        rows = np.array([row[item] for item in paid])
        x = data.pool.array().tensor().numpy().astype(np.float64)
        means = np.stack([x[rows][data.labels[rows] == c].mean(0) for c in range(CLASSES)])
        test = data.test.array().tensor().numpy().astype(np.float64)
        nearest = ((test[:, None] - means) ** 2).sum(2).argmin(1)
        curve = whole.curves()["margin"]
        assert curve.values[1, 2] == np.mean(nearest == data.test_labels)
        recalls = [np.mean(nearest[data.test_labels == c] == c) for c in range(CLASSES)]
        assert whole.curves("macro_accuracy")["margin"].values[1, 2] == pytest.approx(
            np.mean(recalls)
        )

    def test_scores_are_kept_where_there_are_any(self, whole):
        rows = {(r["strategy"], r["round"]): r for r in whole.table.to_pylist() if r["seed"] == 0}
        assert rows["margin", 0]["picked_scores"] is None
        scores = rows["margin", 1]["picked_scores"]
        assert scores == sorted(scores, reverse=True)

    def test_the_full_line(self, whole):
        full = whole.full["means"]
        assert (full.labels, full.seed) == (200, 0)
        assert 0.5 < full.accuracy <= 1

    def test_the_file_carries_its_recipe(self, whole):
        metadata = json.loads(
            pq.read_schema(whole.folder / "results.parquet").metadata[b"labelwise"]
        )
        assert metadata["plan"] == json.loads((whole.folder / "plan.json").read_text())
        assert metadata["data_fingerprint"] == blobs().fingerprint
        assert set(metadata["sessions"][0]["versions"]) >= {"labelwise", "torch", "numpy", "python"}
        assert metadata["sessions"][0]["machine"]["cores"] == os.cpu_count()

    def test_it_is_read_back(self, whole):
        again = Results.load(whole.folder)
        assert again.table.equals(whole.table)
        assert (again.full, again.plan, again.sessions) == (whole.full, whole.plan, whole.sessions)

    def test_curves(self, whole):
        curve = whole.curves()["random"]
        assert curve.labels.tolist() == [10, 18, 26, 34, 42]
        assert curve.values.shape == (2, 5)
        with pytest.raises(
            InputError, match="metric 'acuracy' is no measure: did you mean accuracy"
        ):
            whole.curves("acuracy")

    def test_what_a_strategy_does_does_not_depend_on_the_others(self, whole, tmp_path):
        alone = run(tmp_path / "run", strategies="badge:first=uniform,random", full=False)
        rows = {(r["strategy"], r["seed"], r["round"]): r for r in lasting(whole)}
        assert all(rows[r["strategy"], r["seed"], r["round"]] == r for r in lasting(alone))

    def test_labels_that_were_not_paid_for_do_not_matter(self, whole, tmp_path):
        poisoned = blobs().labels.copy()
        seen = {
            i
            for r in lasting(whole)
            if r["strategy"] == "badge:first=uniform"
            for i in r["picked_ids"]
        }
        row = {item: i for i, item in enumerate(blobs().pool.ids)}
        hidden = np.setdiff1d(np.arange(200), [row[item] for item in seen])
        poisoned[hidden] = (poisoned[hidden] + 1) % CLASSES
        other = run(tmp_path / "run", blobs(poisoned), strategies="badge:first=uniform", full=False)
        assert lasting(other) == [
            r for r in lasting(whole) if r["strategy"] == "badge:first=uniform"
        ]


class TestKinds:
    def test_a_cold_start(self, tmp_path):
        found = run(tmp_path / "run", strategies="random,k_center", initial=0)
        assert found.table["round"].to_pylist()[:4] == [1, 2, 3, 4]
        assert found.curves()["k_center"].labels.tolist() == [8, 16, 24, 32]
        assert found.complete
        with pytest.raises(InputError, match="'margin' needs probs, which no model gives before"):
            run(tmp_path / "other", initial=0)

    def test_the_oracle_balances_its_classes(self, tmp_path):
        found = run(tmp_path / "run", strategies="random,balanced_random", rounds=2)
        balance = found.curves("class_balance")
        assert balance["balanced_random"].values[:, 1].min() > 0.9
        assert balance["random"].values[:, 1].max() < 0.9

    def test_a_stratified_initial_set(self, tmp_path):
        found = run(tmp_path / "run", strategies="random", initial_set="stratified", rounds=1)
        counts = found.table["class_counts"].to_pylist()[0]
        assert sum(counts) == 10
        assert min(counts) >= 1

    def test_a_function_may_stand_for_a_strategy(self, tmp_path):
        def last_rows(*, n, candidates):
            return candidates[-n:]

        found = run(tmp_path / "run", strategies=[last_rows, "random"], rounds=1)
        assert found.picks("last_rows", seed=0, round=1)[-1] == "train/199"

        def changed(*, n, candidates):
            return candidates[:n]

        changed.__name__ = "last_rows"
        with pytest.raises(ResultsError, match=r"strategies\[0\] is last_rows \(source"):
            run(tmp_path / "run", strategies=[changed, "random"], rounds=1)

    def test_options_make_another_strategy_of_it(self, tmp_path):
        found = run(tmp_path / "run", strategies="badge,badge:first=uniform", rounds=1, seeds=3)
        picks = [
            [found.picks(name, seed=seed, round=1) for seed in range(3)]
            for name in found.strategies
        ]
        assert picks[0] != picks[1]

    def test_only_the_initial_set(self, tmp_path):
        found = run(tmp_path / "run", rounds=0)
        assert found.curves()["margin"].labels.tolist() == [10]

    def test_real_digits(self, tmp_path):
        digits = load_digits()
        x, rows = digits.data.astype(np.float32) / 16, np.arange(len(digits.data))
        data = Data(
            pool=ArrayPool(x[rows % 5 != 0]),
            labels=digits.target[rows % 5 != 0],
            test=ArrayPool(x[rows % 5 == 0]),
            test_labels=digits.target[rows % 5 == 0],
            classes=[str(digit) for digit in range(10)],
            name="digits",
        )
        options = {
            "initial": 40,
            "batch": 40,
            "rounds": 2,
            "learner": None,
            "encoder": None,
            "seeds": 1,
        }
        found = run(tmp_path / "run", data, strategies="random,margin", **options)
        assert found.complete
        assert found.curves()["margin"].mean()[-1] > 0.85
        assert found.full["logistic"].accuracy > 0.94


class TestResume:
    def test_a_finished_run_is_not_redone(self, whole):
        learner, events = Means(), []
        again = run(whole.folder, learner=learner, progress=events.append)
        assert learner.fits == 0
        assert [event.step for event in events] == ["done"]
        assert again.table.equals(whole.table)

    @pytest.mark.parametrize("rounds", [1, 2, 4, 5, 6, 11, 20, 29, 39, 40])
    def test_stopped_anywhere_it_ends_in_the_same_numbers(self, whole, tmp_path, rounds):
        out, learner = tmp_path / "run", Means()
        with pytest.raises(Stop):
            run(out, progress=stop_after(rounds))
        assert not (out / "results.parquet").exists()
        assert len(Results.load(out).table) == rounds
        assert not Results.load(out).complete  # not even with every round: the full fit is due
        found = run(out, learner=learner)
        assert found.complete
        assert lasting(found) == lasting(whole)
        assert found.full["means"].accuracy == whole.full["means"].accuracy
        assert found.notes == []
        assert len(found.sessions) == 2
        # What is left, and at most: the initial fits of 2 seeds, a refit to go on, the full one.
        assert learner.fits <= 40 - rounds + 4

    def test_pseudo_labels_are_found_again(self, tmp_path):
        options = {"strategies": "ceal:threshold=0.3", "seeds": 1, "full": False}
        whole = run(tmp_path / "whole", **options)
        lines = (tmp_path / "whole" / "journal.jsonl").read_text().splitlines()
        records = [json.loads(line)["record"] for line in lines]
        assert [bool(record.get("pseudo")) for record in records].count(True) == 4
        without = run(tmp_path / "none", **options | {"strategies": "ceal:threshold=0"})
        accuracies = [r.table["accuracy"].to_pylist() for r in (whole, without)]
        assert accuracies[0][0] == accuracies[1][0]  # the initial fit
        assert accuracies[0] != accuracies[1]
        with pytest.raises(Stop):
            run(tmp_path / "run", progress=stop_after(3), **options)
        found = run(tmp_path / "run", **options)
        assert lasting(found) == lasting(whole)
        assert found.notes == []

    def test_an_unfinished_run_can_be_looked_at(self, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", progress=stop_after(7, KeyboardInterrupt))
        found = Results.load(tmp_path / "run")
        assert not found.complete
        assert found.full == {}
        values = found.curves()["margin"].values
        assert np.isnan(values).sum() == 8
        assert found.picks("margin", seed=1, round=1) == []

    def test_a_lost_table_is_rebuilt_from_the_journal(self, whole, tmp_path):
        found = run(tmp_path / "run", full=False, seeds=1)
        (tmp_path / "run" / "results.parquet").write_bytes(b"PAR1 torn")
        with pytest.raises(ResultsError, match=r"rebuilt from journal.jsonl"):
            Results.load(tmp_path / "run")
        (tmp_path / "run" / "results.parquet").unlink()
        learner = Means()
        assert run(tmp_path / "run", full=False, seeds=1, learner=learner).table.equals(found.table)
        assert learner.fits == 0

    def test_a_torn_journal_line_costs_one_round(self, whole, tmp_path):
        with pytest.raises(Stop):
            run(tmp_path / "run", progress=stop_after(9))
        path = tmp_path / "run" / "journal.jsonl"
        path.write_bytes(path.read_bytes()[:-40])
        assert len(Results.load(tmp_path / "run").table) == 8
        assert lasting(run(tmp_path / "run")) == lasting(whole)

    def test_a_model_that_cannot_be_had_again_is_noted(self, tmp_path):
        with pytest.raises(Stop):
            run(tmp_path / "run", progress=stop_after(9))
        events = []
        found = run(tmp_path / "run", learner=Means(tremble=0.5), progress=events.append)
        assert any("fitted again, the model has accuracy" in note for note in found.notes)
        assert "note" in {event.step for event in events}

    def test_another_machine_is_noted(self, tmp_path, monkeypatch):
        with pytest.raises(Stop):
            run(tmp_path / "run", progress=stop_after(3))
        monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
        found = run(tmp_path / "run")
        assert any("threads 99, was" in note for note in found.notes)

    @pytest.mark.parametrize("writes", [1, 6, 40])
    def test_killed_in_the_middle_of_a_line(self, whole, tmp_path, writes):
        with spawn(tmp_path / "run", die_at=writes) as process:
            assert process.wait() == -signal.SIGKILL
        assert lasting(run(tmp_path / "run")) == lasting(whole)

    def test_killed_at_random_moments(self, whole, tmp_path):
        moments, journal = random.Random(0), tmp_path / "run" / "journal.jsonl"
        kept = [0]
        for _ in range(3):
            with spawn(tmp_path / "run", delay=0.02) as process:
                goal = kept[-1] + moments.randint(1, 9)
                while process.poll() is None and lines_of(journal) < goal:
                    time.sleep(0.005)
                time.sleep(moments.uniform(0, 0.05))  # anywhere within a round, or its line
                process.kill()
            kept.append(len(Results.load(tmp_path / "run").table))
        assert kept == sorted(kept)
        assert 0 < kept[-1] < 40
        assert lasting(run(tmp_path / "run")) == lasting(whole)

    @pytest.mark.parametrize("writes", [1, 2, 5, 12])
    def test_a_full_disk_is_one_line_and_costs_nothing(self, whole, tmp_path, monkeypatch, writes):
        left, real = itertools.count(writes, -1), os.write

        def write(file, data):
            if next(left) <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(file, data)

        monkeypatch.setattr(journal_module.os, "write", write)
        with pytest.raises(ResourceError, match=r"no space left to write .*journal") as caught:
            run(tmp_path / "run")
        assert "\n" not in str(caught.value)
        monkeypatch.undo()
        assert lasting(run(tmp_path / "run")) == lasting(whole)

    def test_a_full_disk_at_the_start_leaves_no_plan(self, tmp_path, monkeypatch):
        def full(*args):
            raise OSError(errno.ENOSPC, "No space left on device")

        for name, left in (("pwrite", {".lock"}), ("fsync", {".lock"})):
            with monkeypatch.context() as patch:
                patch.setattr(journal_module.os, name, full)
                with pytest.raises(ResourceError, match="no space left"):
                    run(tmp_path / "run")
            assert {path.name for path in (tmp_path / "run").iterdir()} == left

    def test_a_full_disk_at_the_end_leaves_no_table(self, whole, tmp_path, monkeypatch):
        def full(file, *args, **kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(pq, "write_table", full)
        with pytest.raises(ResourceError, match=r"no space left to write .*results.parquet"):
            run(tmp_path / "run")
        monkeypatch.undo()
        left = {path.name for path in (tmp_path / "run").iterdir()}
        assert left == {".lock", "plan.json", "journal.jsonl"}
        learner = Means()
        assert lasting(run(tmp_path / "run", learner=learner)) == lasting(whole)
        assert learner.fits == 0

    def test_two_runs_on_one_folder(self, tmp_path):
        with spawn(tmp_path / "run", delay=0.2) as process:
            try:
                assert process.stdout.readline() == "ready\n"
                deadline = time.monotonic() + 20
                while not (tmp_path / "run" / "journal.jsonl").exists():
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                with pytest.raises(ResultsError, match="in use by another run"):
                    run(tmp_path / "run")
            finally:
                process.kill()


def lines_of(journal):
    return journal.read_bytes().count(b'"kind":"round"') if journal.exists() else 0


def spawn(out, *, delay=0.0, die_at=None):
    """This file's `run` in a process of its own."""
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['child'](*sys.argv[2:])"
    command = [sys.executable, "-c", code, __file__, str(out), str(delay), str(die_at or 0)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def child(out, delay, die_at):
    if int(die_at):
        calls, real = itertools.count(1), os.write

        def write(file, data):
            if next(calls) == int(die_at):
                real(file, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(file, data)

        journal_module.os.write = write
    else:
        os.write(1, b"ready\n")
    torch.set_num_threads(1)
    run(out, learner=Means(delay=float(delay)))


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            (
                {"batch": 60},
                r"10 \+ 4 x 60 = 250 labels, but the pool has 200: at most 3 rounds of",
            ),
            ({"initial": 500}, "initial must be at most 200"),
            ({"batch": 0}, "batch must be at least 1, got 0"),
            ({"rounds": -1}, "rounds must be at least 0, got -1"),
            ({"rounds": 2.5}, "rounds must be a whole number, got 2.5"),
            ({"initial": 0, "rounds": 0}, "nothing to label"),
            ({"seeds": 0}, "seeds must be at least 1, got 0"),
            ({"seeds": [1, 1]}, r"seeds must be distinct and at least one, got \[1, 1\]"),
            ({"strategies": "margn"}, "did you mean margin"),
            ({"strategies": ""}, "strategies is empty"),
            ({"strategies": "random,random"}, "'random' more than once"),
            ({"strategies": "badge:frist=uniform"}, "no option 'frist'; did you mean first"),
            ({"strategies": "random:first=uniform"}, "'random' has no option 'first'"),
            ({"strategies": "badge:first"}, "option 'first' of .* must be written name=value"),
            ({"learner": "logistik"}, "logistic"),
            ({"encoder": "identiti"}, "identity"),
            ({"initial_set": "best"}, "initial_set must be one of random, stratified"),
            ({"primary": "aubc"}, "primary must be one of area, final"),
        ],
    )
    def test_before_anything_runs(self, tmp_path, changes, says):
        with pytest.raises(InputError, match=says) as caught:
            run(tmp_path / "run", **changes)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()

    def test_evidence_the_models_lack_is_found_after_the_first_fit(self, tmp_path):
        learner = Means()
        with pytest.raises(InputError, match=r"'bald' needs draws, which the models of .*'means'"):
            run(tmp_path / "run", strategies="random,bald", learner=learner)
        assert learner.fits == 1
        assert len(Results.load(tmp_path / "run").table) == 0

    def test_data_without_a_test_set(self, tmp_path):
        data = blobs()
        bare = Data(data.pool, data.labels, None, None, data.classes, "bare")
        with pytest.raises(DataError, match="bare has no test set"):
            run(tmp_path / "run", bare)

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"batch": 9}, "batch is 8 there and 9 now"),
            ({"seeds": 3}, r"seeds is \[0, 1\] there and \[0, 1, 2\] now"),
            ({"data": blobs(shift=1.0)}, "data.fingerprint is"),
            ({"strategies": "random,margin,k_center,badge"}, r"strategies\[3\] is badge:first"),
            ({"learner": Means(kind="other")}, r"learner.kind is means there and other now"),
        ],
    )
    def test_a_folder_of_another_plan(self, whole, changes, says):
        before = sorted((p.name, p.stat().st_mtime_ns) for p in whole.folder.glob("[a-z]*"))
        with pytest.raises(ResultsError, match=says) as caught:
            run(whole.folder, **changes)
        assert "another plan" in str(caught.value)
        assert "Choose another folder" in str(caught.value)
        assert before == sorted((p.name, p.stat().st_mtime_ns) for p in whole.folder.glob("[a-z]*"))

    def test_more_strategies_join_those_that_are_there(self, whole, tmp_path):
        few = run(tmp_path / "run", strategies="random,k_center")
        events = []
        more = run(tmp_path / "run", progress=events.append)  # margin and badge join
        assert len(few.table) < len(more.table) == len(whole.table)
        assert lasting(more) == lasting(whole)
        assert lasting(Results.load(tmp_path / "run")) == lasting(whole)
        ran = {event.message.split(", ")[1] for event in events if event.step == "round"}
        assert ran == {"margin", "badge:first=uniform"}
        with pytest.raises(ResultsError, match="another plan"):  # none may leave
            run(tmp_path / "run", strategies="random,k_center")
        with pytest.raises(ResultsError, match="another plan"):
            run(tmp_path / "run", strategies=STRATEGIES + ",entropy", batch=9)
        assert len(Results.load(tmp_path / "run").table) == len(whole.table)

    def test_a_folder_of_another_version(self, tmp_path):
        run(tmp_path / "run", rounds=0, seeds=1)
        path = tmp_path / "run" / "plan.json"
        plan = json.loads(path.read_text())
        path.write_text(json.dumps(plan | {"version": "0.0.9"}))
        with pytest.raises(ResultsError, match=r"version is 0.0.9 there and"):
            run(tmp_path / "run", rounds=0, seeds=1)
        path.write_text(json.dumps(plan | {"format": 99}))
        with pytest.raises(ResultsError, match=r"has format 99 .* reads format 1"):
            Results.load(tmp_path / "run")

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 1}', "\0"])
    def test_a_plan_that_is_none(self, tmp_path, text):
        (tmp_path / "plan.json").write_text(text)
        with pytest.raises(ResultsError, match=r"plan.json") as caught:
            Results.load(tmp_path)
        assert "\n" not in str(caught.value)

    def test_a_journal_without_a_plan(self, tmp_path):
        run(tmp_path / "run", rounds=0, seeds=1)
        (tmp_path / "run" / "plan.json").unlink()
        with pytest.raises(ResultsError, match=r"no plan.json to say what it is of"):
            run(tmp_path / "run", rounds=0, seeds=1)

    def test_no_folder_at_all(self, tmp_path):
        with pytest.raises(ResultsError, match=r"holds no plan.json"):
            Results.load(tmp_path / "none")
        (tmp_path / "file").write_text("")
        with pytest.raises(ResultsError, match="cannot write"):
            run(tmp_path / "file")


class TestProgress:
    def test_events_count_rounds_and_time(self, tmp_path):
        events = []
        run(tmp_path / "run", progress=events.append, learner=Means(delay=0.002))
        rounds = [event for event in events if event.step == "round"]
        assert [event.done for event in rounds] == list(range(1, 41))
        assert {event.total for event in rounds} == {40}
        assert all(event.remaining >= 0 for event in rounds)
        assert rounds[-1].remaining == 0
        assert next(e.step for e in events if e.step != "encode") == "start"
        assert events[-1].step == "done"

    def test_a_resumed_run_says_what_it_found(self, tmp_path):
        with pytest.raises(Stop):
            run(tmp_path / "run", progress=stop_after(3))
        events = []
        run(tmp_path / "run", progress=events.append)
        resumed = next(event for event in events if event.step == "resume")
        assert (resumed.done, resumed.total) == (3, 40)

    def test_the_pace_by_hand(self):
        pace = Pace()
        assert pace.remaining({("a", 10): 1}) is None
        pace.observe("a", 100, query=1.0, fit=2.0)
        pace.observe("a", 200, query=3.0, fit=5.0)
        pace.observe("b", 100, query=4.0, fit=4.0)
        # a queries in 2 s, b in 4, who is new in their mean; fits take 3 s at 100, 5 at 200
        assert pace.remaining({("a", 100): 1}) == pytest.approx(2 + 3)
        assert pace.remaining({("b", 400): 1}) == pytest.approx(4 + 10)
        assert pace.remaining({("new", 200): 1}) == pytest.approx(3 + 5)
        assert pace.remaining({}) == 0


class TestPlan:
    @pytest.mark.parametrize(
        ("text", "options"),
        [
            ("a:x=1", {"x": 1}),
            ("a:x=-2.5e-3", {"x": -0.0025}),
            ("a:x=true:y=None", {"x": True, "y": None}),
            ("a:x=inf:y=1=2", {"x": "inf", "y": "1=2"}),
        ],
    )
    def test_options_are_read(self, text, options):
        entry = parse_strategy(text)
        assert entry.options == options
        assert parse_strategy(entry.label) == entry

    @pytest.mark.parametrize("text", ["", ":x=1", "a:x", "a:=1", "a:x=", "a:x=1:x=2"])
    def test_what_cannot_be_read(self, text):
        with pytest.raises(InputError):
            parse_strategy(text)

    def test_several(self):
        assert [e.label for e in parse_strategies("a, b:x=1 ,c")] == ["a", "b:x=1", "c"]

    def test_first_difference(self):
        assert first_difference({"a": 1}, {"a": 1}, "p") is None
        assert first_difference({"a": 1}, {"a": 1.0}, "p") == ("p.a", 1, 1.0)
        assert first_difference({"a": 1}, {"b": 1}, "p") == ("p", {"a": 1}, {"b": 1})
        assert first_difference([1, {"x": [2]}], [1, {"x": [3]}], "p") == ("p[1].x[0]", 2, 3)
