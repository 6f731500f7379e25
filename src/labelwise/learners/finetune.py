"""Pretrained networks of images or texts as learners: a linear probe, LoRA, or all weights."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from labelwise.errors import InputError
from labelwise.kernels import Rows, torch_stream
from labelwise.learners.adapted import Adapted, AdaptedImages, AdaptedTexts, shortened
from labelwise.learners.augment import CropFlip
from labelwise.learners.backbones import Backbone, file_stamp, open_open_clip, open_timm
from labelwise.learners.hub_transformers import folder_stamp, open_texts, open_transformers
from labelwise.learners.images import channels_first
from labelwise.learners.lora import add_lora
from labelwise.learners.network import NetworkLearner, NetworkModel, Objectives
from labelwise.learners.networks import adopt_dropout, initialize
from labelwise.learners.objectives import Looks, Objective
from labelwise.learners.recipe import Recipe, adapt, pick_device, require_whole
from labelwise.learners.source import distinctiveness, source_layers
from labelwise.learners.training import History

Tune = Literal["full", "lora", "head"]

RECIPES = {
    tune: Recipe(
        epochs=30,
        min_steps=300,
        minibatch=64,
        optimizer="adamw",
        learning_rate=rate,
        weight_decay=0.01,
        schedule="one_cycle",
        warmup=0.1,
    )
    for tune, rate in (("full", 1e-4), ("lora", 1e-3), ("head", 1e-3))
}
"""Usual ones of each kind of tuning; the rates were not searched for."""

OPTIONS = (
    *("tune", "weights", "size", "pad", "flip", "frozen", "rank", "alpha", "targets"),
    *("source_centers", "source_layers", "objectives"),
)


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Names as a tuple, also of one text with commas between."""
    return tuple(given.split(",") if isinstance(given, str) else given)


_FAMILIES: dict[str, Callable[..., Backbone]] = {
    "timm": open_timm,
    "open_clip": open_open_clip,
    "transformers": open_transformers,
}


def open_backbone(
    name: str, *, weights: str | None = None, pretrained: bool = True, classes: int = 0
) -> Backbone:
    """A pretrained image network as ``<family>:<name>``.

    Raises:
        InputError: another family, or what the family refuses.
    """
    family, _, model = name.partition(":")
    if family not in _FAMILIES or not model:
        known = " or ".join(f"'{each}:<name>'" for each in _FAMILIES)
        raise InputError(f"a pretrained network is written {known}, got {name!r}")
    return _FAMILIES[family](model, weights=weights, pretrained=pretrained, classes=classes)


class Finetune(NetworkLearner):
    """A pretrained network with a new linear head, trained on the labeled rows.

    Inputs are images, (N, H, W, channels) or (N, channels, H, W) with 1 or 3 channels: whole
    numbers 0..255, as ``pixels`` makes them, or fractions 0..1. Or, for a text network, they are
    (N, L) tokens, as ``tokens:<name>`` makes them of the same name.

    Args:
        backbone: ``timm:<name>``, ``open_clip:<architecture>/<weights>`` or
            ``transformers:<name or folder>``; by name, ``finetune:timm:<name>``.
        tune: ``"full"`` trains all weights, ``"lora"`` changes of low rank of the linear layers,
            ``"head"`` the new head alone. (For ``"head"`` it is much cheaper to encode the pool
            once and fit ``logistic``; here augmentation sees the images.)
        weights: a ``.safetensors`` file to use instead of fetching the weights; for transformers
            name the folder of the network instead.
        size: pixels that images are scaled to, a side; None takes the size that the network was
            trained on. Convolutions take any, transformers their own.
        pad, flip: training images are shifted by up to ``pad`` pixels and mirrored half of the
            time.
        frozen: beginnings of names of the backbone's parameters that are left as they are, such
            as ``("conv1", "layer1")``; for ``tune="full"``. Like other names here, also as one
            text with commas between.
        rank, alpha, targets: of LoRA, see `LowRank` and `add_lora`.
        source_centers: (K, ...) images shaped as the pool's, the most typical one of each class
            that the network was pretrained on (see `source_centers`), or a ``.npy`` file of them.
            With them the model gives the evidence ``distinctiveness``, computed once per pool.
        source_layers: names of an early and a late module of the network.
        objectives: summed; cross-entropy by default.
        recipe: fields of `Recipe` to change.

    Raises:
        InputError: an option out of range, a network without linear layers for LoRA, inputs
            that are neither images nor tokens of this network's.
        MissingDependencyError: the backbone's library is not installed.
        DataError: weights that cannot be fetched or loaded.

    Source:
        LoRA: Hu et al., ICLR 2022. Distinctiveness: Huang et al., KDD 2018, who freeze early
        layers.
    """

    def __init__(
        self,
        backbone: str,
        *,
        tune: Tune = "full",
        weights: str | None = None,
        size: int | None = None,
        pad: int = 4,
        flip: bool = True,
        frozen: str | Sequence[str] = (),
        rank: int = 8,
        alpha: float = 16.0,
        targets: str | Sequence[str] = (),
        source_centers: Any = None,
        source_layers: str | tuple[str, str] | None = None,
        objectives: Objectives = (),
        **recipe: Any,
    ) -> None:
        if tune not in RECIPES:
            raise InputError(f"tune must be 'full', 'lora' or 'head', got {tune!r}")
        super().__init__(adapt(RECIPES[tune], recipe, OPTIONS), objectives)
        require_whole("rank", rank, 1)
        require_whole("pad", pad, 0)
        if size is not None:
            require_whole("size", size, 1)
        if not alpha > 0:
            raise InputError(f"alpha must be positive, got {alpha}")
        if frozen and tune != "full":
            raise InputError(f"frozen is for tune='full'; tune={tune!r} freezes all that it must")
        if (source_centers is None) != (source_layers is None):
            raise InputError("source_centers and source_layers are given together, or neither")
        self.name = f"finetune:{backbone}"
        self.backbone = backbone
        self.family, _, self._model = backbone.partition(":")
        self.reads = {"image": "pixels"}
        if self.family == "transformers":
            self.reads["text"] = f"tokens:{self._model}"
        self.tune = tune
        self.weights = weights
        self.size = size
        self.pad, self.flip = pad, flip
        self.frozen, self.targets = _names(frozen), _names(targets)
        self.rank, self.alpha = rank, float(alpha)
        self.source_layers = None if source_layers is None else _names(source_layers)
        if self.source_layers is not None and len(self.source_layers) != 2:
            raise InputError(f"source_layers must be two names, got {source_layers!r}")
        self._centers: Rows | None = None
        if source_centers is not None:
            held = Rows(source_centers, "source_centers").tensor()
            self._centers = Rows(held, "source_centers")
        self._known: tuple[weakref.ref[Rows], Tensor] | None = None

    def signature(self) -> dict[str, Any]:
        """Everything that decides a fit besides data and seed; weights by their content."""
        own: dict[str, Any] = {
            "tune": self.tune,
            "weights": self._stamp(),
            "size": self.size,
            "pad": self.pad,
            "flip": self.flip,
        }
        if self.tune == "full":
            own["frozen"] = list(self.frozen)
        if self.tune == "lora":
            own |= {"rank": self.rank, "alpha": self.alpha, "targets": list(self.targets)}
        if self._centers is not None and self.source_layers is not None:
            content = self._centers.tensor().cpu().numpy().tobytes()
            stamp = hashlib.blake2b(content, digest_size=16).hexdigest()
            own |= {"source_centers": stamp, "source_layers": list(self.source_layers)}
        return super().signature() | own

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what was kept of the last pool."""
        return self.__dict__ | {"_known": None}

    def build(self, inputs: Rows, classes: int, seed: int) -> nn.Module:
        """The pretrained network with a new head.

        Raises:
            InputError: fractions or unknown tokens for a text network.
        """
        if self._takes_texts(inputs.shape[1:]) and inputs.dtype.is_floating_point:
            raise InputError(
                f"{self.name} takes images, or tokens as the 'tokens:{self._model}' encoder makes "
                f"them, got rows of {inputs.shape[1]} fractions"
            )
        network = self._make(inputs.shape[1:], classes, seed, pretrained=True)
        if isinstance(network, AdaptedTexts):
            self._check_tokens(inputs, network)
        return network

    def empty(self, item_shape: tuple[int, ...], classes: int, seed: int = 0) -> Adapted:
        """The network without its weights, to load others into."""
        return self._make(item_shape, classes, seed, pretrained=False)

    def looks(self, item_shape: tuple[int, ...]) -> Looks:
        """Shifts and flips of images; texts are only cut to the longest of a minibatch."""
        if self._takes_texts(item_shape):
            return Looks(shortened)
        if not self.pad and not self.flip:
            return Looks()
        return Looks(CropFlip(self.pad, self.flip, channels_first(item_shape)))

    def wrap(
        self,
        network: nn.Module,
        item_shape: tuple[int, ...],
        classes: int,
        history: History | None = None,
        objectives: Sequence[Objective] = (),
    ) -> NetworkModel:
        """A trained network as a model, which knows where to ask for distinctiveness."""
        return FinetunedModel(
            network,
            classes=classes,
            recipe=self.recipe,
            item_shape=item_shape,
            signature=self.signature(),
            history=history,
            objectives=objectives,
            distinctiveness=None if self._centers is None else self.distinctiveness,
        )

    def distinctiveness(self, inputs: Rows) -> Tensor:
        """(N,) how unusually the pretrained network transforms each row; see `source`.

        It does not depend on any fit: the last pool's is kept.

        Raises:
            InputError: no source centers, layers of other names, or images of another shape.
        """
        if self._centers is None or self.source_layers is None:
            raise InputError("distinctiveness needs source_centers and source_layers")
        if self._known is not None and self._known[0]() is inputs:
            return self._known[1]
        if self._centers.shape[1:] != inputs.shape[1:]:
            raise InputError(
                f"source_centers must be images of shape {inputs.shape[1:]}, as the pool's, got "
                f"{self._centers.shape[1:]}"
            )
        made = open_backbone(self.backbone, weights=self.weights, classes=len(self._centers))
        first = channels_first(inputs.shape[1:])
        network = AdaptedImages(made, 1, self._scaled(made), first)
        whole = _Source(network).to(pick_device(self.recipe.device))
        early, late = (f"network.backbone.{name}" for name in self.source_layers)
        seen = [
            source_layers(whole, rows, early=early, late=late) for rows in (inputs, self._centers)
        ]
        found = distinctiveness(*seen)
        self._known = (weakref.ref(inputs), found)
        return found

    def _make(
        self, item_shape: tuple[int, ...], classes: int, seed: int, *, pretrained: bool
    ) -> Adapted:
        if self._takes_texts(item_shape):
            network = self._of_texts(item_shape[0], classes, pretrained)
        else:
            network = self._of_images(item_shape, classes, pretrained)
        adopt_dropout(network)
        initialize(network.head, torch_stream(seed, "parameters"))
        if self.tune == "head":
            network.backbone.requires_grad_(False)
        elif self.tune == "lora":
            add_lora(
                network.backbone,
                rank=self.rank,
                alpha=self.alpha,
                generator=torch_stream(seed, "lora"),
                targets=self.targets,
            )
        else:
            self._freeze(network.backbone)
        return network

    def _stamp(self) -> str | None:
        """What identifies weights that are on disk; None for those of a hub."""
        if self.family == "transformers":
            return folder_stamp(self._model)
        return file_stamp(self.weights)

    def _takes_texts(self, item_shape: tuple[int, ...]) -> bool:
        return self.family == "transformers" and len(item_shape) == 1

    def _of_texts(self, length: int, classes: int, pretrained: bool) -> Adapted:
        for name in ("weights", "size", "source_layers"):
            if getattr(self, name) is not None:
                raise InputError(f"{name} is not for networks of texts, such as {self.backbone}")
        made, width = open_texts(self._model, length=length, pretrained=pretrained)
        return AdaptedTexts(made, width, classes, length)

    def _of_images(self, item_shape: tuple[int, ...], classes: int, pretrained: bool) -> Adapted:
        first = channels_first(item_shape)
        channels = item_shape[0] if first else item_shape[2]
        if channels == 4:
            raise InputError(f"{self.name} takes images of 1 or 3 channels, got 4")
        made = open_backbone(self.backbone, weights=self.weights, pretrained=pretrained)
        return AdaptedImages(made, classes, self._scaled(made), first)

    def _check_tokens(self, inputs: Rows, network: AdaptedTexts) -> None:
        """Refuse what is no token of the network: looking it up would fail in the midst."""
        largest = max(int(block.max()) for _, block in inputs.blocks())
        if largest >= network.vocabulary:
            raise InputError(
                f"inputs have the token {largest}, and {self.backbone} knows those below "
                f"{network.vocabulary}: encode the texts by 'tokens:{self._model}'"
            )

    def _freeze(self, backbone: nn.Module) -> None:
        names = [name for name, _ in backbone.named_parameters()]
        for beginning in self.frozen:
            if not any(name.startswith(beginning) for name in names):
                raise InputError(
                    f"frozen names {beginning!r}, and no parameter begins so: {names[0]}, ..."
                )
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(not name.startswith(self.frozen))

    def _scaled(self, made: Backbone) -> tuple[int, int]:
        return made.size if self.size is None else (self.size, self.size)


class _Source(nn.Module):
    """A pretrained network with its own classifier, on images as the pool has them."""

    def __init__(self, network: AdaptedImages) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) images to (n, K) logits of the source classes."""
        logits: Tensor = self.network.backbone(self.network.prepared(x))
        return logits


class FinetunedModel(NetworkModel):
    """A fine-tuned network; as `NetworkModel`, and with ``distinctiveness`` where it is known."""

    def __init__(
        self,
        network: nn.Module,
        *,
        distinctiveness: Callable[[Rows], Tensor] | None = None,
        **known: Any,
    ) -> None:
        super().__init__(network, **known)
        self._distinctiveness = distinctiveness

    def objective_evidence(self, inputs: Rows) -> list[Callable[[], object]]:
        """That of the objectives, and ``distinctiveness``."""
        found = super().objective_evidence(inputs)
        known = self._distinctiveness
        if known is None:
            return found

        def distinctiveness() -> Tensor:
            return known(inputs)

        return [*found, distinctiveness]
