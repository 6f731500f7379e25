"""Simulations of strategies that learn: resumable to the same picks, and their experience."""

import itertools
import json

import pytest
import torch
from sklearn.datasets import load_digits

from labelwise.benchmark import TIMINGS, simulate
from labelwise.errors import InputError
from labelwise.pools import ArrayPool, Data
from labelwise.strategies import Experience

STRATEGIES = "margin,albl:arms=margin+k_center,lsa:arms=margin+entropy,tailor:arms=margin+random"


class Stop(Exception):
    pass


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def digits():
    x, y = load_digits(return_X_y=True)
    return Data(
        pool=ArrayPool(x[:250] / 16, [f"train/{i}" for i in range(250)]),
        labels=y[:250],
        test=ArrayPool(x[250:400] / 16, [f"test/{i}" for i in range(150)]),
        test_labels=y[250:400],
        classes=[str(c) for c in range(10)],
        name="digits",
    )


def run(out, strategies=STRATEGIES, progress=None, **changes):
    plan = {"initial": 20, "batch": 5, "rounds": 3, "seeds": 2, "full": False, **changes}
    return simulate(
        digits(),
        strategies=strategies,
        learner="ridge",
        encoder="identity",
        out=out,
        cache=out.parent / "cache",
        progress=progress,
        **plan,
    )


def lasting(results):
    return results.table.drop_columns(list(TIMINGS)).to_pylist()


def test_a_killed_run_ends_in_the_same_picks(tmp_path):
    whole = run(tmp_path / "whole")
    for stop in (6, 11, 15):  # in the middle of each bandit's first seed
        left = itertools.count(stop, -1)

        def listener(event, left=left):
            if event.step == "round" and next(left) <= 1:
                raise Stop

        with pytest.raises(Stop):
            run(tmp_path / f"cut{stop}", progress=listener)
        assert lasting(run(tmp_path / f"cut{stop}")) == lasting(whole)
    assert Experience.read(tmp_path / "whole/experience.json").arms == ("margin", "entropy")


def test_experience_goes_from_run_to_run(tmp_path):
    label = "lsa:arms=margin+entropy"
    run(tmp_path / "one", label)
    path = tmp_path / "one/experience.json"
    known = Experience.read(path)
    assert known.learned["data"] == "digits"
    assert known.learned["seeds"] == 2
    journal = (tmp_path / "one/journal.jsonl").read_text().splitlines()
    last = [json.loads(line)["record"] for line in journal]
    last = [r["carried"] for r in last if r["kind"] == "round" and r["round"] == 3]
    each = [state["experience"]["weights"] for state in last]
    assert known.weights == pytest.approx([sum(pair) / 2 for pair in zip(*each)])
    results = run(tmp_path / "two", f"{label}:experience={path}")
    assert results.plan.strategies[0].source
    journal = (tmp_path / "two/journal.jsonl").read_text()
    assert f'"prior":{json.dumps(list(known.weights), separators=(",", ":"))}' in journal
    run(tmp_path / "three", f"{label},lsa:arms=margin+random")
    names = sorted(p.name for p in (tmp_path / "three").glob("experience*"))
    assert names == [
        "experience-lsa_arms=margin+entropy.json",
        "experience-lsa_arms=margin+random.json",
    ]
    run(tmp_path / "four", "margin")
    assert not list((tmp_path / "four").glob("experience*"))


def test_what_cannot_work_is_refused_before_anything_runs(tmp_path):
    for strategies, says in (
        ("albl:arms=margin+marginn", "did you mean margin"),
        ("lsa:arms=margin+entropy:experience=nowhere.json", "cannot read the experience"),
        ("albl:arm=margin", "has no option 'arm'"),
    ):
        with pytest.raises(InputError, match=says):
            run(tmp_path / "out", strategies)
        assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"albl.*needs probs"):
        run(tmp_path / "out", "albl", initial=0)
