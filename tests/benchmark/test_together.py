"""Seeds and strategies whose fits go as groups: the same results, and the same groups again."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest
import torch
from tests.benchmark.test_simulate import Means, MeansModel, Stop, lasting, run, stop_after

from labelwise.benchmark import Results
from labelwise.benchmark import together as module
from labelwise.errors import InputError, ResultsError
from labelwise.learners import MLP
from labelwise.learners.many import Fits

STRATEGIES = "random,margin,tod"
"""The last of them compares a model with the one before, which comes from a group as well."""


@pytest.fixture
def trembling(monkeypatch):
    """Fits that depend on who is in the group, far more than rounding would; notes the groups."""
    groups = []

    def fit_many(learner, inputs, jobs, *, classes, group):
        models = []
        for start in range(0, len(jobs), group):
            chunk = jobs[start : start + group]
            key = [(job.seed, job.rows.tolist()) for job in chunk]
            groups.append(json.dumps(key))
            noise = np.random.default_rng([ord(letter) for letter in groups[-1]])
            for job in chunk:
                weight = job.fit(learner, inputs, classes).head_weight
                models.append(
                    MeansModel(weight + 0.3 * torch.from_numpy(noise.normal(size=weight.shape)))
                )
                models[-1].head_weight = models[-1].head_weight.float()
                models[-1].head_bias = models[-1].head_bias.float()
        return Fits(models, "")

    monkeypatch.setattr(module, "fit_many", fit_many)
    monkeypatch.setattr(module, "reason_apart", lambda *learner: "")
    return groups


def grouped(out, **changes):
    return run(out, **{"strategies": STRATEGIES, "together": True, "full": False} | changes)


def test_results_are_those_of_fits_one_after_another(tmp_path):
    learner = MLP(hidden=8, dropout=0.2, epochs=2, min_steps=10)
    alone = run(tmp_path / "alone", strategies=STRATEGIES, learner=learner, full=False)
    groups = run(
        tmp_path / "groups", strategies=STRATEGIES, learner=learner, full=False, together=True
    )
    assert groups.complete
    assert groups.notes == []
    for one, other in zip(lasting(alone), lasting(groups), strict=True):
        assert one.keys() == other.keys()
        assert one["picked_ids"] == other["picked_ids"]
        assert one["accuracy"] == pytest.approx(other["accuracy"], abs=0.02)


def test_a_learner_that_cannot_go_together_gives_the_very_same_and_says_so(tmp_path):
    events, held = [], []

    def listener(event):
        events.append(event)
        gc.collect()
        held.append(sum(type(each) is MeansModel for each in gc.get_objects()))

    alone = run(tmp_path / "alone", strategies=STRATEGIES, full=False)
    groups = grouped(tmp_path / "groups", progress=listener)
    assert lasting(groups) == lasting(alone)
    assert max(held) - held[0] <= 3  # not those of all seeds and strategies
    said = [event.message for event in events if event.step == "note"]
    assert said == ["fitted one after another: only networks are fitted together"]


@pytest.mark.parametrize(("size", "largest"), [(True, [2, 6]), (3, [1, 3]), (2, [1, 1, 2])])
def test_groups_follow_from_the_plan(size, largest, trembling, tmp_path):
    found = grouped(tmp_path / "run", together=size)
    sizes = [len(json.loads(group)) for group in trembling]
    assert sorted(set(sizes)) == sorted(set(largest))
    assert found.plan.together == (6 if size is True else size)
    assert sum(sizes) == 2 + 2 * 3 * 4


@pytest.mark.parametrize("size", [True, 2])
@pytest.mark.parametrize("rounds", [1, 5, 6, 7, 9, 12, 13, 17, 22, 29])
def test_stopped_anywhere_the_same_groups_are_fitted_again(size, rounds, trembling, tmp_path):
    whole = grouped(tmp_path / "whole", together=size)
    first = list(trembling)
    with pytest.raises(Stop):
        grouped(tmp_path / "run", together=size, progress=stop_after(rounds))
    assert len(Results.load(tmp_path / "run").table) == rounds
    trembling.clear()
    found = grouped(tmp_path / "run", together=size)
    assert found.complete
    assert lasting(found) == lasting(whole)
    assert found.notes == []
    assert set(trembling) <= set(first)
    assert len(trembling) < len(first) or rounds < 18  # two rounds are fitted again


def test_a_cold_start_goes_together_too(trembling, tmp_path):
    options = {"strategies": "random,k_center", "initial": 0, "seeds": 3}
    whole = grouped(tmp_path / "whole", **options)
    with pytest.raises(Stop):
        grouped(tmp_path / "run", progress=stop_after(8), **options)
    assert lasting(grouped(tmp_path / "run", **options)) == lasting(whole)
    assert len(whole.table) == 2 * 3 * 4


def test_a_model_that_cannot_be_had_again_is_noted(tmp_path):
    with pytest.raises(Stop):
        grouped(tmp_path / "run", progress=stop_after(12))
    found = grouped(tmp_path / "run", learner=Means(tremble=3.0))
    assert any("fitted again, the model has accuracy" in note for note in found.notes)


def test_the_plan_says_so_and_other_plans_are_refused(tmp_path):
    grouped(tmp_path / "run", rounds=1)
    for changes in ({"together": False}, {"together": 2}, {"strategies": f"{STRATEGIES},badge"}):
        with pytest.raises(ResultsError, match="holds results of another plan"):
            grouped(tmp_path / "run", rounds=1, **changes)


@pytest.mark.parametrize(
    ("size", "says"), [(0, "together must be at least 1, got 0"), (1.5, "must be a whole number")]
)
def test_a_group_of_none_is_refused(size, says, tmp_path):
    with pytest.raises(InputError, match=says):
        grouped(tmp_path / "run", together=size)
    assert not (tmp_path / "run").exists()
