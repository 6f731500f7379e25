"""Learners and encoders by name."""

import pytest

from labelwise.errors import InputError
from labelwise.learners import (
    MLP,
    Encoder,
    Learner,
    StreamingEncoder,
    default_encoder,
    default_learner,
    list_encoders,
    list_learners,
    make_encoder,
    make_learner,
)
from labelwise.pools import KINDS

FOREST = "sklearn:sklearn.ensemble.RandomForestClassifier"


@pytest.mark.parametrize("name", [*(n for n in list_learners() if ":" not in n), FOREST])
def test_every_learner_can_be_made_and_says_what_it_is(name):
    learner = make_learner(name)
    assert isinstance(learner, Learner)
    assert learner.signature() == make_learner(name).signature()
    assert list_learners()[name if ":" not in name else "sklearn:<...>"]


@pytest.mark.parametrize(
    "name", [*(n for n in list_encoders() if ":" not in n), "timm:resnet18", "transformers:tiny"]
)
def test_every_encoder_can_be_made_and_says_what_it_is(name):
    encoder = make_encoder(name)
    assert isinstance(encoder, Encoder)
    assert encoder.signature() == make_encoder(name).signature()
    if name in ("table", "tfidf", "pixels", "patches"):
        assert isinstance(encoder, StreamingEncoder)


def test_signatures_tell_apart():
    encoders = [make_encoder(n) for n in list_encoders() if ":" not in n]
    learners = [make_learner(n) for n in list_learners() if ":" not in n]
    for made in (encoders, learners):
        assert len({repr(each.signature()) for each in made}) == len(made)
    assert make_learner("mlp").signature() != make_learner("mlp", epochs=7).signature()
    assert make_learner("mlp", hidden=[8]).signature()["hidden"] == [8]
    assert make_learner("mlp", hidden=8).signature() == make_learner("mlp", hidden=(8,)).signature()


def test_an_option_that_is_none_names_the_learner_s_own():
    with pytest.raises(InputError, match=r"called .width.; known: .*clip, .*dropout, .*hidden"):
        make_learner("mlp", width=8)
    with pytest.raises(InputError, match=r"hidden must be widths of at least 1, got 'a'"):
        make_learner("mlp", hidden="a")
    with pytest.raises(InputError, match=r"hidden must be widths of at least 1, got 0"):
        make_learner("mlp", hidden=0)


def test_every_kind_of_pool_has_its_defaults():
    pairs = {kind: (default_encoder(kind), default_learner(kind)) for kind in KINDS}
    assert pairs == {
        "image": ("patches", "auto"),
        "table": ("table", "mlp"),
        "text": ("tfidf", "logistic"),
        "array": ("identity", "logistic"),
    }
    for encoder, learner in pairs.values():
        make_encoder(encoder)
        make_learner(learner)


def test_an_instance_is_taken_as_it_is():
    learner = MLP()
    assert make_learner(learner) is learner
    with pytest.raises(InputError, match="already made: epochs"):
        make_learner(learner, epochs=3)
    with pytest.raises(InputError, match="learner must be a name or have the methods"):
        make_learner(3)


@pytest.mark.parametrize(
    ("make", "name", "options", "message"),
    [
        (make_learner, "logistc", {}, "no learner is called 'logistc'; did you mean logistic"),
        (make_encoder, "patch", {}, "did you mean patches"),
        (make_encoder, "table", {"max_level": 3}, "has no option 'max_level'; did you mean max_l"),
        (make_learner, "mlp", {"epoch": 3}, "did you mean epochs"),
        (make_encoder, "timm:", {}, "must name one, as in 'timm:<...>'"),
        (make_encoder, "timm", {}, "must name one, as in 'timm:<...>'"),
        (make_learner, "table", {}, "no learner is called 'table'"),
        (default_encoder, "video", {}, "'video' is no kind of pool"),
    ],
)
def test_a_wrong_name_or_option_is_refused(make, name, options, message):
    with pytest.raises(InputError, match=message):
        make(name, **options)
