"""Make torchvision importable beside a torch build that lacks what its extension links to.

The wheel of torchvision that goes with a CPU build of torch is linked against CUDA libraries. Its
extension then fails to load, its operators are never declared, and importing it (or timm, which
imports it) fails with "operator torchvision::nms does not exist". Two declarations are all that
the import lacks; transforms and models work with them, non-maximum suppression does not.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_declared: list[torch.library.Library] = []


def prepare_torchvision() -> bool:
    """Declare the missing operators, where torchvision is installed and cannot declare them.

    Returns:
        Whether anything was declared: False without torchvision, where its extension loads,
        and from the second call on.
    """
    if hasattr(torch.ops.torchvision, "nms"):
        return False
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return False
    for extension in Path(found.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(extension))
        except OSError:
            continue  # linked to libraries that are not here
        return False
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)  # the declarations last as long as this object
    return True
