"""The state of modules and of what they hold, as tensors and JSON; put back in place, no pickle.

What a fit changes is spread over parameters, buffers (persistent or not), random generators and
plain attributes such as counters and queues. `capture` walks all of it; `restore` walks the same
objects, made anew, and puts the values back into them.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labelwise.errors import DataError
from labelwise.kernels import Rows

Node = list[Any]
"""What JSON keeps of one value: its kind, then its parts."""

_INTERNAL = frozenset(vars(nn.Module()))
_FOREIGN = frozenset({"torch", "numpy", "builtins", "weakref", "functools"})
"""Where classes come from whose attributes are nobody's business."""

_PARTS = {"parameters": "_parameters", "buffers": "_buffers", "modules": "_modules"}
_KEPT: Node = ["kept"]


def capture(value: Any) -> tuple[Node, dict[str, Tensor]]:
    """Everything below a value that a fit may change.

    Modules, lists, tuples, deques, dicts and objects are walked; tensors, arrays, generators,
    numbers, texts, truths and None are taken. An object that says ``state_names`` is walked
    through these attributes alone. What is met a second time (a list of the network's own
    parameters), and what is none of these (functions, named tuples, frozen dataclasses, `Rows`),
    is left as a new fit makes it.

    Returns:
        A node for JSON, and copies of the tensors on the CPU by the names that it uses.

    >>> node, tensors = capture({"weight": torch.ones(1), "step": 3})
    >>> node
    ['dict', [['weight', ['tensor', '0', True]], ['step', ['value', 3]]]]
    """
    walk = _Capture()
    return walk.node(value), walk.tensors


def restore(value: Any, node: Node, tensors: dict[str, Tensor], device: torch.device) -> Any:
    """Put captured state back.

    Args:
        value: made as that which was captured was made; changed in place where it can be.
        node, tensors: from `capture`.
        device: for tensors that were not on the CPU and have nothing here to be put into.

    Returns:
        The value, or what stands in its place where it cannot be changed (numbers, texts).

    Raises:
        DataError: modules or parameters are not those that were captured.
    """
    return _Restore(tensors, device).put(value, node, "")


class _Capture:
    """One walk, which meets everything once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._met: dict[int, Any] = {}

    def node(self, value: Any) -> Node:
        if value is None or type(value) in (bool, int, float, str):
            return ["value", value]
        if isinstance(value, np.generic):
            return ["value", value.item()]
        if id(value) in self._met:
            return _KEPT
        self._met[id(value)] = value
        if isinstance(value, Tensor):
            return ["tensor", self._keep(value), value.device.type == "cpu"]
        if isinstance(value, torch.Generator):
            return ["generator", self._keep(value.get_state())]
        if isinstance(value, np.random.Generator):
            return ["random", value.bit_generator.state]
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            return ["array", self._keep(torch.from_numpy(value))]
        if isinstance(value, nn.Module):
            return self._module(value)
        if type(value) in (list, tuple, deque):
            return [type(value).__name__, [self.node(each) for each in value]]
        if isinstance(value, dict):
            if not all(type(key) in (bool, int, str) for key in value):
                return _KEPT
            return ["dict", [[key, self.node(each)] for key, each in value.items()]]
        names = _attributes(value)
        return ["object", {name: self.node(getattr(value, name)) for name in names}]

    def _module(self, module: nn.Module) -> Node:
        parts = {
            part: {name: self.node(each) for name, each in getattr(module, own).items()}
            for part, own in _PARTS.items()
        }
        rest = {k: self.node(v) for k, v in vars(module).items() if k not in _INTERNAL}
        return ["module", {**parts, "attributes": rest}]

    def _keep(self, tensor: Tensor) -> str:
        name = str(len(self.tensors))
        self.tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
        return name


def _attributes(value: Any) -> list[str]:
    """The attributes of an object that may be state; none of one that is left alone."""
    named = getattr(value, "state_names", None)
    if named is not None:
        return list(named)
    kind = type(value)
    frozen = dataclasses.is_dataclass(value) and kind.__dataclass_params__.frozen
    foreign = kind.__module__.partition(".")[0] in _FOREIGN
    if frozen or foreign or callable(value) or isinstance(value, Rows | enum.Enum):
        return []
    return list(getattr(value, "__dict__", ()))


class _Restore:
    """The same walk, over what is to be given its state back."""

    def __init__(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        self.tensors = tensors
        self.device = device

    def put(self, value: Any, node: Node, path: str) -> Any:
        kind, *parts = node
        if kind == "kept":
            return value
        if kind == "value":
            return parts[0]
        method: Callable[..., Any] = getattr(self, f"_{kind}")
        return method(value, *parts, path)

    def _tensor(self, value: Any, name: str, on_cpu: bool, path: str) -> Tensor:
        saved = self.tensors[name]
        same = isinstance(value, Tensor) and value.shape == saved.shape
        if same and value.dtype == saved.dtype:
            value.detach().copy_(saved)  # keeps its place in memory, and the order of its axes
            return value
        if isinstance(value, nn.Parameter):
            raise DataError(
                f"another architecture: parameter {path} has shape {tuple(value.shape)} here and "
                f"{tuple(saved.shape)} there"
            )
        return saved.clone() if on_cpu else saved.to(self.device)

    def _generator(self, value: Any, name: str, path: str) -> torch.Generator:
        made = value if isinstance(value, torch.Generator) else torch.Generator()
        made.set_state(self.tensors[name])
        return made

    def _random(self, value: Any, state: dict[str, Any], path: str) -> np.random.Generator:
        made = value if isinstance(value, np.random.Generator) else np.random.default_rng(0)
        made.bit_generator.state = state
        return made

    def _array(self, value: Any, name: str, path: str) -> Any:
        saved = self.tensors[name].numpy()
        if isinstance(value, np.ndarray) and value.shape == saved.shape and value.flags.writeable:
            value[...] = saved
            return value
        return saved.copy()

    def _module(self, value: Any, parts: dict[str, dict[str, Node]], path: str) -> nn.Module:
        if not isinstance(value, nn.Module):
            raise DataError(f"another architecture: {path} is no module here")
        for part in ("parameters", "modules"):
            here = set(getattr(value, _PARTS[part]))
            if here != set(parts[part]):
                name = sorted(here ^ set(parts[part]))[0]
                where = "here" if name in here else "there"
                raise DataError(f"another architecture: {path}.{name} is only {where}")
        for part, own in _PARTS.items():
            held = getattr(value, own)
            for name, node in parts[part].items():
                held[name] = self.put(held.get(name), node, f"{path}.{name}")
        for name, node in parts["attributes"].items():
            setattr(value, name, self.put(getattr(value, name, None), node, f"{path}.{name}"))
        return value

    def _list(self, value: Any, nodes: list[Node], path: str) -> list[Any]:
        found = self._each(value, nodes, path)
        if type(value) is not list:
            return found
        value[:] = found
        return value

    def _tuple(self, value: Any, nodes: list[Node], path: str) -> tuple[Any, ...]:
        return tuple(self._each(value, nodes, path))

    def _deque(self, value: Any, nodes: list[Node], path: str) -> deque[Any]:
        found = self._each(value, nodes, path)
        if type(value) is not deque:
            return deque(found)
        value.clear()
        value.extend(found)
        return value

    def _each(self, value: Any, nodes: list[Node], path: str) -> list[Any]:
        here = list(value) if isinstance(value, list | tuple | deque) else []
        here += [None] * (len(nodes) - len(here))
        pairs = enumerate(zip(here, nodes))
        return [self.put(old, node, f"{path}.{place}") for place, (old, node) in pairs]

    def _dict(self, value: Any, pairs: list[tuple[Any, Node]], path: str) -> dict[Any, Any]:
        held = value if isinstance(value, dict) else {}
        found = {key: self.put(held.get(key), node, f"{path}.{key}") for key, node in pairs}
        held.clear()
        held.update(found)
        return held

    def _object(self, value: Any, parts: dict[str, Node], path: str) -> Any:
        for name, node in parts.items():
            setattr(value, name, self.put(getattr(value, name, None), node, f"{path}.{name}"))
        return value
