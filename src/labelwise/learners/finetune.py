"""Pretrained image networks as learners: a linear probe, LoRA, or all weights."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from labelwise.errors import InputError
from labelwise.kernels import Rows, torch_stream
from labelwise.learners.augment import CropFlip
from labelwise.learners.backbones import Backbone, file_stamp, open_backbone
from labelwise.learners.images import channels_first
from labelwise.learners.lora import add_lora
from labelwise.learners.network import NetworkLearner, NetworkModel, Objectives
from labelwise.learners.networks import adopt_dropout, initialize
from labelwise.learners.objectives import Looks, Objective
from labelwise.learners.recipe import Recipe, adapt, pick_device
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
    *("source_centers", "source_layers"),
)


class Adapted(nn.Module):
    """Images to what a backbone expects, the backbone, and a new linear head.

    Args:
        backbone: features of standardized images.
        classes: C.
        size: (height, width) that images are scaled to; None leaves them.
        channels_first: whether rows are (channels, H, W) and not (H, W, channels).
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        size: tuple[int, int] | None,
        channels_first: bool,
    ) -> None:
        super().__init__()
        self.size = size
        self.channels_first = channels_first
        self.register_buffer("mean", torch.tensor(backbone.mean).reshape(3, 1, 1))
        self.register_buffer("spread", torch.tensor(backbone.spread).reshape(3, 1, 1))
        self.backbone = backbone.network
        self.head = nn.utils.skip_init(nn.Linear, backbone.width, classes)

    def prepared(self, x: Tensor) -> Tensor:
        """(n, 3, height, width) standardized; whole numbers are 0..255, fractions 0..1."""
        x = x.float() if x.is_floating_point() else x.float() / 255
        if not self.channels_first:
            x = x.permute(0, 3, 1, 2)
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if self.size is not None and tuple(x.shape[2:]) != self.size:
            x = functional.interpolate(
                x, self.size, mode="bilinear", antialias=True, align_corners=False
            )
        return (x - self.mean) / self.spread

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) images to (n, C) logits."""
        return self.head(self.backbone(self.prepared(x)))

    def train(self, mode: bool = True) -> Adapted:
        """Training mode; what is frozen as a whole stays in evaluation mode.

        A frozen normalization that went on measuring its minibatches would not be frozen.
        """
        super().train(mode)
        if not any(p.requires_grad for p in self.backbone.parameters()):
            self.backbone.eval()
        for module in self.backbone.modules():
            own = list(module.parameters(recurse=False))
            frozen = bool(own) and not any(p.requires_grad for p in own)
            if isinstance(module, _BatchNorm) and frozen:
                module.eval()
        return self


class Finetune(NetworkLearner):
    """A pretrained image network with a new linear head, trained on the labeled rows.

    Inputs are images, (N, H, W, channels) or (N, channels, H, W) with 1 or 3 channels: whole
    numbers 0..255, as ``pixels`` makes them, or fractions 0..1.

    Args:
        backbone: ``timm:<name>`` or ``open_clip:<architecture>/<weights>``; by name,
            ``finetune:timm:<name>``.
        tune: ``"full"`` trains all weights, ``"lora"`` changes of low rank of the linear layers,
            ``"head"`` the new head alone. (For ``"head"`` it is much cheaper to encode the pool
            once and fit ``logistic``; here augmentation sees the images.)
        weights: a ``.safetensors`` file to use instead of fetching the weights.
        size: pixels that images are scaled to, a side; None takes the size that the network was
            trained on. Convolutions take any, transformers their own.
        pad, flip: training images are shifted by up to ``pad`` pixels and mirrored half of the
            time.
        frozen: beginnings of names of the backbone's parameters that are left as they are, such
            as ``("conv1", "layer1")``; for ``tune="full"``.
        rank, alpha, targets: of LoRA, see `LowRank` and `add_lora`.
        source_centers: (K, ...) images shaped as the pool's, the most typical one of each class
            that the network was pretrained on (see `source_centers`), or a ``.npy`` file of them.
            With them the model gives the evidence ``distinctiveness``, computed once per pool.
        source_layers: names of an early and a late module of the network.
        objectives: summed; cross-entropy by default.
        recipe: fields of `Recipe` to change.

    Raises:
        InputError: an option out of range, a network without linear layers for LoRA, inputs
            that are no images.
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
        frozen: Sequence[str] = (),
        rank: int = 8,
        alpha: float = 16.0,
        targets: Sequence[str] = (),
        source_centers: Any = None,
        source_layers: tuple[str, str] | None = None,
        objectives: Objectives = (),
        **recipe: Any,
    ) -> None:
        if tune not in RECIPES:
            raise InputError(f"tune must be 'full', 'lora' or 'head', got {tune!r}")
        super().__init__(adapt(RECIPES[tune], recipe, OPTIONS), objectives)
        for option, value, least in (("rank", rank, 1), ("pad", pad, 0), ("size", size or 1, 1)):
            if value < least:
                raise InputError(f"{option} must be at least {least}, got {value}")
        if not alpha > 0:
            raise InputError(f"alpha must be positive, got {alpha}")
        if frozen and tune != "full":
            raise InputError(f"frozen is for tune='full'; tune={tune!r} freezes all that it must")
        if (source_centers is None) != (source_layers is None):
            raise InputError("source_centers and source_layers are given together, or neither")
        self.name = f"finetune:{backbone}"
        self.backbone = backbone
        self.tune = tune
        self.weights = weights
        self.size = size
        self.pad, self.flip = pad, flip
        self.frozen, self.targets = tuple(frozen), tuple(targets)
        self.rank, self.alpha = rank, float(alpha)
        self.source_layers = source_layers
        self._centers: Rows | None = None
        if source_centers is not None:
            held = Rows(source_centers, "source_centers").tensor()
            self._centers = Rows(held, "source_centers")
        self._known: tuple[weakref.ref[Rows], Tensor] | None = None

    def signature(self) -> dict[str, Any]:
        """Everything that decides a fit besides data and seed; weights by their content."""
        own: dict[str, Any] = {
            "tune": self.tune,
            "weights": file_stamp(self.weights),
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
        """The pretrained network with a new head."""
        return self._make(inputs.shape[1:], classes, seed, pretrained=True)

    def empty(self, item_shape: tuple[int, ...], classes: int, seed: int = 0) -> Adapted:
        """The network without its weights, to load others into."""
        return self._make(item_shape, classes, seed, pretrained=False)

    def looks(self, item_shape: tuple[int, ...]) -> Looks:
        """Shifts and flips."""
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
        network = Adapted(made, 1, self._scaled(made), channels_first(inputs.shape[1:]))
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
        first = channels_first(item_shape)
        channels = item_shape[0] if first else item_shape[2]
        if channels == 4:
            raise InputError(f"{self.name} takes images of 1 or 3 channels, got 4")
        made = open_backbone(self.backbone, weights=self.weights, pretrained=pretrained)
        network = Adapted(made, classes, self._scaled(made), first)
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

    def __init__(self, network: Adapted) -> None:
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
