"""Networks, their layers, posterior draws, and saving."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from labelwise.errors import DataError, InputError, ResourceError
from labelwise.kernels import Rows, torch_stream
from labelwise.learners import MLP, Network, ResNet18, load_model, save_model
from labelwise.learners.augment import CropFlip
from labelwise.learners.networks import (
    Dropout,
    SmallImageResNet,
    Standardize,
    adopt_dropout,
    build_empty,
    find_head,
    initialize,
)


def fitted(learner=None, *, count=40, width=5, classes=3):
    generator = torch.Generator().manual_seed(0)
    inputs = Rows(torch.randn(count, width, generator=generator))
    rows = torch.arange(0, count, 2)
    learner = learner or MLP(hidden=(8,), dropout=0.3, epochs=3, min_steps=0)
    return learner.fit(inputs, rows, rows % classes, classes=classes, seed=0), inputs


# --- layers -------------------------------------------------------------------------------------


def test_weights_come_from_the_generator_and_follow_their_law():
    def build(seed):
        return build_empty(
            lambda: nn.Sequential(nn.Linear(400, 300), nn.Conv2d(30, 40, 3)),
            torch.Generator().manual_seed(seed),
        )

    one, two, other = build(0), build(0), build(1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))
    assert not torch.equal(one[0].weight, other[0].weight)
    bound = 1 / math.sqrt(400)
    assert one[0].weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert one[0].weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert one[1].weight.std().item() == pytest.approx(math.sqrt(2 / (40 * 9)), rel=0.03)


def test_a_layer_without_a_rule_is_refused():
    with pytest.raises(InputError, match=r"layer '0' \(Embedding\) has no rule"):
        initialize(nn.Sequential(nn.Embedding(3, 2)), torch.Generator())


def test_a_dropout_that_stands_in_several_places_is_ours_in_all_of_them():
    drop = nn.Dropout(0.5)
    network = nn.Sequential(
        nn.Linear(5, 8), drop, nn.Linear(8, 4), drop, nn.Sequential(drop, nn.Linear(4, 3))
    )
    network.again = drop
    adopt_dropout(network)
    assert [type(each) for each in network.modules()].count(nn.Dropout) == 0
    assert network[1] is network[3] is network[4][0] is network.again
    model, inputs = fitted(Network(lambda shape, classes: network, name="shared", epochs=2))
    draws = model.draws(inputs, samples=3, seed=0)
    assert (draws[0] - draws[1]).abs().max() > 0.01
    assert torch.equal(draws, model.draws(inputs, samples=3, seed=0))


def test_dropout_keeps_the_mean_and_its_generator():
    layer = Dropout(0.25)
    layer.generator = torch.Generator().manual_seed(0)
    x = torch.ones(200, 200)
    y = layer(x)
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert y.mean().item() == pytest.approx(1.0, abs=0.01)
    assert torch.equal(layer.eval()(x), x)
    layer.train().generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert torch.equal(layer(x), y)


def test_foreign_dropout_is_adopted_at_any_depth():
    network = nn.Sequential(nn.Sequential(nn.Dropout(0.1)), nn.Dropout(0.2))
    adopted = adopt_dropout(network)
    assert [m.p for m in adopted.modules() if isinstance(m, Dropout)] == [0.1, 0.2]
    assert not any(isinstance(m, nn.Dropout) for m in adopted.modules())


@pytest.mark.parametrize("axes", [(0,), (0, 2, 3)])
def test_standardize_measures_mean_and_spread(axes):
    generator = torch.Generator().manual_seed(0)
    x = 100 + 3 * torch.randn(50, 3, 4, 4, generator=generator)
    layer = Standardize((3, 4, 4) if axes == (0,) else (3, 1, 1))
    layer.measure(Rows(x), axes)
    y = layer(x)
    torch.testing.assert_close(y.mean(axes), torch.zeros_like(y.mean(axes)), atol=1e-4, rtol=0)
    spread = y.std(axes, correction=0)
    torch.testing.assert_close(spread, torch.ones_like(spread), atol=1e-4, rtol=0)


def test_standardize_leaves_a_constant_at_zero():
    layer = Standardize((2,))
    layer.measure(Rows(torch.tensor([[7.1, 0.0], [7.1, 0.0], [7.1, 0.0]])), (0,))
    assert layer(torch.tensor([[7.1, 0.0], [8.1, 1.0]])).tolist() == [
        pytest.approx([0, 0], abs=1e-5),
        pytest.approx([1, 1], abs=1e-5),
    ]


def test_the_head_is_the_last_linear_layer():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    assert find_head(network, 4) is network[1]
    with pytest.raises(InputError, match="5 classes, got out_features=4"):
        find_head(network, 5)
    with pytest.raises(InputError, match=r"has no torch\.nn\.Linear"):
        find_head(nn.Sequential(nn.ReLU()), 4)


# --- models -------------------------------------------------------------------------------------


def test_logits_are_the_head_of_the_embeddings():
    model, inputs = fitted()
    out = model.predict(inputs)
    torch.testing.assert_close(out.embeddings @ model.head_weight.T + model.head_bias, out.logits)
    torch.testing.assert_close(out.probs, out.logits.softmax(1))


def test_rows_are_predicted_in_the_order_asked_for():
    model, inputs = fitted()
    rows = torch.tensor([7, 3, 30])
    some, every = model.predict(inputs, rows), model.predict(inputs)
    torch.testing.assert_close(some.logits, every.logits[rows])
    torch.testing.assert_close(some.embeddings, every.embeddings[rows])


def test_prediction_by_blocks_is_prediction_of_all(monkeypatch):
    model, inputs = fitted()
    whole, draws = model.predict(inputs), model.draws(inputs, samples=3, seed=1)
    monkeypatch.setattr("labelwise.learners.network.BLOCK_BYTES", 4 * 5 * 7)
    torch.testing.assert_close(model.predict(inputs).logits, whole.logits)
    torch.testing.assert_close(model.draws(inputs, samples=3, seed=1), draws)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8])
def test_inputs_of_any_dtype(dtype):
    values = (np.arange(60).reshape(20, 3) % 7).astype(dtype)
    rows = torch.arange(20)
    model = MLP(hidden=(4,), epochs=2).fit(Rows(values), rows, rows % 2, classes=2, seed=0)
    assert model.predict(Rows(values)).probs.dtype == torch.float32


def test_rows_of_any_rank_are_flattened():
    inputs, rows = Rows(torch.randn(10, 2, 3)), torch.arange(10)
    model = MLP(hidden=(4,), epochs=2).fit(inputs, rows, rows % 2, classes=2, seed=0)
    assert model.predict(inputs).embeddings.shape == (10, 4)


def test_a_class_without_a_label_keeps_its_column():
    model, inputs = fitted(classes=3)
    rows = torch.arange(4)
    few = MLP(hidden=(4,), epochs=2).fit(inputs, rows, rows * 0, classes=3, seed=0)
    assert few.predict(inputs).probs.shape == (40, 3)
    assert model.classes == few.classes == 3


def test_inputs_of_another_width_are_refused():
    model, _ = fitted()
    with pytest.raises(InputError, match=r"rows of shape \(5,\).*got \(4,\)"):
        model.predict(Rows(torch.zeros(2, 4)))


def test_a_user_network_must_call_its_head_on_vectors():
    class Odd(nn.Module):
        def __init__(self, shape, classes):
            super().__init__()
            self.head = nn.Linear(shape[0], classes)

        def forward(self, x):
            return self.head(x[:, None, :]).squeeze(1)

    with pytest.raises(InputError, match=r"one vector a row: got shape \(\d+, 1, 5\)"):
        fitted(Network(Odd, name="odd"))


# --- draws --------------------------------------------------------------------------------------


def test_a_draw_is_one_function_for_all_rows():
    model, inputs = fitted()
    twice = Rows(torch.cat([inputs.tensor(), inputs.tensor()]))
    draws = model.draws(twice, samples=4, seed=3)
    assert draws.shape == (4, 80, 3)
    torch.testing.assert_close(draws[:, :40], draws[:, 40:])
    torch.testing.assert_close(draws.sum(2), torch.ones(4, 80))


def test_draws_by_definition():
    """Masks drawn by hand, from the streams the docstring names."""
    model, inputs = fitted()
    draws = model.draws(inputs, samples=3, seed=9)
    net = model.network
    hidden = torch.relu(net.body[0](net.standardize(inputs.tensor())))
    for sample in range(3):
        mask = torch.empty(8).bernoulli_(0.7, generator=torch_stream(9, "draws", sample, 0)) / 0.7
        torch.testing.assert_close(draws[sample], net.head(hidden * mask).softmax(1).detach())


def test_draws_differ_by_sample_and_seed_and_leave_the_model_alone():
    model, inputs = fitted()
    before = model.predict(inputs).logits
    one, two = (model.draws(inputs, samples=2, seed=seed) for seed in (0, 1))
    assert not torch.allclose(one[0], one[1])
    assert not torch.allclose(one, two)
    longer = model.draws(inputs, samples=5, seed=0)
    torch.testing.assert_close(longer[:2], one)
    torch.testing.assert_close(model.predict(inputs).logits, before)


def test_draws_without_dropout_are_refused():
    model, inputs = fitted(MLP(hidden=(4,), epochs=1))
    with pytest.raises(
        InputError, match=r"draws needs a network with torch.nn.Dropout.*MLP\(dropout=0\.2\)"
    ):
        model.draws(inputs, samples=2, seed=0)


# --- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 8, 3), (3, 8, 8), (9, 7, 1)])
def test_resnet_takes_both_layouts(shape):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (12, *shape), generator=generator).to(torch.uint8)
    rows = torch.arange(12)
    learner = ResNet18(width=4, epochs=2, min_steps=0, minibatch=8)
    model = learner.fit(Rows(images), rows, rows % 3, classes=3, seed=0)
    out = model.predict(Rows(images))
    assert out.logits.shape == (12, 3)
    assert out.embeddings.shape == (12, 32)
    assert out.probs.isfinite().all()


def test_resnet_is_the_published_one():
    """11.17 million parameters with 10 classes, and a map of 4 x 4 before the mean."""
    with torch.device("meta"):
        network = SmallImageResNet(3, 10)
        features = network.stages(torch.empty(1, 64, 32, 32))
    assert sum(p.numel() for p in network.parameters()) == 11_173_962
    assert features.shape == (1, 512, 4, 4)


def test_a_layout_that_is_no_image_is_refused():
    with pytest.raises(InputError, match=r"got rows of shape \(5,\)"):
        fitted(ResNet18(width=4))


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("flip", [True, False])
def test_crops_and_flips_by_definition(channels_first, flip):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (6, 3, 5, 4), generator=generator).to(torch.uint8)
    given = images if channels_first else images.permute(0, 2, 3, 1)
    changed = CropFlip(2, flip, channels_first)(given, torch.Generator().manual_seed(1))
    changed = changed if channels_first else changed.permute(0, 3, 1, 2)
    again = torch.Generator().manual_seed(1)
    down, right = torch.randint(5, (2, 6), generator=again)
    mirror = torch.rand(6, generator=again) < 0.5
    for at in range(6):
        padded = np.pad(images[at].numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")
        cut = padded[:, down[at] : down[at] + 5, right[at] : right[at] + 4]
        if flip and mirror[at]:
            cut = cut[:, :, ::-1]
        np.testing.assert_array_equal(changed[at].numpy(), cut)


def test_crops_of_tiny_images_shrink_the_shift():
    images = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1)
    assert torch.equal(CropFlip(4, True, True)(images, torch.Generator()), images)


# --- saving -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "learner",
    [
        MLP(hidden=(8, 4), dropout=0.2, epochs=2),
        ResNet18(width=4, epochs=1, min_steps=0, learning_rate=0.01),
    ],
)
def test_a_saved_model_says_the_same(learner, tmp_path):
    inputs = Rows((torch.arange(10 * 5 * 5 * 3).reshape(10, 5, 5, 3) % 251).to(torch.uint8))
    rows = torch.arange(10)
    model = learner.fit(inputs, rows, rows % 2, classes=2, seed=0)
    save_model(model, tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "model.json",
        "model.safetensors",
    ]
    loaded = load_model(tmp_path / "model")
    torch.testing.assert_close(loaded.predict(inputs).logits, model.predict(inputs).logits)
    assert loaded.signature == model.signature
    assert loaded.recipe == model.recipe
    card = json.loads((tmp_path / "model" / "model.json").read_text())
    assert card["learner"]["recipe"]["epochs"] == learner.recipe.epochs


def test_a_network_of_the_users_needs_its_learner(tmp_path):
    def factory(shape, classes):
        return nn.Linear(shape[0], classes)

    learner = Network(factory, name="linear", epochs=1)
    model, inputs = fitted(learner)
    save_model(model, tmp_path)
    with pytest.raises(InputError, match=r"give load_model\(\.\.\., learner=\.\.\.\)"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="learner must be the one that made"):
        load_model(tmp_path, learner=Network(factory, name="other"))
    loaded = load_model(tmp_path, learner=learner)
    torch.testing.assert_close(loaded.predict(inputs).probs, model.predict(inputs).probs)


def test_what_is_no_saved_model_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no saved model"):
        load_model(tmp_path / "nothing")
    model, _ = fitted()
    save_model(model, tmp_path)
    card = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(card | {"format": 99}))
    with pytest.raises(DataError, match="format 99, and this version reads 1"):
        load_model(tmp_path)
    card["learner"]["hidden"] = [9]
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(DataError, match=r"weights in .* cannot be loaded"):
        load_model(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"):
        save_model(model, tmp_path / "file")
    with pytest.raises(InputError, match="must be a fitted network"):
        save_model(object(), tmp_path)
