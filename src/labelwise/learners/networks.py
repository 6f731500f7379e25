"""Networks and the layers they are made of; every random number comes from a generator given.

torch fills new layers from its global generator. Here a network is built empty and filled by
`initialize`, so two fits in one process never disturb each other or the user's own seeds.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelwise.errors import InputError
from labelwise.kernels import Rows, torch_stream

SAMPLE_ROWS, SAMPLE_BYTES = 16384, 128 << 20
"""At most this many rows of a pool, and bytes of float64, tell what to standardize by."""

_Made = TypeVar("_Made", bound=nn.Module)


class Dropout(nn.Module):
    """Dropout that draws from a generator of its own, and can hold a mask still.

    While training, each entry is zeroed with probability ``p`` and the rest divided by
    ``1 - p``; in evaluation it does nothing. Inside `posterior_draw` one mask, shaped as one
    row, is applied to every row: the network is then one function, a sample of its posterior.

    Args:
        p: in [0, 1).

    Source:
        Srivastava et al., JMLR 2014; the fixed masks: Gal & Ghahramani, ICML 2016.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise InputError(f"dropout must be in [0, 1), got {p}")
        self.p = p
        self.generator: torch.Generator | None = None
        self.masks: dict[tuple[int, ...], Tensor] | None = None
        self.draw = (0, 0, 0)

    def extra_repr(self) -> str:
        """The probability, for printing."""
        return f"p={self.p}"

    def forward(self, x: Tensor) -> Tensor:
        """``x`` with entries dropped, of the same shape."""
        if self.p == 0:
            return x
        if self.masks is not None:
            return x * self._mask(x)
        if not self.training:
            return x
        # Where nobody set a generator (a user's own loop) torch's global one serves.
        kept = torch.empty_like(x).bernoulli_(1 - self.p, generator=self.generator)
        return x * kept.div_(1 - self.p)

    def _mask(self, x: Tensor) -> Tensor:
        seed, layer, sample = self.draw
        assert self.masks is not None
        key = (sample, *x.shape[1:])  # a layer may be called in several places of a network
        if key not in self.masks:
            stream = torch_stream(seed, "draws", sample, layer)
            kept = torch.empty(x.shape[1:]).bernoulli_(1 - self.p, generator=stream)
            self.masks[key] = kept.div_(1 - self.p).to(x)
        return self.masks[key]


def dropouts(network: nn.Module) -> list[Dropout]:
    """The dropout layers that drop anything, in the order they were registered."""
    return [m for m in network.modules() if isinstance(m, Dropout) and m.p > 0]


def adopt_dropout(network: nn.Module) -> nn.Module:
    """Replace every ``torch.nn.Dropout`` inside a network with a `Dropout` of the same rate.

    One that stands in several places is one in all of them.
    """
    made: dict[nn.Module, nn.Module] = {}

    def adopt(module: nn.Module) -> nn.Module:
        if module not in made:
            made[module] = Dropout(module.p) if type(module) is nn.Dropout else module
            for name, child in module._modules.items():
                if child is not None:
                    setattr(module, name, adopt(child))
        return made[module]

    return adopt(network)


@contextlib.contextmanager
def posterior_draws(network: nn.Module, seed: int) -> Iterator[Callable[[int], None]]:
    """Inside, the network is a posterior sample; call what is yielded with the sample's number.

    A sample's masks depend on seed, sample and layer alone, and are kept until the end, so
    every minibatch of the pool meets the same function.
    """
    layers = dropouts(network)
    for layer in layers:
        layer.masks = {}

    def choose(sample: int) -> None:
        for number, layer in enumerate(layers):
            layer.draw = (seed, number, sample)

    try:
        yield choose
    finally:
        for layer in layers:
            layer.masks = None


@contextlib.contextmanager
def isolated_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Give torch's global generators this seed inside, and put their states back afterwards.

    For modules that are not ours: whatever they draw is seeded and leaves no trace.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for each in devices:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(seed)
        yield


def build_empty(make: Callable[[], _Made], generator: torch.Generator) -> _Made:
    """Make a network without drawing a number, then fill it from the generator."""
    with torch.device("meta"):
        network = make()
    network.to_empty(device="cpu")
    initialize(network, generator)
    return network


@torch.no_grad()
def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """Fill a network's parameters, layer by layer in the order they were registered.

    Linear layers take torch's default law (uniform within 1 / sqrt(inputs)), convolutions the
    normal law of He et al. (ICCV 2015) by outputs, normalizations the identity.

    Raises:
        InputError: a layer with parameters of its own that none of these rules covers.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(max(module.in_features, 1))
            module.weight.uniform_(-bound, bound, generator=generator)
            if module.bias is not None:
                module.bias.uniform_(-bound, bound, generator=generator)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            outputs = module.out_channels * math.prod(module.kernel_size)
            module.weight.normal_(0, math.sqrt(2 / outputs), generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, Standardize):
            module.mean.zero_()
            module.scale.fill_(1)
        elif next(module.parameters(recurse=False), None) is not None:
            raise InputError(f"layer {name!r} ({type(module).__name__}) has no rule to fill it")


class Standardize(nn.Module):
    """Subtract a mean and multiply by a scale, kept as buffers; makes float32 of anything.

    Args:
        shape: what the mean and the scale are shaped as; broadcast against a minibatch.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(*shape))
        self.register_buffer("scale", torch.ones(*shape))

    def forward(self, x: Tensor) -> Tensor:
        """``(x - mean) * scale`` in float32."""
        return (x.float() - self.mean) * self.scale

    @torch.no_grad()
    def measure(self, inputs: Rows, axes: tuple[int, ...]) -> None:
        """Take mean and scale (one over the standard deviation) from rows of the pool.

        Evenly spaced rows are read, up to `SAMPLE_ROWS` and `SAMPLE_BYTES`. A constant entry
        keeps scale 1.

        Args:
            inputs: (N, ...).
            axes: what to average over, of an (n, ...) minibatch; 0 is the rows.
        """
        width = math.prod(inputs.shape[1:])
        count = max(1, min(SAMPLE_ROWS, SAMPLE_BYTES // (8 * max(1, width))))
        step = -(-len(inputs) // count)
        sample = inputs.take(torch.arange(0, len(inputs), step)).double()
        mean = sample.mean(axes)
        spread = (sample - mean.reshape(_kept(sample.shape, axes))).square().mean(axes).sqrt()
        spread[spread <= 1e-12 * mean.abs().clamp(min=1)] = 1
        self.mean.copy_(mean.reshape(self.mean.shape))
        self.scale.copy_((1 / spread).reshape(self.scale.shape))


def _kept(shape: Sequence[int], axes: tuple[int, ...]) -> list[int]:
    """The shape of a mean over some axes with those axes kept, of length one."""
    return [1 if axis in axes else length for axis, length in enumerate(shape)]


class Perceptron(nn.Module):
    """Standardize, hidden layers of ReLU and dropout, a linear head.

    Args:
        width: D, entries of an input row (rows of a higher rank are flattened).
        hidden: the widths of the hidden layers; none gives a linear model.
        classes: C.
        dropout: after every hidden layer.
    """

    def __init__(self, width: int, hidden: Sequence[int], classes: int, dropout: float) -> None:
        super().__init__()
        self.standardize = Standardize((width,))
        layers: list[nn.Module] = []
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU()]
            if dropout > 0:
                layers.append(Dropout(dropout))
            width = units
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) inputs to (n, C) logits."""
        return self.head(self.body(self.standardize(x.flatten(1))))


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class SmallImageResNet(nn.Module):
    """ResNet-18 in the form for images of about 32 pixels: 3x3 stem, stride 1, no pooling.

    Args:
        channels: of an image.
        classes: C.
        width: channels of the first stage; 64 is the published one.
        channels_first: whether rows are (channels, H, W) and not (H, W, channels).

    Source:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2 for
        the stem on CIFAR-10 and table 1 for the four stages of two blocks.
    """

    def __init__(
        self, channels: int, classes: int, width: int = 64, channels_first: bool = False
    ) -> None:
        super().__init__()
        self.channels_first = channels_first
        self.standardize = Standardize((channels, 1, 1))
        self.stem = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        stages: list[nn.Module] = []
        inputs = width
        for stage in range(4):
            outputs = width << stage
            stages += [_Block(inputs, outputs, 1 if stage == 0 else 2), _Block(outputs, outputs, 1)]
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, H, W, channels) or (n, channels, H, W) of any dtype to (n, C) logits."""
        if not self.channels_first:
            x = x.permute(0, 3, 1, 2)
        x = self.standardize(x).contiguous(memory_format=torch.channels_last)
        x = F.relu(self.stem_norm(self.stem(x)))
        return self.head(self.stages(x).mean((2, 3)))


def hidden_layers(network: nn.Module) -> list[tuple[nn.Linear, nn.ReLU]]:
    """The hidden layers of a perceptron of ReLU units, each with its ReLU; none of any other kind.

    A `Perceptron`, or a ``torch.nn.Sequential`` of ``Linear`` and ``ReLU`` in turn that ends in a
    ``Linear``; dropout, flattening and standardization may stand anywhere.
    """
    if not isinstance(network, Perceptron) and type(network) is not nn.Sequential:
        return []
    idle = (Dropout, nn.Dropout, nn.Flatten, nn.Identity, Standardize)
    layers = []
    for module in network.modules():
        if isinstance(module, idle) or type(module) in (nn.Sequential, Perceptron):
            continue
        if next(module.children(), None) is not None:
            return []  # what a module of another kind does with its layers is not known
        layers.append(module)
    units, relus = layers[0:-1:2], layers[1:-1:2]
    if len(layers) % 2 == 0 or not isinstance(layers[-1], nn.Linear):
        return []
    found = []
    for unit, relu in zip(units, relus):
        if not isinstance(unit, nn.Linear) or not isinstance(relu, nn.ReLU):
            return []
        found.append((unit, relu))
    return found


def single(inputs: Tensor) -> Tensor:
    """Fractions of any precision as float32; whole numbers (pixels, tokens) as they are."""
    return inputs.float() if inputs.is_floating_point() else inputs


def find_head(network: nn.Module, classes: int) -> nn.Linear:
    """The linear layer that gives the logits: the last one registered.

    Raises:
        InputError: there is none, or it has another number of outputs than there are classes.
    """
    head = None
    for module in network.modules():
        if isinstance(module, nn.Linear):
            head = module
    if head is None:
        raise InputError("the network has no torch.nn.Linear, and its last one must give logits")
    if head.out_features != classes:
        raise InputError(
            f"the network's last torch.nn.Linear must have one output a class: "
            f"{classes} classes, got out_features={head.out_features}"
        )
    return head
