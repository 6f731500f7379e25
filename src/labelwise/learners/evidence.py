"""The evidence that needs a model, as providers for the evidence graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners.base import (
    DifferentiableModel,
    InstructedModel,
    Model,
    Outputs,
    PiecewiseLinearModel,
    PosteriorModel,
)


def model_evidence(
    model: Model, inputs: Rows, *, samples: int = 10, seed: int
) -> tuple[Callable[[], object], ...]:
    """What a model can say about a pool, computed when a strategy asks for it.

    One prediction over the pool serves logits, probs and embeddings. Only what the model has is
    offered: no logits of a forest, no head of a model without one, no draws of a model without
    a posterior. (A network that could draw but was fitted without dropout offers draws, and
    asking for them says how to get them.)

    Args:
        model: a fitted model.
        inputs: (N, ...) the pool, encoded as the model was fitted on.
        samples: S, how many posterior samples ``draws`` holds.
        seed: decides the samples.

    Returns:
        Functions without parameters, named for the evidence they give: ``logits`` (N, C),
        ``probs`` (N, C), ``embeddings`` (N, D), ``draws`` (S, N, C), ``head_weight`` (C, D),
        ``head_bias`` (C,), ``inputs`` as given with ``model``, a function from some of them to
        logits, ``activations`` (N, H) and ``hidden_weights``; and what the objectives of its fit
        can say, such as ``predicted_loss``.

    Raises:
        InputError: ``samples`` below 1.
    """
    if samples < 1:
        raise InputError(f"samples must be at least 1, got {samples}")

    @cache
    def outputs() -> Outputs:
        return model.predict(inputs)

    def probs() -> Tensor:
        return outputs().probs

    def embeddings() -> Rows | Tensor:
        return outputs().embeddings

    found: list[Callable[[], object]] = [probs, embeddings, *_inside(model, inputs)]
    # One row tells whether there are logits, without a prediction of the whole pool.
    if len(inputs) and model.predict(inputs, torch.zeros(1, dtype=torch.int64)).logits is not None:

        def logits() -> Tensor | None:
            return outputs().logits

        found.append(logits)
    if isinstance(model, PosteriorModel):

        def draws() -> Tensor:
            return model.draws(inputs, samples=samples, seed=seed)

        found.append(draws)
    if model.head_weight is not None:

        def head_weight() -> Tensor | None:
            return model.head_weight

        found.append(head_weight)
    if model.head_bias is not None:

        def head_bias() -> Tensor | None:
            return model.head_bias

        found.append(head_bias)
    if isinstance(model, InstructedModel):
        found += model.objective_evidence(inputs)
    return tuple(found)


def _inside(given: Model, pool: Rows) -> list[Callable[[], object]]:
    """The model itself where it has gradients, and its layers where it is a perceptron."""
    found: list[Callable[[], object]] = []
    if isinstance(given, DifferentiableModel):

        def inputs() -> Rows:
            return pool

        def model() -> Callable[[Tensor], Tensor]:
            return given.logits

        found += [inputs, model]
    if isinstance(given, PiecewiseLinearModel) and given.hidden_weights is not None:

        def activations() -> Tensor:
            return given.activations(pool)

        def hidden_weights() -> list[Tensor] | None:
            return given.hidden_weights

        found += [activations, hidden_weights]
    return found
