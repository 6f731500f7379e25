"""Networks of transformers, for images and for texts, by name or from a folder."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labelwise.errors import DataError, InputError
from labelwise.learners.backbones import Backbone, load_library, loading, seeded

FOLDER = "the path of a folder with its config.json and model.safetensors as its name"
"""What to give where there is no network."""

SIDE = 224
"""Pixels of a side where neither the network nor its image processor says one."""

CLASS_TOKENS = ("cls_token", "class_embedding")
"""What networks of images call the parameter that is their first token."""

NO_TOKEN = -1
"""Stands behind the last token of a text."""


class ImageNetwork(nn.Module):
    """An image network of transformers as (n, D) features.

    They are what the network pools itself; else its class token, or the mean over positions.

    Args:
        network: takes ``pixel_values``.
        projection: applied to the features, None where there is none.
    """

    def __init__(self, network: nn.Module, projection: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network
        self.projection = projection
        last = {name.rpartition(".")[2] for name, _ in network.named_parameters()}
        self._class_token = not last.isdisjoint(CLASS_TOKENS)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, height, width) to (n, D)."""
        made = self.network(pixel_values=images)
        pooled: Tensor | None = getattr(made, "pooler_output", None)
        if pooled is None:
            states: Tensor = made.last_hidden_state
            if states.ndim == 4:
                pooled = states.mean((2, 3))
            else:
                pooled = states[:, 0] if self._class_token else states.mean(1)
        pooled = pooled.flatten(1)
        return pooled if self.projection is None else self.projection(pooled)


class TextNetwork(nn.Module):
    """A text network of transformers on rows of tokens: the mean of its last layer over them.

    Args:
        network: takes ``input_ids`` and ``attention_mask``.
        padding: the token that the network is given behind the end of a text, unseen.

    Attributes:
        vocabulary: how many tokens it knows.
    """

    def __init__(self, network: Any, padding: int) -> None:
        super().__init__()
        self.network = network
        self.padding = padding
        self.vocabulary = int(network.get_input_embeddings().num_embeddings)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, L) whole numbers, `NO_TOKEN` behind the end of each text, to (n, D)."""
        there = tokens != NO_TOKEN
        ids = torch.where(there, tokens, self.padding).long()
        states: Tensor = self.network(input_ids=ids, attention_mask=there.long()).last_hidden_state
        mask = there[:, :, None].to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1).clamp(min=1)


def open_transformers(
    model: str, *, weights: str | None = None, pretrained: bool = True, classes: int = 0
) -> Backbone:
    """An image network of transformers, or the image tower of one for images and texts.

    Pixels are standardized as its image processor says. Layers that were trained to pool the
    first token for another task are left out, as in timm.

    Args:
        model: a name on the hub, or the path of a folder.
        weights: must be None: they are in the folder.
        pretrained: False leaves the parameters as transformers makes them, of seed 0.
        classes: must be 0: networks are opened without their classifier.

    Raises:
        InputError: no network of images alone, or classes or a file of weights asked for.
        MissingDependencyError: transformers is not installed.
        DataError: the network or its image processor cannot be fetched or loaded.
    """
    if classes:
        raise InputError(f"transformers:{model} is opened without its classifier")
    if weights is not None:
        raise InputError(f"weights of transformers:{model} are in a folder: give {FOLDER}")
    network, config = _open(model, pretrained)
    tower: Any = getattr(network, "vision_model", network)
    if getattr(tower, "main_input_name", "") != "pixel_values":
        raise InputError(f"transformers:{model} ({config.model_type}) is no network of images")
    made = ImageNetwork(tower, getattr(network, "visual_projection", None)).eval()
    size, mean, spread = _standard(model, getattr(config, "vision_config", config))
    refused = f"transformers:{model} ({config.model_type}) makes no features of images alone"
    width = _width(made, torch.zeros(1, 3, *size), refused)
    return Backbone(made, width, size, mean, spread)


def open_texts(model: str, *, length: int, pretrained: bool = True) -> tuple[TextNetwork, int]:
    """A text network of transformers, and the width of its features.

    Args:
        model: a name on the hub, or the path of a folder.
        length: L, the most tokens it will be given.
        pretrained: False leaves the parameters as transformers makes them, of seed 0.

    Raises:
        InputError: no text network, or one that takes fewer tokens.
        MissingDependencyError: transformers is not installed.
        DataError: the network cannot be fetched or loaded.
    """
    network, config = _open(model, pretrained)
    if config.is_encoder_decoder:
        network = network.get_encoder()
    if hasattr(network, "vision_model") or network.main_input_name != "input_ids":
        raise InputError(f"transformers:{model} ({config.model_type}) is no network of texts")
    network.config.use_cache = False  # of keys and values, for those who write texts
    padding = getattr(config, "pad_token_id", None)
    made = TextNetwork(network, 0 if padding is None else int(padding)).eval()
    other = 1 if made.padding == 0 else 0
    most = getattr(config, "max_position_embeddings", "fewer")
    refused = f"transformers:{model} takes no texts of {length} tokens (its config says {most})"
    return made, _width(made, torch.full((1, length), other), refused)


def open_tokenizer(model: str) -> Any:
    """The tokenizer of a network of transformers.

    Raises:
        MissingDependencyError: transformers is not installed.
        DataError: it cannot be fetched or loaded, or knows no words.
    """
    library = load_library("transformers", "text")
    instead = f"{FOLDER}, and its tokenizer in it"
    with loading(f"transformers:{model}", instead, fetch=_is_name(model)):
        found = library.AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        # Without a tokenizer's files the library makes an empty one of the network's kind.
        if set(found.get_vocab()) <= set(found.all_special_tokens):
            raise ValueError("there are no files of a tokenizer")
    return found


def tokenize(tokenizer: Any, texts: Sequence[str], length: int) -> NDArray[np.int32]:
    """(n, L) tokens of some texts, `NO_TOKEN` behind the end of each; L is the longest's.

    A text without any token gets one that ends a text, or whatever the tokenizer has like it:
    there is nothing to take a mean of otherwise.

    Args:
        tokenizer: from `open_tokenizer`. texts: n of them. length: longer ones are cut.
    """
    blanks = (tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id, 0)
    blank = next(each for each in blanks if each is not None)
    given = tokenizer(
        list(texts), truncation=True, max_length=length, return_attention_mask=False
    ).input_ids
    found = np.full((len(given), max(map(len, given), default=0) or 1), NO_TOKEN, np.int32)
    for row, tokens in zip(found, given):
        row[: len(tokens) or 1] = tokens or [blank]
    return found


def most_tokens(tokenizer: Any, length: int) -> int:
    """The length that texts are cut to: no longer than the tokenizer's network takes."""
    return min(length, int(tokenizer.model_max_length))


def folder_stamp(model: str) -> str | None:
    """What identifies a folder's network in a signature: a hash of its files; None for a name.

    Raises:
        DataError: a file that cannot be read.
    """
    folder = Path(model)
    if not folder.is_dir():
        return None
    digest = hashlib.blake2b(digest_size=16)
    try:
        for path in sorted(folder.iterdir()):
            if path.suffix in (".json", ".safetensors", ".txt", ".model") and path.is_file():
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "blake2b").hexdigest()
                digest.update(f"{path.name} {content}\n".encode())
    except OSError as error:
        raise DataError(f"the network in {model!r} cannot be read: {error}") from error
    return digest.hexdigest()


def _open(model: str, pretrained: bool) -> tuple[Any, Any]:
    """A network in float32 without its dense pooler, and its configuration."""
    library = load_library("transformers", "text")
    options = {"dtype": torch.float32, "trust_remote_code": False}
    fetch = _is_name(model)
    with loading(f"transformers:{model}", FOLDER, fetch=fetch), seeded(), _quiet(library, fetch):
        config = library.AutoConfig.from_pretrained(model, trust_remote_code=False)
        if not pretrained:
            network = library.AutoModel.from_config(config, **options)
            return _without_pooler(network), config
        network, told = library.AutoModel.from_pretrained(
            model, config=config, use_safetensors=True, output_loading_info=True, **options
        )
        network = _without_pooler(network)
        missing = sorted(set(told["missing_keys"]) & set(network.state_dict()))
        if missing:
            raise ValueError(
                f"the weights are of another network than its config.json ({config.model_type}): "
                f"they have no {missing[0]!r}, {len(missing)} tensors are missing"
            )
    return network, config


def _without_pooler(network: Any) -> Any:
    """A network without the dense layer on its first token, which many checkpoints lack."""
    pooler = getattr(network, "pooler", None)
    if isinstance(pooler, nn.Module) and any(isinstance(m, nn.Linear) for m in pooler.modules()):
        network.pooler = None
    return network


def _standard(
    model: str, config: Any
) -> tuple[tuple[int, int], tuple[float, ...], tuple[float, ...]]:
    """Size of the images, and mean and spread of their channels for pixels in [0, 1]."""
    library = load_library("transformers", "text")
    instead = "a folder that has its preprocessor_config.json too"
    fetch = _is_name(model)
    with loading(f"transformers:{model}", instead, fetch=fetch), _quiet(library, fetch):
        said = library.AutoImageProcessor.from_pretrained(model, trust_remote_code=False)
    size = getattr(config, "image_size", None)
    if size is None:
        named = getattr(said, "crop_size", None) or said.size or {}
        edge = named.get("shortest_edge", SIDE)
        size = (named.get("height", edge), named.get("width", edge))
    height, width = (size, size) if isinstance(size, int) else size
    # The processor standardizes levels in 0..255 times its factor; ours are 255 times smaller.
    unit = 255 * said.rescale_factor if said.do_rescale else 255.0
    mean, spread = (said.image_mean, said.image_std) if said.do_normalize else ([0.0], [1.0])
    mean, spread = (list(each) * (3 // len(each)) for each in (mean, spread))
    return (
        (int(height), int(width)),
        tuple(each / unit for each in mean),
        tuple(each / unit for each in spread),
    )


def _width(network: nn.Module, given: Tensor, refused: str) -> int:
    """The width of a network's features, from a look at one row.

    Raises:
        InputError: it makes none of that row.
    """
    try:
        with torch.no_grad():
            return int(network(given).shape[1])
    except (IndexError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{refused}: {reason}") from error


def _is_name(model: str) -> bool:
    """Whether a network is on the hub, and not in a folder.

    Raises:
        DataError: the path of a folder that is not there.
    """
    if Path(model).is_dir():
        return False
    if model.startswith(("/", ".", "~")):
        raise DataError(f"there is no folder {model!r}; give {FOLDER}")
    return True


@contextlib.contextmanager
def _quiet(library: Any, fetch: bool) -> Iterator[None]:
    """Inside, transformers says nothing of weights that are left out on purpose.

    It draws no bars either while it reads a folder, which every fit does; a download has one.
    """
    told = library.utils.logging
    level, bars = told.get_verbosity(), told.is_progress_bar_enabled()
    told.set_verbosity_error()
    if not fetch:
        told.disable_progress_bar()
    try:
        yield
    finally:
        told.set_verbosity(level)
        if bars:
            told.enable_progress_bar()
