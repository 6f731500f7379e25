"""Pretrained networks as learners. A stand-in for timm makes tiny networks from tiny files.

The networks, weights files, LoRA and training are real; only ``timm`` itself is stood in for, as
far as it is called. The last tests run with the real libraries, where they are installed.
"""

import contextlib
import copy
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from labelwise.errors import DataError, InputError, MissingDependencyError
from labelwise.kernels import Rows
from labelwise.learners import load_model, make_learner, model_evidence, save_model
from labelwise.learners.average import Average
from labelwise.learners.finetune import Finetune
from labelwise.learners.lora import LowRank, add_lora, merge_lora
from labelwise.learners.source import distinctiveness, source_layers

QUICK = {"epochs": 2, "min_steps": 4, "minibatch": 8, "size": 8, "pad": 1}


class Tiny(nn.Module):
    """A convolution with batch normalization, an MLP with dropout, a classifier."""

    num_features = 6

    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.qkv = nn.Linear(4, 5)
        self.drop = nn.Dropout(0.5)
        self.fc1 = nn.Linear(5, 6)
        self.fc = nn.Linear(6, num_classes) if num_classes else nn.Identity()

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x))).mean((2, 3))
        return self.fc(self.fc1(self.drop(torch.tanh(self.qkv(x)))))


class Plain(nn.Sequential):
    num_features = 4

    def __init__(self, num_classes):
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def timm(monkeypatch, tmp_path):
    """Stands for timm; gives the path of a checkpoint of Tiny with 7 source classes."""
    networks = {"tiny": Tiny, "plain": Plain}

    def create_model(name, pretrained, num_classes):
        if pretrained:
            raise OSError("no network here")
        torch.rand(1)
        return networks[name](num_classes)

    config = {"input_size": (3, 8, 8), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    fake = types.SimpleNamespace(
        is_model=networks.__contains__,
        list_models=lambda: list(networks),
        create_model=create_model,
        data=types.SimpleNamespace(resolve_model_data_config=lambda network: config),
    )
    monkeypatch.setitem(sys.modules, "timm", fake)
    monkeypatch.setattr("labelwise.learners.backbones._fetching", contextlib.nullcontext)
    path = tmp_path / "tiny.safetensors"
    torch.manual_seed(3)
    network = Tiny(7)
    network.bn1.running_mean.normal_()
    save_file(network.state_dict(), path)
    return str(path)


def images(count=24, side=8):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 120, (count, side, side, 3), generator=generator)
    labels = torch.arange(count) % 2
    return Rows((pixels + 100 * labels[:, None, None, None]).to(torch.uint8)), labels


def fit(weights, **options):
    inputs, labels = images()
    rows = torch.arange(17)  # two minibatches of 6 and one of 5
    learner = make_learner("finetune:timm:tiny", weights=weights, **QUICK | options)
    return learner.fit(inputs, rows, labels[rows], classes=2, seed=0)


def pretrained(weights):
    from safetensors.torch import load_file

    return load_file(weights)


def moved(model, weights):
    """Which of the pretrained tensors the fit has changed."""
    before = pretrained(weights)
    now = {
        name.replace("parametrizations.weight.original", "weight"): value
        for name, value in model.network.backbone.state_dict().items()
    }
    return {name for name in before.keys() & now.keys() if not torch.equal(before[name], now[name])}


def test_full_tuning_moves_everything_and_head_tuning_nothing(timm):
    names = {name for name in pretrained(timm) if not name.startswith("fc.")}
    assert moved(fit(timm), timm) == names
    assert moved(fit(timm, tune="head"), timm) == set()
    assert moved(fit(timm, tune="lora"), timm) == set()
    later = {"qkv.weight", "qkv.bias", "fc1.weight", "fc1.bias"}
    assert moved(fit(timm, frozen=("conv1", "bn1")), timm) == later


@pytest.mark.parametrize("tune", ["head", "lora"])
def test_a_lone_row_in_a_minibatch_leaves_frozen_statistics_alone(timm, tune):
    assert moved(fit(timm, tune=tune, minibatch=1), timm) == set()
    assert moved(fit(timm, tune=tune, minibatch=16, average=0.9), timm) == set()


def test_lora_learns_and_merges_to_w_plus_ba(timm):
    model = fit(timm, tune="lora", rank=2, alpha=6.0, min_steps=40, learning_rate=0.05)
    inputs, labels = images()
    out = model.predict(inputs)
    assert (out.probs.argmax(1) == labels).float().mean() > 0.9
    before = pretrained(timm)
    changes = {
        name: model.network.backbone.get_submodule(name).parametrizations.weight[0]
        for name in ("qkv", "fc1")
    }
    wanted = {
        name: before[f"{name}.weight"] + 6.0 / 2 * each.b.detach() @ each.a.detach()
        for name, each in changes.items()
    }
    assert all(each.b.abs().max() > 0.01 for each in changes.values())
    merged = merge_lora(copy.deepcopy(model.network))
    for name, weight in wanted.items():
        layer = merged.backbone.get_submodule(name)
        assert type(layer) is nn.Linear
        torch.testing.assert_close(layer.weight.detach(), weight)
    with torch.no_grad():
        torch.testing.assert_close(merged(inputs.tensor()), out.logits)
    assert not any(isinstance(each, LowRank) for each in merged.modules())


def test_lora_begins_as_the_network_was_and_trains_only_its_matrices():
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    plain, x = copy.deepcopy(network), torch.randn(6, 4, generator=generator)
    names = add_lora(network, rank=2, alpha=2.0, generator=generator)
    assert names == ["0", "2"]
    assert torch.equal(network(x), plain(x))
    trained = {name for name, each in network.named_parameters() if each.requires_grad}
    assert trained == {f"{at}.parametrizations.weight.0.{side}" for at in "02" for side in "ab"}
    bounds = [network[at].parametrizations.weight[0].a.abs().max() for at in (0, 2)]
    assert 0.3 < bounds[0] <= 0.5
    assert 0.3 < bounds[1] <= 5**-0.5


def test_lora_reaches_attention_that_reads_its_projections_weights():
    generator = torch.Generator().manual_seed(0)
    attention = nn.MultiheadAttention(4, 2, batch_first=True).eval()
    x = torch.randn(2, 3, 4, generator=generator)
    before = attention(x, x, x)[0]
    names = add_lora(attention, rank=1, alpha=1.0, generator=generator)
    assert names == ["in_proj_weight", "out_proj"]
    attention.out_proj.parametrizations.weight[0].b.data.fill_(1.0)
    assert (attention(x, x, x)[0] - before).abs().max() > 0.01


def test_targets_choose_layers_and_unknown_ones_are_told(timm):
    model = fit(timm, tune="lora", targets=("qkv",))
    assert hasattr(model.network.backbone.qkv, "parametrizations")
    assert not hasattr(model.network.backbone.fc1, "parametrizations")
    with pytest.raises(InputError, match=r"whose name ends in q_proj.*it has qkv, fc1"):
        fit(timm, tune="lora", targets=("q_proj",))
    with pytest.raises(InputError, match="train it with tune='full'"):
        Finetune("timm:plain", tune="lora")._make((8, 8, 3), 2, 0, pretrained=False)


def test_the_first_prediction_is_the_pretrained_networks(timm):
    inputs, _ = images(side=12)
    learner = make_learner("finetune:timm:tiny", weights=timm, **QUICK)
    model = learner.wrap(learner.build(inputs, 2, 0), inputs.shape[1:], 2)
    network = Tiny(0).eval()
    network.load_state_dict({k: v for k, v in pretrained(timm).items() if k[:3] != "fc."})
    pixels = inputs.tensor().permute(0, 3, 1, 2).float() / 255
    pixels = nn.functional.interpolate(pixels, (8, 8), mode="bilinear", antialias=True)
    mean = torch.tensor([0.5, 0.4, 0.3]).reshape(3, 1, 1)
    spread = torch.tensor([0.2, 0.3, 0.4]).reshape(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(
            model.predict(inputs).embeddings, network((pixels - mean) / spread)
        )
    first = Rows(inputs.tensor().permute(0, 3, 1, 2).float() / 255)
    other = learner.wrap(learner.build(first, 2, 0), first.shape[1:], 2)
    torch.testing.assert_close(other.predict(first).logits, model.predict(inputs).logits)


def test_a_fit_is_of_its_seed_and_leaves_the_global_generator(timm):
    state = torch.get_rng_state()
    first, second = fit(timm, tune="lora"), fit(timm, tune="lora")
    assert torch.equal(torch.get_rng_state(), state)
    inputs, _ = images()
    assert torch.equal(first.predict(inputs).logits, second.predict(inputs).logits)
    assert first.draws(inputs, samples=2, seed=0).shape == (2, 24, 2)


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_a_tuned_network_is_saved_and_loaded(timm, tune, tmp_path):
    model = fit(timm, tune=tune)
    save_model(model, tmp_path / "model")
    learner = make_learner("finetune:timm:tiny", weights=timm, tune=tune, **QUICK)
    again = load_model(tmp_path / "model", learner=learner)
    inputs, _ = images()
    assert torch.equal(again.predict(inputs).logits, model.predict(inputs).logits)


def test_averages_copy_changed_layers():
    network = nn.Sequential(nn.Linear(2, 2))
    add_lora(network, rank=1, alpha=1.0, generator=torch.Generator().manual_seed(0))
    average = Average(network, 0.0)
    network[0].parametrizations.weight[0].b.data.fill_(1.0)
    average.update(network)
    assert torch.equal(average.module[0].weight, network[0].weight)


def test_distinctiveness_is_evidence_and_computed_once(timm, tmp_path, monkeypatch):
    inputs, labels = images()
    generator = torch.Generator().manual_seed(5)
    centers = torch.randint(0, 255, (7, 8, 8, 3), generator=generator).to(torch.uint8)
    np.save(tmp_path / "centers.npy", centers.numpy())
    learner = make_learner(
        "finetune:timm:tiny",
        weights=timm,
        source_centers=str(tmp_path / "centers.npy"),
        source_layers=("bn1", "fc1"),
        **QUICK,
    )
    rows = torch.arange(8)
    models = [learner.fit(inputs, rows, labels[rows], classes=2, seed=s) for s in (0, 1)]

    network = Tiny(7)
    network.load_state_dict(pretrained(timm))
    mean = torch.tensor([0.5, 0.4, 0.3]).reshape(3, 1, 1)
    spread = torch.tensor([0.2, 0.3, 0.4]).reshape(3, 1, 1)
    expected = distinctiveness(
        *(
            source_layers(
                network,
                Rows((each.permute(0, 3, 1, 2).float() / 255 - mean) / spread),
                early="bn1",
                late="fc1",
            )
            for each in (inputs.tensor(), centers)
        )
    )
    found = [
        {each.__name__: each for each in model_evidence(model, inputs, seed=0)}["distinctiveness"]
        for model in models
    ]
    scores = found[0]()
    torch.testing.assert_close(scores, expected)
    assert scores.std() > 0.01
    assert found[1]() is scores
    assert copy.deepcopy(learner)._known is None
    plain = fit(timm)
    assert "distinctiveness" not in {e.__name__ for e in model_evidence(plain, inputs, seed=0)}


def test_what_cannot_be_is_one_line(timm, tmp_path):
    inputs, labels = images()
    rows = torch.arange(4)

    def run(name="finetune:timm:tiny", data=inputs, **options):
        learner = make_learner(name, **options)
        return learner.fit(data, rows, labels[rows], classes=2, seed=0)

    with pytest.raises(DataError, match=r"no network here.*give weights='<file>.safetensors'"):
        run()
    with pytest.raises(InputError, match="timm knows no model 'tinny'; did you mean tiny"):
        run("finetune:timm:tinny")
    with pytest.raises(InputError, match=r"'open_clip:<name>' or .*, got 'resnet18'"):
        run("finetune:resnet18")
    save_file({"conv1.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "part.safetensors")
    with pytest.raises(DataError, match=r"has no 'bn1.bias' \(\d+ tensors are missing\)"):
        run(weights=str(tmp_path / "part.safetensors"))
    with pytest.raises(InputError, match="images of 1 or 3 channels, got 4"):
        run(data=Rows(torch.zeros(24, 8, 8, 4)), weights=timm)
    with pytest.raises(InputError, match="inputs must be images"):
        run(data=Rows(torch.zeros(24, 8)), weights=timm)
    with pytest.raises(InputError, match="tune must be 'full', 'lora' or 'head'"):
        run(tune="all")
    with pytest.raises(InputError, match="size must be at least 1, got 0"):
        Finetune("timm:tiny", size=0)
    with pytest.raises(InputError, match=r"frozen names 'layer1'.*conv1.weight"):
        run(weights=timm, frozen=("layer1",))
    with pytest.raises(InputError, match="frozen is for tune='full'"):
        run(tune="lora", frozen=("conv1",))
    with pytest.raises(InputError, match="source_centers and source_layers are given together"):
        run(source_layers=("a", "b"))
    with pytest.raises(InputError, match="no option is called 'tunes'"):
        run(tunes="lora")


def test_a_missing_library_is_one_line(monkeypatch):
    inputs, labels = images()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependencyError, match=r"timm is needed.*labelwise\[vision\]"):
        make_learner("finetune:timm:tiny").fit(
            inputs, torch.arange(4), labels[:4], classes=2, seed=0
        )
