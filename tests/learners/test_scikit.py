"""scikit-learn classifiers as learners."""

import json

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import Learner, Model, make_learner
from labelwise.learners.scikit import Scikit

FOREST = "sklearn.ensemble.RandomForestClassifier"


def clusters(n=60, d=5, c=3):
    rng = np.random.default_rng(0)
    y = np.arange(n) % c
    x = rng.standard_normal((n, d)) + 2 * rng.standard_normal((c, d))[y]
    return x.astype(np.float32), torch.from_numpy(y)


def test_it_gives_the_classifiers_own_probabilities():
    x, y = clusters()
    learner = make_learner(f"sklearn:{FOREST}", n_estimators=9, random_state=5)
    model = learner.fit(Rows(x), torch.arange(40), y[:40], classes=3, seed=0)
    theirs = RandomForestClassifier(n_estimators=9, random_state=5).fit(x[:40], y[:40].numpy())
    outputs = model.predict(Rows(x))
    wanted = torch.from_numpy(theirs.predict_proba(x)).float()
    torch.testing.assert_close(outputs.probs, wanted)
    assert outputs.logits is None
    assert model.head_weight is None
    assert isinstance(learner, Learner)
    assert isinstance(model, Model)
    some = model.predict(Rows(x), torch.tensor([50, 3]))
    torch.testing.assert_close(some.probs, wanted[[50, 3]])


def test_the_seed_becomes_the_random_state_where_none_is_given():
    x, y = clusters()

    def probs(seed, **options):
        learner = Scikit(RandomForestClassifier, n_estimators=5, **options)
        model = learner.fit(Rows(x), torch.arange(40), y[:40], classes=3, seed=seed)
        return model.predict(Rows(x)).probs

    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert torch.equal(probs(1), probs(1))
    assert not torch.equal(probs(1), probs(2))
    assert torch.equal(probs(1, random_state=3), probs(2, random_state=3))
    assert (state == np.random.get_state()[1]).all()  # noqa: NPY002


def test_nested_classifiers_are_cloned_and_seeded():
    x, y = clusters(d=30)
    tree = DecisionTreeClassifier(max_features=1)
    learner = Scikit(VotingClassifier, estimators=[("tree", tree)], voting="soft")
    fits = [
        learner.fit(Rows(x), torch.arange(30), y[1:31], classes=3, seed=seed).predict(Rows(x)).probs
        for seed in (1, 1, 2)
    ]
    assert torch.equal(fits[0], fits[1])
    assert not torch.equal(fits[0], fits[2])
    assert tree.random_state is None


@pytest.mark.parametrize("path", [FOREST, "sklearn.linear_model.LogisticRegression"])
def test_classes_without_labeled_rows_get_zero(path):
    x, y = clusters()
    model = Scikit(path).fit(Rows(x), torch.arange(60), y * 2, classes=6, seed=0)
    probs = model.predict(Rows(x)).probs
    assert probs.shape == (60, 6)
    assert (probs[:, 1::2] == 0).all()
    torch.testing.assert_close(probs.sum(1), torch.ones(60))
    assert (probs.argmax(1) == y * 2).float().mean() > 0.8
    assert model.head_weight is None


def test_a_single_class_and_a_single_row_are_legal():
    x, _ = clusters()
    label = torch.tensor([1])
    probs = Scikit(FOREST).fit(Rows(x), label, label, classes=3, seed=0).predict(Rows(x)).probs
    assert (probs == torch.tensor([0.0, 1.0, 0.0])).all()


@pytest.mark.parametrize("kind", [LogisticRegression, LinearDiscriminantAnalysis])
@pytest.mark.parametrize("c", [2, 3])
def test_a_linear_classifier_has_a_head_whose_softmax_it_is(kind, c):
    x, y = clusters(c=c)
    model = Scikit(kind).fit(Rows(x), torch.arange(60), y, classes=c, seed=0)
    outputs = model.predict(Rows(x))
    assert model.head_weight.shape == (c, 5)
    logits = torch.from_numpy(x) @ model.head_weight.T + model.head_bias
    torch.testing.assert_close(outputs.logits, logits)
    torch.testing.assert_close(outputs.probs, logits.softmax(1), atol=1e-5, rtol=1e-4)


def test_blocks_and_images_and_names(monkeypatch):
    x, y = clusters()
    images = Rows((np.abs(x) * 50).astype(np.uint8).reshape(60, 5, 1))
    model = Scikit(FOREST, n_estimators=4).fit(images, torch.arange(60), y, classes=3, seed=0)
    whole = model.predict(images).probs
    monkeypatch.setattr(Rows, "block_size", lambda self: 11)
    torch.testing.assert_close(model.predict(images).probs, whole)
    learner = Scikit(RandomForestClassifier, n_estimators=4)
    assert learner.name == "sklearn:sklearn.ensemble._forest.RandomForestClassifier"
    assert json.loads(json.dumps(learner.signature()))["options"] == {"n_estimators": "4"}


def test_bad_input_is_refused():
    for path in ("RandomForest", "sklearn.nowhere.Forest", "sklearn.ensemble.Forest", "os.path"):
        with pytest.raises(InputError, match=f"no class is called '{path}'"):
            Scikit(path)
    with pytest.raises(InputError, match="has no predict_proba"):
        Scikit("sklearn.svm.LinearSVC")
    with pytest.raises(InputError, match=r"does not take these options.*trees"):
        Scikit(FOREST, trees=3)
    with pytest.raises(InputError, match="no scikit-learn classifier"):
        Scikit("builtins.dict")
    with pytest.raises(InputError, match=r"no predict_proba"):
        Scikit(BaseEstimator)
    x, y = clusters()
    x[3, 1] = np.nan
    with pytest.raises(InputError, match="refuses the labeled rows: Input X contains NaN"):
        Scikit("sklearn.linear_model.LogisticRegression").fit(
            Rows(x), torch.arange(60), y, classes=3, seed=0
        )
    with pytest.raises(InputError, match="rows must be distinct"):
        Scikit(FOREST).fit(Rows(x), torch.tensor([1, 1]), y[:2], classes=3, seed=0)
