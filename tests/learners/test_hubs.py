"""timm and open_clip themselves, small and with random weights: encoded by, and tuned."""

import importlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.learners import hub_networks as hub

from labelwise.errors import DataError, InputError
from labelwise.kernels import Rows
from labelwise.learners import make_encoder, make_learner
from labelwise.learners.backbones import file_stamp
from labelwise.learners.lora import add_lora
from labelwise.pools import ImagePool, PixelImages

QUICK = {"epochs": 2, "min_steps": 30, "minibatch": 8, "learning_rate": 3e-3, "size": 32}

SMALL_CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 16, "patch_size": 8, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}


def images(count=24, side=32):
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 120, (count, side, side, 3), generator=generator)
    labels = torch.arange(count) % 2
    return (levels + 100 * labels[:, None, None, None]).to(torch.uint8), labels


def standardized(pixels, mean, spread):
    mean, spread = (torch.tensor(each).reshape(3, 1, 1) for each in (mean, spread))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / spread


def encode(name, pixels, **options):
    pool = ImagePool(PixelImages(pixels.numpy()))
    encoder = make_encoder(name, **options).fit(pool, seed=0)
    found = encoder.encode(pool)
    assert found.shape == (len(pixels), *encoder.item_shape())
    return found


def fit(name, tune, **options):
    pixels, labels = images()
    learner = make_learner(f"finetune:{name}", tune=tune, **QUICK | options)
    model = learner.fit(Rows(pixels), torch.arange(16), labels[:16], classes=2, seed=0)
    if tune != "head":  # features of random weights need not tell
        assert (model.predict(Rows(pixels)).probs.argmax(1) == labels)[16:].float().mean() > 0.9
    return model


def moved(network, before):
    """Which tensors differ from those of another network."""
    now = {
        name.replace("parametrizations.", "").removesuffix(".original"): value
        for name, value in network.state_dict().items()
    }
    return {name for name, old in before.state_dict().items() if not torch.equal(old, now[name])}


# --- timm ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files of weights of timm's own test networks, and the networks without a classifier."""
    folder = tmp_path_factory.mktemp("timm")
    found = {}
    for name in ("test_vit", "test_resnet"):
        path = folder / f"{name}.safetensors"
        found[name] = (str(path), hub.save_timm(path, name))
    return found


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_timm_encodes_by_a_file_of_weights(weights, name):
    path, network = weights[name]
    config = network.pretrained_cfg
    pixels, _ = images(3, side=config["input_size"][1])
    with torch.no_grad():
        expected = network(standardized(pixels, config["mean"], config["std"]))
    found = encode(f"timm:{name}", pixels, weights=path)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("tune", ["full", "lora", "head"])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_timm_is_tuned(weights, name, tune):
    path, network = weights[name]
    options = {} if name == "test_resnet" else {"size": None}
    if (name, tune) == ("test_resnet", "lora"):
        with pytest.raises(InputError, match="train it with tune='full'"):
            fit(f"timm:{name}", tune, weights=path)
        return
    model = fit(f"timm:{name}", tune, weights=path, **options)
    changed = moved(model.network.backbone, network)
    assert changed == (set(network.state_dict()) if tune == "full" else set())


@pytest.mark.parametrize("kind", ["swin", "beit", "eva", "attention"])
def test_lora_reaches_every_projection(kind):
    """Also where attention reads its layers' weights itself, and calls no layer."""
    timm = hub.library("timm", "vision")
    options = {"img_size": 16, "embed_dim": 16, "num_classes": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "swin":
            made = timm.models.swin_transformer_v2.SwinTransformerV2(
                **options, patch_size=4, window_size=2, depths=(1, 1), num_heads=(2, 2)
            )
        elif kind == "attention":
            made = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        else:
            of_kind = {"beit": timm.models.beit.Beit, "eva": timm.models.eva.Eva}[kind]
            made = of_kind(**options, patch_size=8, depth=2, num_heads=2)
    for norm in made.modules():
        if isinstance(norm, torch.nn.LayerNorm):
            torch.nn.init.ones_(norm.weight)  # Swin v2 begins with blocks that do nothing
    generator = torch.Generator().manual_seed(0)
    names = add_lora(made, rank=2, alpha=2.0, generator=generator)
    expected = "self_attn.in_proj_weight" if kind == "attention" else "qkv"
    assert any(name.endswith(expected) for name in names)
    shape = (2, 4, 16) if kind == "attention" else (2, 3, 16, 16)
    given = torch.randn(shape, generator=generator)
    made(given).square().sum().backward()
    trained = {name: p for name, p in made.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(names)
    for name, parameter in trained.items():
        if name.endswith(".b"):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


# --- open_clip ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A file of weights of a small architecture of open_clip, and the network."""
    library = hub.library("open_clip", "clip")
    folder = tmp_path_factory.mktemp("clip")
    (folder / "small-clip.json").write_text(json.dumps(SMALL_CLIP))
    library.add_model_config(folder / "small-clip.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = library.create_model("small-clip", pretrained=None)
    path = folder / "clip.safetensors"
    save_file({name: each.contiguous() for name, each in network.state_dict().items()}, path)
    return str(path), network.eval(), library.constants


def test_open_clip_encodes_by_a_file_of_weights(clip):
    path, network, constants = clip
    pixels, _ = images(4, side=16)
    mean, spread = constants.OPENAI_DATASET_MEAN, constants.OPENAI_DATASET_STD
    with torch.no_grad():
        expected = network.encode_image(standardized(pixels, mean, spread))
    assert expected.shape == (4, 12)
    np.testing.assert_allclose(
        encode("open_clip:small-clip", pixels, weights=path), expected, atol=1e-5
    )


@pytest.mark.parametrize("tune", ["full", "lora", "head"])
def test_open_clip_is_tuned(clip, tune):
    path, network, _ = clip
    model = fit("open_clip:small-clip", tune, weights=path, size=None)
    changed = moved(model.network.backbone.tower, network.visual)
    assert changed == (set(network.visual.state_dict()) if tune == "full" else set())
    if tune == "lora":
        attention = model.network.backbone.tower.transformer.resblocks[0].attn
        assert attention.parametrizations.in_proj_weight[0].b.abs().max() > 1e-3
        assert attention.out_proj.parametrizations.weight[0].b.abs().max() > 1e-3


# --- what cannot be -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "extra", "reason"),
    [
        ("timm:test_vit.r160_in1k", "vision", "weights='<file>.safetensors'"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "clip", "weights='<file>.safetensors'"),
    ],
)
def test_a_network_that_is_not_here_is_one_line(name, extra, reason, monkeypatch, tmp_path):
    hub.library(name.partition(":")[0], extra)
    hub.go_offline(monkeypatch, tmp_path)
    with pytest.raises(DataError) as caught:
        encode(name, images(1)[0])
    said = str(caught.value)
    assert "\n" not in said
    assert name in said
    assert reason in said


def test_a_hub_out_of_reach_is_not_waited_for(monkeypatch, tmp_path):
    """The libraries would try again for most of a minute; what is kept is found all the same."""
    timm = hub.library("timm", "vision")
    constants = importlib.import_module("huggingface_hub").constants
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("labelwise.learners.backbones.getproxies", dict)
    seen = []
    made = timm.create_model
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda *a, **o: (seen.append(constants.HF_HUB_OFFLINE), made(*a, **o))[1],
    )
    with pytest.raises(DataError, match=r"not fetched before, and 127\.0\.0\.1:9 cannot"):
        encode("timm:test_vit.r160_in1k", images(1)[0])
    assert seen == [True]
    assert constants.HF_HUB_OFFLINE is False


def test_weights_of_another_network_are_one_line(weights, clip):
    for name, path in (
        ("timm:test_resnet", weights["test_vit"][0]),
        ("open_clip:small-clip", weights["test_vit"][0]),
        ("timm:test_vit2", weights["test_vit"][0]),
    ):
        with pytest.raises(DataError, match="cannot be loaded") as caught:
            encode(name, images(1)[0], weights=path)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_unknown_names_say_what_is_near(clip):
    with pytest.raises(InputError, match="timm knows no model 'tst_vit'; did you mean test_vit"):
        encode("timm:tst_vit", images(1)[0])
    with pytest.raises(InputError, match="knows no architecture 'small-clp'; did you mean"):
        encode("open_clip:small-clp", images(1)[0])
    with pytest.raises(InputError, match="must say which weights, as in 'RN50/"):
        encode("open_clip:RN50", images(1)[0])


def test_files_of_weights_are_known_by_their_content(weights):
    path = weights["test_vit"][0]
    learner = make_learner("finetune:timm:test_vit", weights=path)
    assert learner.signature()["weights"] == file_stamp(path)
