"""What the model of the round before believed: kept, or had again, and only for who asks."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from labelwise.benchmark import simulate
from labelwise.errors import InputError
from labelwise.kernels import Rows, derive
from labelwise.learners import MLP, make_learner
from labelwise.loop import Loop, Oracle, SingleLabel, State
from labelwise.pools import ArrayPool, Data
from labelwise.strategies import Strategy

SIZE = 160
IDS = [f"item {row}" for row in range(SIZE)]


class Counting(MLP):
    """Counts its fits."""

    def __init__(self):
        super().__init__(hidden=(16,), epochs=4, min_steps=20)
        self.fits = 0

    def fit(self, *args, **options):
        self.fits += 1
        return super().fit(*args, **options)


@pytest.fixture
def world():
    x, y = load_digits(return_X_y=True)
    x, y = x[:SIZE].astype(np.float32) / 16, y[:SIZE]
    learner = Counting()
    loop = Loop(IDS, Rows(x), learner, SingleLabel(10), seed=1, rounds=4)
    return SimpleNamespace(
        loop=loop, learner=learner, inputs=Rows(x), oracle=Oracle(dict(zip(IDS, y.tolist())))
    )


def spying(seen):
    def spy(probs, previous_probs, *, n, candidates):
        seen.append((probs.tensor().clone(), previous_probs.tensor().clone()))
        return candidates[:n]

    return Strategy(spy)


def play(world, strategy, rounds, between=lambda current: current):
    current = world.loop.start(IDS[:20], world.oracle)
    for _ in range(rounds):
        current = between(current)
        current = world.loop.run_round(
            current.state, world.oracle, strategy=strategy, n=5, fitted=current.fitted
        )
    return current


def test_it_is_the_queried_model_of_the_last_round_at_no_further_fit(world):
    seen = []
    play(world, spying(seen), 3)
    assert torch.equal(seen[1][1], seen[0][0])
    assert torch.equal(seen[2][1], seen[1][0])
    assert not torch.equal(seen[1][1], seen[1][0])
    assert world.learner.fits == 4


def test_in_round_0_it_is_the_network_before_its_fit(world):
    seen = []
    play(world, spying(seen), 1)
    start = world.learner.build(world.inputs, 10, derive(derive(1, "fit", 0), "weights"))
    with torch.no_grad():
        expected = start(world.inputs.tensor()).softmax(1)
    torch.testing.assert_close(seen[0][1], expected)
    linear = Loop(IDS, world.inputs, make_learner("ridge"), SingleLabel(10), seed=1)
    world.loop, seen[:] = linear, []
    play(world, spying(seen), 1)
    assert torch.equal(seen[0][1], torch.full((SIZE, 10), 0.1))


def test_after_a_resume_it_is_fitted_again(world):
    whole, again = [], []
    play(world, spying(whole), 3)

    def resumed(current):
        state = State.from_dict(json.loads(json.dumps(current.state.to_dict())))
        return world.loop.resume(state)

    play(world, spying(again), 3, resumed)
    for one, two in zip(whole, again, strict=True):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])


def test_who_does_not_ask_pays_nothing(world):
    current = play(world, "margin", 2)
    assert world.learner.fits == 3
    assert current.fitted.evidence.found("previous_probs") is None
    seen = []
    world.loop.run_round(
        current.state, world.oracle, strategy=spying(seen), n=5, fitted=current.fitted
    )
    earlier = world.loop.fit(current.state.previous()).model.predict(world.inputs).probs
    assert torch.equal(seen[0][1], earlier)


def test_a_model_holds_on_to_none_but_the_one_before(world):
    import gc
    import weakref

    kept = []

    def note(current):
        kept.append(weakref.ref(current.fitted.model))
        return current

    current = play(world, "tod", 3, note)
    gc.collect()
    assert kept[0]() is None
    assert current.fitted.model is not None


def test_a_first_model_after_a_cold_start_has_none_before_it(world):
    cold = world.loop.start((), world.oracle)
    first = world.loop.run_round(
        cold.state, world.oracle, strategy="random", n=20, fitted=cold.fitted
    )
    assert world.loop.missing(spying([]), first.fitted) == ["previous_probs"]
    unknown = State(first.state.ids, first.state.labels, round=1)
    with pytest.raises(InputError, match=r"pass previous_probs= \(N, C\), probs of the model"):
        world.loop.query(unknown, world.loop.fit(unknown), "tod", 3)


def test_pseudo_labels_of_the_round_before_are_its_own(world):
    x = world.inputs
    seen = []

    def believing(probs, *, n, candidates):
        from labelwise.strategies import Picks

        rows = candidates.numpy()
        return Picks(rows[:n], pseudo_rows=rows[-3:], pseudo_labels=np.array([1, 2, 3]))

    current = play(world, Strategy(believing), 2)
    assert current.state.pseudo_before == current.state.previous().pseudo
    assert len(current.state.pseudo_before) == 3
    world.loop.run_round(
        current.state, world.oracle, strategy=spying(seen), n=5, fitted=current.fitted
    )
    believed = world.loop.fit(current.state.previous())
    assert torch.equal(seen[0][1], believed.model.predict(x).probs)


class Stop(Exception):
    pass


def test_a_simulation_with_tod_goes_on_where_it_was_stopped(tmp_path):
    x, y = load_digits(return_X_y=True)
    data = Data(
        pool=ArrayPool(x[:200].astype(np.float32), [f"a/{i}" for i in range(200)]),
        labels=y[:200],
        test=ArrayPool(x[200:300].astype(np.float32), [f"b/{i}" for i in range(100)]),
        test_labels=y[200:300],
        classes=[str(c) for c in range(10)],
        name="digits",
    )
    call = {
        "strategies": "tod",
        "initial": 20,
        "batch": 5,
        "rounds": 3,
        "seeds": 1,
        "encoder": "identity",
        "cache": tmp_path / "cache",
    }

    def learner():
        return MLP(hidden=(16,), epochs=3, min_steps=20)

    whole = simulate(data, out=tmp_path / "whole", learner=learner(), **call)

    def stop(event):
        if event.step == "round" and event.done == 3:
            raise Stop

    with pytest.raises(Stop):
        simulate(data, out=tmp_path / "part", learner=learner(), progress=stop, **call)
    part = simulate(data, out=tmp_path / "part", learner=learner(), **call)
    columns = ["round", "picked_ids", "accuracy"]
    assert part.table.select(columns).equals(whole.table.select(columns))
