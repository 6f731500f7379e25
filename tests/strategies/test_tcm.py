"""TCM is TypiClust before the switch and margin from it on."""

import numpy as np
import pytest
import torch

from labelwise.errors import InputError
from labelwise.kernels import Generator, derive
from labelwise.strategies import get_strategy, select


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    return {"embeddings": rng.normal(size=(200, 4)), "logits": rng.normal(size=(200, 3))}


def direct(name, pool, labeled, n):
    """What the strategy of one name picks with the random numbers that tcm has."""
    free = np.setdiff1d(np.arange(200), labeled)
    more = {"n": n, "candidates": torch.from_numpy(free), "generator": Generator(derive(0, "tcm"))}
    if name == "margin":
        probs = torch.from_numpy(pool["logits"]).softmax(1)
        return get_strategy("margin")(probs, **more).rows.tolist()
    x = torch.from_numpy(pool["embeddings"])
    return get_strategy("typiclust")(x, torch.from_numpy(labeled), **more).rows.tolist()


@pytest.mark.parametrize(
    ("count", "switch", "name"),
    [(0, 10, "typiclust"), (29, 10, "typiclust"), (30, 10, "margin"), (12, 4, "margin")],
)
def test_the_switch(pool, count, switch, name):
    labeled = np.random.default_rng(1).permutation(200)[:count]
    picks = select("tcm", 15, **pool, labeled=labeled, labels=labeled % 3, switch=switch)
    assert picks.rows.tolist() == direct(name, pool, labeled, 15)
    said = {"typiclust": "TypiClust", "margin": "margin"}[name]
    assert picks.notes[0] == f"{said}: {count} labels of 3 classes"


def test_the_default_is_ten_labels_a_class(pool):
    labeled = np.arange(30)
    more = {**pool, "labeled": labeled, "labels": labeled % 3}
    assert select("tcm", 3, **more).notes[0].startswith("margin")
    assert select("tcm", 3, **more, switch=10.1).notes[0].startswith("TypiClust")


def test_no_predictions_are_needed_before_the_switch(pool):
    x, labeled = pool["embeddings"], np.arange(40)
    picks = select("tcm", 5, embeddings=x, labeled=labeled)
    assert picks.notes[0] == "TypiClust: 40 labels of unknown classes"
    picks = select("tcm", 5, embeddings=x, labeled=labeled, labels=labeled % 5)
    assert picks.notes[0] == "TypiClust: 40 labels of 5 classes"
    with pytest.raises(InputError, match="needs probs"):
        select("tcm", 5, embeddings=x, labeled=labeled, labels=labeled % 2)


def test_bad_options(pool):
    with pytest.raises(InputError, match="switch must be a number"):
        select("tcm", 1, **pool, switch=-1)
    with pytest.raises(InputError, match="classes must be a whole number"):
        select("tcm", 1, **pool, classes=0)
