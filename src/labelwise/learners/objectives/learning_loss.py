"""Learning loss: a module beside the network learns to predict which rows lose more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelwise.errors import InputError, nearest
from labelwise.learners.networks import build_empty, hidden_layers
from labelwise.learners.objectives.base import Objective, Setting, Step
from labelwise.learners.objectives.self_supervision import count
from labelwise.learners.objectives.views import View

if TYPE_CHECKING:
    from labelwise.kernels import Rows
    from labelwise.learners.network import NetworkModel

_STAGES = 4
"""At most this many feature maps are looked at, the deepest."""


def ranking_loss(predicted: Tensor, losses: Tensor, margin: float = 1.0) -> Tensor:
    """How wrong the order of predicted losses is, over pairs of the first and the last row, etc.

    A pair costs ``max(0, margin - (predicted_i - predicted_j))`` where row i loses more than row
    j, and with the sign turned round where it does not. A row in the middle has no partner.

    Args:
        predicted: (n,). losses: (n,), whose gradient is not used.
        margin: by how much the predictions of a pair are to differ.

    Returns:
        The mean over pairs; 0 for a single row.

    Source:
        Yoo & Kweon, "Learning Loss for Active Learning", CVPR 2019, equation 4.

    >>> ranking_loss(torch.tensor([0.0, 9.0, 0.5]), torch.tensor([2.0, 1.0, 0.0]))
    tensor(1.5000)
    """
    pairs = len(predicted) // 2
    if pairs == 0:
        return 0.0 * predicted.sum()
    apart = (predicted - predicted.flip(0))[:pairs]
    truth = (losses - losses.flip(0))[:pairs].detach()
    sign = torch.where(truth > 0, 1.0, -1.0)
    return (margin - sign * apart).clamp(min=0).mean()


class LossModule(nn.Module):
    """From feature maps, averaged over positions, to one number a row.

    Args:
        widths: channels of each map.
        width: units for each map.
    """

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Linear(channels, width) for channels in widths)
        self.last = nn.Linear(width * len(widths), 1)

    def forward(self, averages: Sequence[Tensor]) -> Tensor:
        """(n, channels) of each map to (n,)."""
        seen = [F.relu(stage(each)) for stage, each in zip(self.stages, averages)]
        out: Tensor = self.last(torch.cat(seen, 1))[:, 0]
        return out


class LearningLoss(Objective):
    """A module that predicts each row's cross-entropy up to order, trained along with the network.

    It looks at intermediate layers: of a perceptron at the hidden ones, of any other network at
    the last feature map of each resolution, the four deepest (the four stages of a ResNet), each
    averaged over its positions. After a share of the steps its gradient no longer reaches the
    network. What a strategy gets is ``predicted_loss``.

    Args:
        weight: of the `ranking_loss`, >= 0.
        margin: see there.
        detach: in [0, 1], the share of steps after which the network is left alone; 120 of 200
            epochs in the code that the published curve was reproduced with.
        width: units for each layer looked at.
        layers: names of modules of the network to look at instead, each giving (n, channels, ...);
            also as one text with commas between.

    Raises:
        InputError: an option out of range; at the fit, a network without such layers, or a name
            it does not have.

    Source:
        Yoo & Kweon, "Learning Loss for Active Learning", CVPR 2019.
    """

    learns_labels = False
    gives = ("predicted_loss",)

    def __init__(
        self,
        *,
        weight: float = 1.0,
        margin: float = 1.0,
        detach: float = 0.6,
        width: int = 128,
        layers: str | Sequence[str] = (),
    ) -> None:
        super().__init__()
        for name, value in (("weight", weight), ("margin", margin)):
            if not 0 <= value < float("inf"):
                raise InputError(f"{name} must be a number >= 0, got {value}")
        if not 0 <= detach <= 1:
            raise InputError(f"detach must be in [0, 1], got {detach}")
        self.weight, self.margin, self.detach = weight, margin, detach
        self.width = count("width", width)
        self.names = tuple(layers.split(",") if isinstance(layers, str) else layers)
        self._layers: tuple[nn.Module, ...] = ()

    def prepare(self, setting: Setting) -> None:
        """Find the layers, and make the module."""
        shapes = _outputs(setting)
        self._layers = tuple(self._wanted(setting.network, shapes))
        widths = [shapes[layer][1] for layer in self._layers]
        self.module = build_empty(lambda: LossModule(widths, self.width), setting.generator)

    def _wanted(
        self, network: nn.Module, shapes: Mapping[nn.Module, tuple[int, ...]]
    ) -> Sequence[nn.Module]:
        """The layers to look at, first to last."""
        known = {name: module for name, module in network.named_modules() if module in shapes}
        for name in self.names:
            if name not in known:
                raise InputError(f"the network has no layer {name!r}; {nearest(name, known)}")
        if self.names:
            return [known[name] for name in self.names]
        if hidden := [relu for _, relu in hidden_layers(network)]:
            return hidden
        stages = {shape[2:]: module for module, shape in shapes.items() if len(shape) == 4}
        if not stages:
            raise InputError(
                "learning_loss finds neither feature maps nor hidden layers in this network: "
                "name some, layers=('...',)"
            )
        return list(stages.values())[-_STAGES:]

    def layers(self) -> Sequence[nn.Module]:
        """The layers looked at."""
        return self._layers

    def forward(self, labeled: View, step: Step) -> Tensor:
        """The loss, a single number."""
        seen = [labeled.averages[layer] for layer in self._layers]
        if step.number >= self.detach * step.total:
            seen = [each.detach() for each in seen]
        losses = F.cross_entropy(labeled.logits.detach(), labeled.labels, reduction="none")
        return self.weight * ranking_loss(self.module(seen), losses, self.margin)

    def evidence(self, model: NetworkModel, inputs: Rows) -> Mapping[str, Callable[[], object]]:
        """What the module says of each row, (N,)."""

        def predicted_loss() -> Tensor:
            return model.per_row(
                inputs,
                lambda given, logits, embeddings, *seen: self.module(seen).float(),
                self._layers,
            )

        return {"predicted_loss": predicted_loss}

    def signature(self) -> dict[str, Any]:
        """Name and options."""
        return {
            "name": "learning_loss",
            "weight": self.weight,
            "margin": self.margin,
            "detach": self.detach,
            "width": self.width,
            "layers": list(self.names),
        }


@torch.no_grad()
def _outputs(setting: Setting) -> dict[nn.Module, tuple[int, ...]]:
    """Shapes of what each module makes of two rows of zeros, in the order they were run."""
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def see(module: nn.Module, given: object, made: object) -> None:
        if isinstance(made, Tensor) and made.ndim >= 2:
            shapes.pop(module, None)
            shapes[module] = tuple(made.shape)

    network = setting.network
    modes = [(module, module.training) for module in network.modules()]
    hooks = [module.register_forward_hook(see) for module, _ in modes]
    network.eval()
    try:
        network(torch.zeros(2, *setting.item_shape, device=setting.device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    return shapes
