"""Small networks of the real libraries with random weights, as files and folders of weights."""

import importlib
import json
import os

import pytest
import torch
from safetensors.torch import save_file

from labelwise.errors import MissingDependencyError
from labelwise.learners.backbones import load_library

MEAN, SPREAD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", *(f"word{i}" for i in range(24))]


def library(name, extra):
    """A library, without which tests are skipped: but not in CI, which has all of them."""
    try:
        return load_library(name, extra)
    except MissingDependencyError:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{name} is not installed")


def go_offline(monkeypatch, folder):
    """Nothing is fetched from the hub of weights, and nothing is there from before."""
    constants = importlib.import_module("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))


def save_tokenizer(folder, **options):
    """A tokenizer of words; ``model_max_length`` is 24."""
    transformers = library("transformers", "text")
    tokenizers = importlib.import_module("tokenizers")
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if options.pop("special", True):
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        options |= {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", model_max_length=24, **options
    ).save_pretrained(folder)


def save_bert(folder, *, dropout=0.1, **changes):
    """A BERT of two layers with its tokenizer; gives the network."""
    transformers = library("transformers", "text")
    options = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2}
    options |= {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 40}
    options |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.BertModel(transformers.BertConfig(**options | changes))
    network.save_pretrained(folder)
    save_tokenizer(folder)
    return network.eval()


def save_gpt2(folder):
    """A GPT-2 of one layer, whose tokenizer has no token to pad with; gives the network."""
    transformers = library("transformers", "text")
    options = {"vocab_size": len(WORDS), "n_embd": 16, "n_layer": 1, "n_head": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.GPT2Model(transformers.GPT2Config(**options, n_positions=40))
    network.save_pretrained(folder)
    save_tokenizer(folder, special=False)
    return network.eval()


def save_processor(folder, kind="ViTImageProcessor", **options):
    """What says how images are to be standardized, as transformers writes it."""
    size = {"height": 16, "width": 16}
    card = {"image_processor_type": kind, "image_mean": MEAN, "image_std": SPREAD, "size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(card | options))


def save_vit(folder):
    """A ViT of two layers for images of 16 pixels; gives the network."""
    transformers = library("transformers", "text")
    options = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    options |= {"intermediate_size": 32, "image_size": 16, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.ViTModel(transformers.ViTConfig(**options))
    network.save_pretrained(folder)
    save_processor(folder)
    return network.eval()


def save_clip(folder):
    """A CLIP with an image tower and a text tower of one layer each; gives the network."""
    transformers = library("transformers", "text")
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower |= {"intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.CLIPConfig(
            text_config={**tower, "vocab_size": len(WORDS), "max_position_embeddings": 24},
            vision_config={**tower, "image_size": 16, "patch_size": 8},
            projection_dim=12,
        )
        network = transformers.CLIPModel(config)
    network.save_pretrained(folder)
    save_tokenizer(folder)
    save_processor(folder, "CLIPImageProcessor", rescale_factor=1 / 510)
    return network.eval()


def save_resnet(folder):
    """A ResNet of two stages of transformers; gives the network."""
    transformers = library("transformers", "text")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.ResNetModel(config)
    network.save_pretrained(folder)
    save_processor(folder, "ConvNextImageProcessor", size={"shortest_edge": 20})
    return network.eval()


def save_video_network(folder):
    """A network of films, which takes pixels and makes nothing of a lone image."""
    transformers = library("transformers", "text")
    options = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    options |= {"intermediate_size": 32, "image_size": 16, "patch_size": 8, "num_frames": 2}
    config = transformers.VideoMAEConfig(**options)
    with torch.random.fork_rng():
        transformers.VideoMAEModel(config).save_pretrained(folder)
    save_processor(folder)


def save_timm(path, name, **options):
    """A network of timm as a file of weights; gives the network without its classifier."""
    timm = library("timm", "vision")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(name, pretrained=False, **options)
    save_file(network.state_dict(), path)
    network.reset_classifier(0)
    return network.eval()
