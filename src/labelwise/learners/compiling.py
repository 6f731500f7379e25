"""A network's passes in training, compiled by ``torch.compile`` where that pays.

The network itself stays as it is: its state has the names it had, and validation, predictions,
posterior samples, moving averages and teachers run uncompiled. What is compiled is the pass of the
fit, with its backward pass, and it is let go at the end of the fit. A compiled pass cannot be
differentiated twice.

Compiling takes half a minute for a small network and minutes for a large one, for every fit, and
again for minibatches of another shape. So it pays in long fits: pretraining, end-to-end training
of images, not in a round of active learning that takes seconds. Fits that `fit_many` trains
together are batched by hand and never compiled.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from labelwise.errors import InputError, ResourceError
from labelwise.learners.recipe import Recipe

PAYS_FROM = 2000
"""Steps of a fit from which ``"auto"`` compiles on CUDA; on a CPU it never does."""


@contextlib.contextmanager
def training_pass(
    network: nn.Module, recipe: Recipe, device: torch.device, *, steps: int, ranks: int = 1
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Inside, what a fit calls to pass rows through a network: itself, or its compiled form.

    torch finds compiled code by the network's class, and does not look whether hooks are the
    same: code of another fit would hand what it taps to that fit, or tap nothing. So what is
    compiled in this process, by whomever, is forgotten before and after; others compile anew.

    Args:
        network: gives logits.
        recipe: ``compile`` says whether.
        device: of the network.
        steps: of the fit.
        ranks: processes of the fit. Several exchange numbers inside of a pass, which cannot be
            compiled: ``"auto"`` leaves it, True is refused.

    Raises:
        InputError: ``compile=True`` with several ranks.
    """
    must = recipe.compile is True
    pays = device.type == "cuda" and steps >= PAYS_FROM and ranks == 1
    if must and ranks > 1:
        raise InputError(
            f"compile=True is of fits on one process, and the {ranks} ranks of this one exchange "
            "numbers inside of a pass; leave it off"
        )
    if not must and not (recipe.compile and pays):
        yield network
        return
    torch.compiler.reset()
    try:
        yield _Compiled(network, must)
    finally:
        torch.compiler.reset()


class _Compiled:
    """Calls a compiled network; where the compiler fails, says so in one line.

    Args:
        network: to compile, at the first call.
        must: whether that is an error. Else the network goes on uncompiled.
    """

    def __init__(self, network: nn.Module, must: bool) -> None:
        self._network = network
        self._must = must
        self._run: Callable[[Tensor], Tensor] = torch.compile(network)

    def __call__(self, inputs: Tensor) -> Tensor:
        """The network's output.

        Raises:
            ResourceError: the network must be compiled and cannot.
        """
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self._run(inputs)
        except TorchDynamoException as error:
            said = explained(error)
            if self._must:
                raise ResourceError(said) from error
            warnings.warn(f"{said}; going on uncompiled", stacklevel=2)
            self._run = self._network
        return self._run(inputs)


def explained(error: BaseException) -> str:
    """What a failure of ``torch.compile`` says, in one line with what to do.

    >>> explained(RuntimeError("InvalidCxxCompiler: No working C++ compiler found"))
    'compile found no C++ compiler (InvalidCxxCompiler: No working C++ compiler found): install \
one, such as g++, or set CXX, or leave compile off'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = (lines or [type(error).__name__])[0][:200]
    inner = getattr(error, "inner_exception", error)
    if "Compiler" in type(inner).__name__ or "compiler" in reason.lower():
        return (
            f"compile found no C++ compiler ({reason}): install one, such as g++, or set CXX, or "
            "leave compile off"
        )
    return f"the network cannot be compiled ({reason}): leave compile off"
