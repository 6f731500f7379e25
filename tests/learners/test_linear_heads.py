"""What every head on frozen features promises: ridge, logistic and the better of the two."""

import numpy as np
import pytest
import torch

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import Learner, Model, make_learner

HEADS = ["ridge", "logistic", "auto"]


@pytest.fixture(params=HEADS)
def learner(request):
    return make_learner(request.param)


def clusters(n=60, d=10, c=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % c
    x = rng.standard_normal((n, d)) + 3 * rng.standard_normal((c, d))[y]
    return x.astype(np.float32), torch.from_numpy(y)


@pytest.mark.parametrize("d", [4, 200])
def test_it_learns_what_there_is_to_learn(learner, d):
    x, y = clusters(d=d)
    model = learner.fit(Rows(x), torch.arange(0, 60, 2), y[::2], classes=3, seed=0)
    outputs = model.predict(Rows(x))
    assert (outputs.probs.argmax(1) == y).float().mean() > 0.9
    assert isinstance(learner, Learner)
    assert isinstance(model, Model)


@pytest.mark.parametrize("d", [4, 200])
def test_logits_are_the_head_applied_to_the_inputs(learner, d):
    x, y = clusters(d=d)
    inputs = Rows(x * 100 + 50)
    model = learner.fit(inputs, torch.arange(30), y[:30], classes=3, seed=0)
    outputs = model.predict(inputs)
    assert outputs.embeddings is inputs
    assert model.head_weight.shape == (3, d)
    by_hand = inputs.tensor().double() @ model.head_weight.double().T + model.head_bias.double()
    torch.testing.assert_close(outputs.logits.double(), by_hand, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(outputs.probs, outputs.logits.softmax(1))
    some = model.predict(inputs, torch.tensor([5, 2, 5]))
    torch.testing.assert_close(some.logits, outputs.logits[[5, 2, 5]], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(some.embeddings, inputs.take(torch.tensor([5, 2, 5])))


def test_classes_without_labeled_rows_keep_a_small_probability(learner):
    x, y = clusters(c=3)
    model = learner.fit(Rows(x), torch.arange(60), y * 2, classes=6, seed=0)
    probs = model.predict(Rows(x)).probs
    assert probs.shape == (60, 6)
    absent = probs[:, [1, 3, 5]]
    assert (absent > 0).all()
    assert absent.max() <= 1 / (60 + 6) / 3 + 1e-6
    shift = model.head_weight.sum(0)  # adding one number to all logits says nothing
    torch.testing.assert_close(shift, torch.zeros(10), atol=1e-4, rtol=0)
    assert (probs.argmax(1) == y * 2).float().mean() > 0.9


def test_a_single_class_is_predicted_everywhere(learner):
    x, _ = clusters()
    ones = torch.ones(5, dtype=torch.int64)
    model = learner.fit(Rows(x), torch.arange(5), ones, classes=3, seed=0)
    probs = model.predict(Rows(x)).probs
    torch.testing.assert_close(probs[:, 1], torch.full((60,), 1 / (1 + 2 / 8)))
    torch.testing.assert_close(probs.sum(1), torch.ones(60))


@pytest.mark.parametrize(
    ("rows", "labels"),
    [([3], [2]), ([3, 4], [0, 1]), ([0, 1, 2], [0, 1, 2]), ([0, 1, 2, 3], [0, 1, 2, 0])],
)
def test_a_few_labeled_rows_are_enough(learner, rows, labels):
    x, _ = clusters()
    model = learner.fit(Rows(x), torch.tensor(rows), torch.tensor(labels), classes=3, seed=0)
    outputs = model.predict(Rows(x))
    assert outputs.logits.isfinite().all()
    assert outputs.probs[rows].argmax(1).tolist() == labels


def test_constant_features_and_copies_are_legal(learner):
    x, y = clusters()
    x[:, 3] = 7.0
    x[10:30] = x[10]
    outputs = learner.fit(Rows(x), torch.arange(60), y, classes=3, seed=0).predict(Rows(x))
    assert outputs.logits.isfinite().all()
    same = Rows(np.full((20, 4), 3.0, np.float32))
    model = learner.fit(same, torch.arange(20), y[:20], classes=3, seed=0)
    probs = model.predict(same).probs
    torch.testing.assert_close(probs, torch.full((20, 3), 1 / 3), atol=0.06, rtol=0)


def test_precision_and_place_of_the_inputs_change_nothing(learner, tmp_path):
    x, y = clusters()
    half = x.astype(np.float16)
    np.save(tmp_path / "x.npy", half)
    rows = torch.arange(40)
    expected = learner.fit(Rows(half), rows, y[:40], classes=3, seed=0).predict(Rows(half))
    for inputs in (
        Rows(half.astype(np.float64)),
        Rows(torch.from_numpy(half)),
        Rows(tmp_path / "x.npy"),
        Rows(np.load(tmp_path / "x.npy", mmap_mode="r")),
    ):
        got = learner.fit(inputs, rows, y[:40], classes=3, seed=0).predict(inputs)
        torch.testing.assert_close(got.probs, expected.probs, atol=1e-3, rtol=1e-2)


def test_float64_features_far_from_zero_keep_their_digits(learner):
    x, y = clusters()
    far = Rows(x.astype(np.float64) + 1e9)
    model = learner.fit(far, torch.arange(60), y, classes=3, seed=0)
    near = learner.fit(Rows(x), torch.arange(60), y, classes=3, seed=0)
    torch.testing.assert_close(model.head_weight, near.head_weight, atol=5e-3, rtol=1e-2)


def test_the_same_seed_gives_the_same_model_and_nothing_else_is_touched(learner):
    x, y = clusters()
    before, state = x.copy(), torch.get_rng_state()
    first = learner.fit(Rows(x), torch.arange(60), y, classes=3, seed=1)
    again = learner.fit(Rows(x), torch.arange(60), y, classes=3, seed=1)
    assert torch.equal(first.head_weight, again.head_weight)
    assert torch.equal(first.head_bias, again.head_bias)
    assert (x == before).all()
    assert torch.equal(state, torch.get_rng_state())


def test_blocks_of_any_size_predict_alike(learner, monkeypatch):
    x, y = clusters()
    model = learner.fit(Rows(x), torch.arange(60), y, classes=3, seed=1)
    whole = model.predict(Rows(x)).logits
    monkeypatch.setattr(Rows, "block_size", lambda self: 7)
    torch.testing.assert_close(model.predict(Rows(x)).logits, whole, atol=1e-5, rtol=1e-5)
    assert len(model.predict(Rows(x), torch.empty(0, dtype=torch.int64)).probs) == 0


def test_bad_input_is_refused(learner):
    x, y = clusters()
    rows = torch.arange(60)
    with pytest.raises(InputError, match="labels must be in"):
        learner.fit(Rows(x), rows, y + 1, classes=3, seed=0)
    with pytest.raises(InputError, match=r"features of shape \(N, D\), got \(60, 2, 5\)"):
        learner.fit(Rows(x.reshape(60, 2, 5)), rows, y, classes=3, seed=0)
    model = learner.fit(Rows(x), rows, y, classes=3, seed=0)
    with pytest.raises(InputError, match=r"inputs must have shape \(N, 10\), got \(60, 9\)"):
        model.predict(Rows(x[:, :9]))
    for bad in (np.nan, np.inf):
        x[17, 4] = bad
        with pytest.raises(InputError, match=r"row 17 holds (nan|inf) in column 4"):
            learner.fit(Rows(x), rows.flip(0), y, classes=3, seed=0)
    learner.fit(Rows(x), torch.arange(16), y[:16], classes=3, seed=0)


def test_signatures_name_what_decides_a_fit():
    assert {make_learner(name).signature()["name"] for name in HEADS} == set(HEADS)
    for name in ("ridge", "logistic"):
        assert make_learner(name).signature() != make_learner(name, penalty=0.5).signature()
