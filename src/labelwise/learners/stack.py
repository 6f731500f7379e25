"""Perceptrons of one shape as batched matrices, with a gradient written by hand.

S members that differ in their weights alone are one product a layer: (S, n, in) inputs times
(S, in, out) weights. `LayerStack` has the arithmetic; `labelwise.learners.many` trains it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from labelwise.learners.networks import Dropout, Perceptron, Standardize
from labelwise.learners.recipe import Recipe

_IDLE = (nn.Identity,)
_FIRST = (Standardize, nn.Flatten)


def perceptron_layers(network: nn.Module) -> tuple[list[nn.Module], list[nn.Module]] | None:
    """A network as what is done to its inputs, and its layers from the first linear one on.

    Returns:
        Two lists of modules, in order; None for a network that is not (or not known to be)
        a chain of ``Linear``, ``ReLU`` and dropout that ends in a ``Linear``.
    """
    chain = _chain(network)
    if chain is None:
        return None
    cut = next((i for i, layer in enumerate(chain) if isinstance(layer, nn.Linear)), len(chain))
    first, layers = chain[:cut], chain[cut:]
    known = all(type(layer) in (nn.Linear, nn.ReLU, Dropout) for layer in layers)
    if not layers or not known or not isinstance(layers[-1], nn.Linear):
        return None
    if not all(isinstance(layer, _FIRST) for layer in first):
        return None
    parameters = [p for layer in layers for p in layer.parameters()]
    if any(_hooked(layer) for layer in (network, *chain)):
        return None  # what a hook does, such as to normalize a weight, would be left out
    if len({id(layer) for layer in chain}) < len(chain):
        return None  # one layer twice
    if len({id(p) for p in parameters}) < len(parameters):
        return None  # two layers that share a weight
    if len(parameters) < len(list(network.parameters())):
        return None  # weights that a fit would change and that are not in the chain
    return (first, layers) if all(p.requires_grad for p in parameters) else None


def _chain(network: nn.Module) -> list[nn.Module] | None:
    """The modules of a network that calls them one after another, else None."""
    if type(network) is Perceptron:
        return [nn.Flatten(), network.standardize, *network.body, network.head]
    if type(network) is not nn.Sequential:
        return [network] if type(network) is nn.Linear else None
    chain: list[nn.Module] = []
    for child in network:
        inner = _chain(child) if type(child) is nn.Sequential else [child]
        if inner is None:
            return None
        chain += [layer for layer in inner if not isinstance(layer, _IDLE)]
    return chain


def _hooked(layer: nn.Module) -> bool:
    """Whether a call of a layer does more than its class says."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks)


def _parameters(layer: nn.Module) -> list[Tensor]:
    """Of a linear layer: (out, in), and (1, out) where it has a bias."""
    return [p.detach() if p.ndim == 2 else p.detach()[None] for p in layer.parameters()]


class LayerStack:
    """The layers of S networks, from the first linear one on, and their gradients.

    Args:
        members: for each network its layers, as `perceptron_layers` gives them; alike in all
            but their weights.
        device: where the stacked weights live.

    Attributes:
        weights: a tensor per parameter of a member in the order of its layers, each with the
            members in front: (S, out, in) and, of biases, (S, 1, out).
        gradients: as `backward` left them, shaped as ``weights``.
        drops: of each dropout layer that drops, its rate and how many units it is given.
    """

    def __init__(self, members: Sequence[Sequence[nn.Module]], device: torch.device) -> None:
        self.layers = list(members[0])
        self.weights: list[Tensor] = []
        self.places: list[tuple[int, int | None]] = []
        self.drops: list[tuple[float, int]] = []
        units = 0
        for at, layer in enumerate(self.layers):
            if isinstance(layer, Dropout) and layer.p > 0:
                self.drops.append((layer.p, units))
            if not isinstance(layer, nn.Linear):
                continue
            units = layer.out_features
            mine = [_parameters(member[at]) for member in members]
            first = len(self.weights)
            for stacked in zip(*mine, strict=True):
                self.weights.append(torch.stack(stacked).to(device))
            self.places.append((first, first + 1 if layer.bias is not None else None))
        self.gradients = [torch.empty_like(weight) for weight in self.weights]

    def __len__(self) -> int:
        return len(self.weights[0])

    @property
    def decays(self) -> list[bool]:
        """Whether weight decay is for a parameter: of matrices, not of biases."""
        biases = {bias for _, bias in self.places}
        return [at not in biases for at in range(len(self.weights))]

    def logits(self, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """(s, n, C) logits of (s, n, D) inputs by weights of s members, without dropout."""
        linear = iter(self.places)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                x = _linear(x, weights, next(linear))
            elif isinstance(layer, nn.ReLU):
                x = x.relu()
        return x

    def forward(self, x: Tensor, masks: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Logits, and what `backward` needs: what each layer was given.

        Args:
            x: (S, n, D).
            masks: for each dropout layer that drops, (S, n, units): 0 or 1 / (1 - p).
        """
        given: list[Tensor] = []
        linear, mask = iter(self.places), iter(masks)
        for layer in self.layers:
            given.append(x)
            if isinstance(layer, nn.Linear):
                x = _linear(x, self.weights, next(linear))
            elif isinstance(layer, nn.ReLU):
                x = x.relu()
            elif isinstance(layer, Dropout) and layer.p > 0:
                x = x * next(mask)
        return x, given

    def backward(self, slope: Tensor, given: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
        """Fill ``gradients`` from (S, n, C) derivatives by the logits."""
        linear, mask = reversed(self.places), reversed(masks)
        for at in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[at]
            if isinstance(layer, nn.Linear):
                weight, bias = next(linear)
                torch.bmm(slope.transpose(1, 2), given[at], out=self.gradients[weight])
                if bias is not None:
                    torch.sum(slope, 1, keepdim=True, out=self.gradients[bias])
                if at > 0:  # nobody wants the derivatives by the inputs
                    slope = torch.bmm(slope, self.weights[weight])
            elif isinstance(layer, nn.ReLU):
                slope = torch.ops.aten.threshold_backward(slope, given[at], 0)
            elif isinstance(layer, Dropout) and layer.p > 0:
                slope = slope * next(mask)

    def keep(self, members: Tensor) -> None:
        """Go on with these (k,) members alone, in this order."""
        self.weights = [weight[members] for weight in self.weights]
        self.gradients = [torch.empty_like(weight) for weight in self.weights]

    def copy_to(self, weights: Sequence[Tensor], layers: Sequence[nn.Module]) -> None:
        """Give one network a member's weights, each shaped as in ``weights`` without members."""
        parameters = [p for layer in layers for p in layer.parameters()]
        with torch.no_grad():
            for parameter, weight in zip(parameters, weights, strict=True):
                parameter.copy_(weight.view_as(parameter))


def _linear(x: Tensor, weights: Sequence[Tensor], place: tuple[int, int | None]) -> Tensor:
    weight = weights[place[0]].transpose(1, 2)
    return torch.bmm(x, weight) if place[1] is None else torch.baddbmm(weights[place[1]], x, weight)


class StackOptimizer:
    """A recipe's optimizer for stacked weights, each member at its own learning rate.

    The update is torch's own, of stretches of members that have one learning rate.

    Args:
        recipe: which optimizer. stack: whose weights it moves by its gradients.
    """

    def __init__(self, recipe: Recipe, stack: LayerStack) -> None:
        self.recipe = recipe
        self.stack = stack
        moments = 1 if recipe.optimizer == "sgd" else 2
        self.moments = [[torch.zeros_like(w) for w in stack.weights] for _ in range(moments)]
        self.steps = [torch.zeros((), device=w.device) for w in stack.weights]
        decays = stack.decays if recipe.weight_decay > 0 else [False] * len(stack.weights)
        self.groups = [
            (recipe.weight_decay if decay else 0.0, [i for i, d in enumerate(decays) if d == decay])
            for decay in sorted(set(decays))
        ]

    def step(self, rates: Sequence[tuple[int, int, float]]) -> None:
        """One update.

        Args:
            rates: stretches of members (first, one past the last, learning rate), all members.
        """
        if self.recipe.clip is not None:
            self._clip(self.recipe.clip)
        before = [step.clone() for step in self.steps] if len(rates) > 1 else []
        for start, stop, rate in rates:
            if start > 0:  # every stretch makes the same step; torch counts each
                for step, count in zip(self.steps, before):
                    step.copy_(count)
            for decay, chosen in self.groups:
                self._update(chosen, start, stop, rate, decay)

    def keep(self, members: Tensor) -> None:
        """Go on with these (k,) members alone, in this order."""
        self.moments = [[each[members] for each in moment] for moment in self.moments]

    def _update(self, chosen: list[int], start: int, stop: int, rate: float, decay: float) -> None:
        recipe = self.recipe
        weights = [self.stack.weights[i][start:stop] for i in chosen]
        gradients = [self.stack.gradients[i][start:stop] for i in chosen]
        moments = [[moment[i][start:stop] for i in chosen] for moment in self.moments]
        steps = [self.steps[i] for i in chosen]
        if recipe.optimizer == "sgd":
            # From zeros the first step is torch's: momentum x 0 + gradient, without dampening.
            kept: list[Tensor | None] = [None] * len(chosen)
            sgd(
                weights,
                gradients,
                [*moments[0]] if recipe.momentum > 0 else kept,
                fused=True,
                weight_decay=decay,
                momentum=recipe.momentum,
                lr=rate,
                dampening=0.0,
                nesterov=recipe.momentum > 0,
                maximize=False,
            )
            return
        adam(
            weights,
            gradients,
            moments[0],
            moments[1],
            [],
            steps,
            fused=True,
            decoupled_weight_decay=recipe.optimizer == "adamw",
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate,
            weight_decay=decay,
            eps=1e-8,
            maximize=False,
        )

    def _clip(self, largest: float) -> None:
        """Scale each member's gradient so that its norm is at most this, as torch does."""
        parts = [each.flatten(1).square().sum(1) for each in self.stack.gradients]
        norms = torch.stack(parts).sum(0).sqrt()
        scale = (largest / (norms + 1e-6)).clamp(max=1.0)[:, None, None]
        for each in self.stack.gradients:
            each.mul_(scale)
