"""Arms: what a strategy over strategies may ask, and that it is asked as `select` would."""

import numpy as np
import pytest
import torch
from tests.test_battery import make_pool

from labelwise.errors import InputError
from labelwise.kernels import Generator
from labelwise.strategies import call_needs, estimate, get_strategy, select
from labelwise.strategies.arms import Arm, Proposals
from labelwise.strategies.call import Call


@pytest.fixture(scope="module")
def pool():
    return make_pool()[0]


def test_arms_add_their_needs(pool):
    albl = get_strategy("albl")
    assert call_needs(albl, {"arms": "margin"}) == ("probs",)
    assert set(call_needs(albl, {"arms": "margin+bald+base"})) >= {"draws", "head_weight"}
    with pytest.raises(InputError, match="albl needs probs and draws"):
        select("albl", 5, probs=pool["probs"], arms="margin+bald")


def test_functions_of_your_own_are_arms(pool):
    seen = []

    def mine(embeddings, price, ids, *, n, candidates):
        raise AssertionError("ids are reserved, so they cannot be positional evidence")

    def priced(price, *, n, candidates, generator, ids):
        seen.append((price, ids))
        return candidates[:n]

    names = np.arange(120) + 1000
    select("albl", 5, probs=pool["probs"], price=3.0, arms=[priced], ids=names)
    assert seen[0][0] == 3.0
    assert seen[0][1].tolist() == names.tolist()
    with pytest.raises(InputError, match="neither evidence nor an option"):
        select("albl", 5, probs=pool["probs"], price=3.0, arms="margin")


@pytest.mark.parametrize(
    ("arms", "says"),
    [
        ("", "there is no strategy ''"),
        ([], "arms must be strategies"),
        (3, "arms must be strategies"),
        ("margin+margin", "'margin' more than once"),
        ("margin+marginn", "did you mean margin"),
        ("margin+tailor", "tailor chooses among arms itself"),
        ("balanced_random", "true labels and cannot be an arm"),
    ],
)
def test_what_cannot_be_an_arm(pool, arms, says):
    with pytest.raises(InputError, match=says):
        select("albl", 5, arms=arms, **pool)


def test_an_arm_has_to_answer_as_a_strategy_does(pool):
    def careless(probs, *, n):
        return [0] * n

    with pytest.raises(InputError, match="careless returned row 0 more than once"):
        select("albl", 3, arms=[careless], **pool)


def test_the_state_is_not_that_of_an_arm(pool):
    seen = []

    def learning(probs, state=None, *, n, candidates):
        seen.append(state)
        return candidates[:n]

    def stateful(probs, state, *, n, candidates):
        return candidates[:n]

    first = select("albl", 3, arms=[learning], **pool)
    rows = {"labeled": first.rows, "labels": [0, 1, 2]}
    select("albl", 3, arms=[learning], state=first.state, **rows, **pool)
    assert seen == [None, None]
    with pytest.raises(InputError, match="stateful needs a state of its own"):
        select("albl", 3, arms=[stateful], state=first.state, **rows, **pool)


def test_an_arm_that_refuses_is_named(pool):
    """What it says of itself, such as an option to set, is not of the strategy that was asked."""
    zero = {**pool, "embeddings": pool["embeddings"] * (np.arange(120) > 0)[:, None]}
    for name in ("auto", "tailor", "lsa"):
        arms = {} if name == "auto" else {"arms": "margin+typiclust"}
        with pytest.raises(InputError, match="the arm typiclust refuses: embeddings: row 0 is"):
            select(name, 3, **arms, **zero)


def test_called_by_hand_without_bound_arms(pool):
    with pytest.raises(InputError, match="called by hand with arms='margin"):
        get_strategy("albl")(
            torch.from_numpy(pool["probs"]),
            n=1,
            candidates=torch.arange(120),
            generator=Generator(0),
            arms="margin",
        )


def test_proposals_pass_over_what_is_taken():
    def up(*, n, candidates, generator):
        return candidates[:n]

    def down(*, n, candidates, generator):
        return candidates.flip(0)[:n]

    found = Proposals(
        [Arm("up", False, up), Arm("down", False, down)], 3, torch.arange(4), Generator(0)
    )
    assert found.next() == [0, 3]
    found.taken |= {0, 3}
    assert found.next() == [1, 2]
    found.taken.add(2)
    assert found.next() == [1, 1]


def test_costs_are_those_of_the_arms(pool):
    one = Call(get_strategy("albl"), {"arms": "margin", **pool}, (), None, None, None, None)
    two = Call(get_strategy("albl"), {"arms": "margin+kmeans", **pool}, (), None, None, None, None)
    assert "embeddings" in two.evidence_used
    assert "embeddings" not in one.evidence_used

    def silent(probs, *, n, candidates):
        return candidates[:n]

    assert estimate("albl", 5, arms=[silent], **pool).memory is None  # measured, not declared
    assert estimate("albl", 5, arms="margin", **pool).memory is not None
