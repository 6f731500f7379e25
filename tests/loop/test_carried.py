"""What a strategy leaves behind at a query reaches its next one, and no other strategy."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import make_learner
from labelwise.loop import Loop, Oracle, SingleLabel, State
from labelwise.strategies import Strategy

IDS = [f"item {row}" for row in range(200)]


@pytest.fixture(scope="module")
def world():
    x, y = load_digits(return_X_y=True)
    x, y = x[:200] / 16, y[:200]
    loop = Loop(IDS, Rows(x), make_learner("ridge"), SingleLabel(10), seed=1, rounds=4)
    return loop, Oracle(dict(zip(IDS, y.tolist()))), dict(zip(IDS, y.tolist()))


def play(loop, oracle, strategies, *, forget=False, options=None):
    """Rounds of some strategies in turn, each state through JSON, as after a restart."""
    current = loop.start(IDS[:20], oracle)
    for strategy in strategies:
        state = State.from_dict(json.loads(json.dumps(current.state.to_dict())))
        if forget:
            state = State(state.ids, state.labels, round=state.round)
        current = loop.run_round(
            state, oracle, strategy=strategy, n=6, fitted=current.fitted, options=options
        )
    return current.state


def test_a_strategy_finds_its_own_state_and_no_other(world):
    seen = []

    def counts(probs, state=None, *, n, candidates):
        from labelwise.strategies import Picks

        seen.append(None if state is None else state["turn"])
        turn = 1 if state is None else state["turn"] + 1
        return Picks(candidates[:n].numpy(), state={"turn": turn})

    def other(probs, state=None, *, n, candidates):
        seen.append(state)
        return candidates[:n]

    counts, other = Strategy(counts), Strategy(other)
    state = play(world[0], world[1], [counts, other, counts, "margin", counts])
    assert seen == [None, None, 1, 2]
    assert state.carried == {"counts": {"turn": 3}}


@pytest.mark.parametrize("name", ["albl", "lsa", "tailor"])
def test_a_bandit_learns_over_rounds(world, name):
    loop, oracle = world[:2]
    state = play(loop, oracle, [name] * 4)
    learned, fresh = state.carried[name], play(loop, oracle, [name] * 4, forget=True)
    forgotten = fresh.carried[name]
    assert learned["count"] >= 24
    assert forgotten["count"] < learned["count"]
    if name == "albl":
        assert learned["horizon"] == 24
        assert {item for item, _ in learned["weights"]} <= set(loop._keys.tolist())
        assert len(set(learned["log_weights"])) > 1
    if name == "tailor":
        assert np.sum(learned["counts"]) > 10 * 3 * 0.9**3
    if name == "lsa":
        assert np.any(learned["gram"])
        assert not np.any(forgotten["gram"])


def test_evidence_that_arms_lack_is_found_before_a_long_run(world):
    loop, oracle, _ = world
    start = loop.start(IDS[:20], oracle)
    strategy = Strategy(moonstruck)
    assert loop.missing(strategy, start.fitted) == ["moon"]
    from labelwise.strategies import get_strategy

    albl = get_strategy("albl")
    assert loop.missing(albl, start.fitted) == []
    assert loop.missing(albl, start.fitted, options={"arms": [moonstruck]}) == ["moon"]
    with pytest.raises(InputError, match="Missing: pass moon="):
        loop.query(start.state, start.fitted, "albl", 3, options={"arms": [moonstruck]})


def moonstruck(moon, *, n, candidates):
    return candidates[:n]
