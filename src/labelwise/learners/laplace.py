"""Last-layer Laplace: a Gaussian posterior over the weights of a model's linear head."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import Rows, torch_stream
from labelwise.learners.base import (
    DifferentiableModel,
    InstructedModel,
    Learner,
    Model,
    Outputs,
    PiecewiseLinearModel,
    check_fit,
)
from labelwise.learners.linear import LinearModel, feature_units
from labelwise.learners.registry import make_learner

FULL_LIMIT = 6000
"""Entries of the head up to which a full covariance is made: 0.3 GB and about a minute."""

PRECISIONS = torch.logspace(-6, 6, 241, dtype=torch.float64)
"""The prior precisions among which the likeliest is chosen; 20 a factor of ten."""

Covariance = Literal["kron", "full"]


class Curvature(NamedTuple):
    """The Hessian of the labeled rows' cross-entropy in a head's weights, as eigenvectors.

    With weights and bias as a (C, P) matrix, P = D + 1, the Hessian is the sum over rows of
    ``(diag(p) - p p') x (f f')``, p the row's probabilities and f its features with a one behind.
    (It is the generalized Gauss-Newton matrix as well: a softmax of a linear function has no
    other curvature.)

    Attributes:
        values: eigenvalues, (C, R) float64 >= 0; R = min(L, P) for L rows, and all others are 0.
        left: (C, C) and right: (P, R), whose columns' outer products are the eigenvectors of the
            Kronecker-factored Hessian; left is None for the full one, where R = P and the
            eigenvectors are the columns of right, (C P, C P).
    """

    values: Tensor
    left: Tensor | None
    right: Tensor

    def spread(self, noise: Tensor, precision: float) -> Tensor:
        """White noise (..., C, P) turned into noise of covariance (Hessian + precision I)^-1."""
        scales = (self.values + precision).rsqrt()
        if self.left is None:
            flat = (noise * scales).flatten(-2) @ self.right.T
            return flat.reshape(noise.shape)
        if len(self.right) == self.right.shape[1]:
            return self.left @ (noise * scales) @ self.right.T
        # Where no row has features, the posterior is the prior.
        prior = precision**-0.5
        return self.left @ (
            noise * prior + ((noise @ self.right) * (scales - prior)) @ self.right.T
        )


def head_curvature(probs: Tensor, features: Tensor, covariance: Covariance) -> Curvature:
    """The curvature of labeled rows; see `Curvature`.

    Args:
        probs: (L, C) float64 class distributions of the labeled rows.
        features: (L, P) float64, the last of them 1.
        covariance: ``"full"``, or ``"kron"`` for L times the Kronecker product of the rows' mean
            ``diag(p) - p p'`` and their mean ``f f'``. The two agree where all rows have the same
            probabilities, or the same features.

    Raises:
        ResourceError: a full one of more than `FULL_LIMIT` entries.

    >>> rows = torch.tensor([[1.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    >>> even = torch.full((2, 2), 0.5, dtype=torch.float64)
    >>> found = [head_curvature(even, rows, kind).values for kind in ("kron", "full")]
    >>> torch.allclose(found[0].flatten().sort().values, found[1].flatten().sort().values)
    True
    """
    count, classes = probs.shape
    width = features.shape[1]
    if covariance == "kron":
        left = (torch.diag(probs.sum(0)) - probs.T @ probs) / count
        by_class, left = torch.linalg.eigh(left)
        by_feature, right = _squares(features)
        values = by_class.clamp(min=0)[:, None] * by_feature.clamp(min=0)
        return Curvature(values, left, right)
    if classes * width > FULL_LIMIT:
        raise ResourceError(
            f"a full covariance of {classes} classes x {width} features has {classes * width} "
            f"rows, and at most {FULL_LIMIT} are taken; use covariance='kron'"
        )
    full = torch.zeros(classes, width, classes, width, dtype=torch.float64)
    for one in range(classes):
        for other in range(one + 1):
            weight = -probs[:, one] * probs[:, other]
            if one == other:
                weight = weight + probs[:, one]
            part = (features * weight[:, None]).T @ features
            full[one, :, other] = full[other, :, one] = part
    values, vectors = torch.linalg.eigh(full.reshape(classes * width, classes * width))
    return Curvature(values.clamp(min=0).reshape(classes, width), None, vectors)


def _squares(features: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (R,) and eigenvectors (P, R) of ``F' F`` for (L, P) features, R = min(L, P).

    Few rows of wide features take L^2 P operations and not P^3.
    """
    if len(features) >= features.shape[1]:
        found = torch.linalg.eigh(features.T @ features)
        return found.eigenvalues, found.eigenvectors
    basis, inside = torch.linalg.qr(features.T)
    values, vectors = torch.linalg.eigh(inside @ inside.T)
    return values, basis @ vectors


def likeliest_precision(weights: Tensor, curvature: Curvature) -> float:
    """The prior precision with the largest Laplace approximation of the marginal likelihood.

    It maximizes, over `PRECISIONS`, ``(K log t - t |W|^2 - sum_k log(e_k + t)) / 2`` for K
    weights W and eigenvalues e; the likelihood of the labels does not depend on t.

    Args:
        weights: (C, P) float64, the head's.

    Source:
        MacKay, "The Evidence Framework Applied to Classification Networks", Neural Computation
        1992; for last layers Daxberger et al., NeurIPS 2021, section 2.
    """
    best, found = -math.inf, 1.0
    size = float(weights.square().sum())
    zeros = weights.numel() - curvature.values.numel()
    for precision in PRECISIONS.tolist():
        determinant = float((curvature.values + precision).log().sum())
        determinant += zeros * math.log(precision)
        value = (weights.numel() * math.log(precision) - precision * size - determinant) / 2
        if value > best:
            best, found = value, precision
    return found


class Laplace:
    """Any learner with a linear head, and a Gaussian posterior over that head's weights.

    The posterior has its mean at the fitted head, and as covariance the inverse of the Hessian
    of the loss there: of the labeled rows' summed cross-entropy and of a Gaussian prior's. The
    rest of the network stays as it is. Predictions are the fitted model's; `draws` are heads of
    the posterior.

    The prior has one precision for all entries of the head, weights and bias. For linear heads
    on frozen features these are of standardized features, as their own penalties are; for
    networks of the embeddings as they are.

    Args:
        learner: a learner, or its name, which ``laplace:<name>`` gives.
        covariance: ``"kron"`` (two small matrices) or ``"full"`` (all pairs of weights, up to
            `FULL_LIMIT` of them); see `head_curvature`.
        prior_precision: t > 0; None takes the likeliest, see `likeliest_precision`.
        options: of the learner, where a name is given.

    Raises:
        InputError: an option out of range, or what `make_learner` refuses; at the fit, a model
            without a linear head.

    Source:
        Daxberger et al., "Laplace Redux: Effortless Bayesian Deep Learning", NeurIPS 2021 (last
        layer and Kronecker factors are its defaults); Ritter, Botev & Barber, "A Scalable
        Laplace Approximation for Neural Networks", ICLR 2018. The prior is added to the
        eigenvalues of the Kronecker product, not to its factors.

    >>> inputs, labels = Rows([[-2.0], [-1.0], [1.0], [2.0]]), torch.tensor([0, 0, 1, 1])
    >>> learner = Laplace("logistic", penalty=1.0)
    >>> model = learner.fit(inputs, torch.arange(4), labels, classes=2, seed=0)
    >>> draws = model.draws(Rows([[0.5], [50.0]]), samples=200, seed=0)
    >>> draws.shape
    torch.Size([200, 2, 2])
    """

    def __init__(
        self,
        learner: str | Learner,
        *,
        covariance: Covariance = "kron",
        prior_precision: float | None = None,
        **options: Any,
    ) -> None:
        if covariance not in ("kron", "full"):
            raise InputError(f"covariance must be 'kron' or 'full', got {covariance!r}")
        if prior_precision is not None and not 0 < prior_precision < math.inf:
            raise InputError(f"prior_precision must be positive, got {prior_precision!r}")
        self.learner = make_learner(learner, **options)
        self.covariance: Covariance = covariance
        self.prior_precision = prior_precision
        self.name = f"laplace:{self.learner.name}"

    def signature(self) -> dict[str, Any]:
        """Name, options, and the signature of the learner."""
        return {
            "name": self.name,
            "version": 1,
            "covariance": self.covariance,
            "prior_precision": self.prior_precision,
            "learner": self.learner.signature(),
        }

    def fit(
        self,
        inputs: Rows,
        rows: Tensor,
        labels: Tensor,
        *,
        classes: int,
        seed: int,
        unlabeled: Tensor | None = None,
    ) -> LaplaceModel:
        """Fit the learner, then the posterior of its head; see `Learner.fit`.

        Rows that the learner keeps apart for early stopping count in the curvature as well.

        Raises:
            InputError: what the learner refuses, or a model without a linear head.
            ResourceError: a full covariance of too many entries.
        """
        check_fit(inputs, rows, labels, classes)
        model = self.learner.fit(
            inputs, rows, labels, classes=classes, seed=seed, unlabeled=unlabeled
        )
        if model.head_weight is None:
            raise InputError(
                f"laplace needs a model with a linear head, and {self.learner.name!r} gives none"
            )
        seen = model.predict(inputs, rows)
        x = Rows(seen.embeddings).tensor()
        features = torch.ones(len(x), x.shape[1] + 1, dtype=torch.float64)
        features[:, :-1] = x
        x = features[:, :-1]
        mean, scale = torch.zeros_like(x[0]), torch.ones_like(x[0])
        if isinstance(model, LinearModel):
            mean, scale = feature_units(x)
            x.sub_(mean).div_(scale)
        weight = model.head_weight.cpu().double()
        bias = torch.zeros(classes, dtype=torch.float64)
        if model.head_bias is not None:
            bias = model.head_bias.cpu().double()
        head = torch.cat([weight * scale, (bias + weight @ mean)[:, None]], 1)
        curvature = head_curvature((features @ head.T).softmax(1), features, self.covariance)
        precision = self.prior_precision or likeliest_precision(head, curvature)
        return LaplaceModel(model, curvature, precision, mean, scale)


class LaplaceModel:
    """A fitted model with a posterior over its head.

    Everything but `draws` is the fitted model's own.

    Attributes:
        model: the fitted model.
        curvature: of the labeled rows in the head's weights.
        prior_precision: the one used.
    """

    def __init__(
        self, model: Model, curvature: Curvature, precision: float, mean: Tensor, scale: Tensor
    ) -> None:
        self.model = model
        self.classes = model.classes
        self.head_weight = model.head_weight
        self.head_bias = model.head_bias
        self.curvature = curvature
        self.prior_precision = precision
        self._mean = mean
        self._scale = scale

    def predict(self, inputs: Rows, rows: Tensor | None = None) -> Outputs:
        """The fitted model's outputs, at the posterior's mean."""
        return self.model.predict(inputs, rows)

    def head_noise(self, samples: int, seed: int) -> tuple[Tensor, Tensor]:
        """What samples of the head differ by from the fitted one.

        Args:
            samples: S, at least 1. seed: sample s is decided by it and s.

        Returns:
            Weights (S, C, D) and biases (S, C), float64, of embeddings as the model gives them.

        Raises:
            InputError: samples below 1.
        """
        if samples < 1:
            raise InputError(f"samples must be at least 1, got {samples}")
        shape = (self.classes, len(self._mean) + 1)
        weights, biases = [], []
        for sample in range(samples):
            stream = torch_stream(seed, "draws", sample)
            white = torch.randn(shape, generator=stream, dtype=torch.float64)
            noise = self.curvature.spread(white, self.prior_precision)
            weight = noise[:, :-1] / self._scale
            weights.append(weight)
            biases.append(noise[:, -1] - weight @ self._mean)
        return torch.stack(weights), torch.stack(biases)

    def draws(self, inputs: Rows, *, samples: int, seed: int) -> Tensor:
        """Class distributions by heads drawn from the posterior, each the same for all rows.

        Args:
            inputs: (N, ...). samples: S. seed: decides the heads.

        Returns:
            (S, N, C) float32 on the CPU.

        Raises:
            InputError: samples below 1, or rows of another shape.
        """
        weights, biases = self.head_noise(samples, seed)
        found = self.model.predict(inputs)
        assert found.logits is not None  # a model with a linear head has logits
        out = torch.empty(samples, len(inputs), self.classes)
        embeddings = Rows(found.embeddings)
        for start, block in embeddings.blocks():
            x = block.cpu().double()
            logits = found.logits[start : start + len(block)].cpu().double()
            for sample in range(samples):
                moved = logits + torch.addmm(biases[sample], x, weights[sample].T)
                out[sample, start : start + len(block)] = moved.softmax(1).float()
        return out

    def logits(self, inputs: Tensor) -> Tensor:
        """(n, C) logits at the posterior's mean, differentiable by the inputs.

        Raises:
            InputError: the model has no gradients.
        """
        if not isinstance(self.model, DifferentiableModel):
            raise InputError(f"{type(self.model).__name__} gives no logits of a tensor")
        return self.model.logits(inputs)

    @property
    def hidden_weights(self) -> list[Tensor] | None:
        """Those of the fitted model, where it is a perceptron."""
        if not isinstance(self.model, PiecewiseLinearModel):
            return None
        return self.model.hidden_weights

    def activations(self, inputs: Rows) -> Tensor:
        """(N, H) outputs of the fitted model's hidden layers.

        Raises:
            InputError: it is no perceptron.
        """
        if not isinstance(self.model, PiecewiseLinearModel):
            raise InputError(f"{type(self.model).__name__} has no hidden layers")
        return self.model.activations(inputs)

    def objective_evidence(self, inputs: Rows) -> list[Callable[[], object]]:
        """What the objectives of the fit can say; see `NetworkModel.objective_evidence`."""
        if not isinstance(self.model, InstructedModel):
            return []
        return self.model.objective_evidence(inputs)
