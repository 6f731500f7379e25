"""Deep ensembles: members that differ by their seed alone are samples of a posterior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels import Rows, derive, numpy_stream
from labelwise.learners.base import Learner, Model, Outputs, check_fit
from labelwise.learners.many import Job, fit_many
from labelwise.learners.recipe import validation_split
from labelwise.learners.registry import make_learner


class Ensemble:
    """Several fits of one learner, each from a seed of its own; together they predict the mean.

    Member m is the fit that the learner makes alone of the seed ``derive(seed, "member", m)``:
    other initial weights, another order, other augmentations, the same labels. Small networks are
    fitted together, see `fit_many`, which rounds differently.

    Args:
        learner: a learner, or its name, which ``ensemble:<name>`` gives.
        members: M, at least 2.
        share: in (0, 1], of each class's labels that a member is fitted on, drawn anew for each.
            Below 1 it is bagging without replacement (Buehlmann & Yu, Annals of Statistics 2002),
            for learners that the seed hardly moves, such as ``logistic``. A class never gives
            its last label, so one label a class leaves all members with the same.
        options: of the learner, where a name is given.

    Raises:
        InputError: a number out of range, or what `make_learner` refuses.

    Source:
        Lakshminarayanan, Pritzel & Blundell, "Simple and Scalable Predictive Uncertainty
        Estimation using Deep Ensembles", NeurIPS 2017; without its adversarial training, which
        it calls optional. As posterior samples for queries: Beluch et al., CVPR 2018.
    """

    def __init__(
        self, learner: str | Learner, *, members: int = 5, share: float = 1.0, **options: Any
    ) -> None:
        if not isinstance(members, int) or members < 2:
            raise InputError(f"members must be at least 2, got {members!r}")
        if not 0 < share <= 1:
            raise InputError(f"share must be in (0, 1], got {share!r}")
        self.learner = make_learner(learner, **options)
        self.members = members
        self.share = float(share)
        self.name = f"ensemble:{self.learner.name}"

    def signature(self) -> dict[str, Any]:
        """Name, members, share, and the signature of the learner."""
        return {
            "name": self.name,
            "version": 1,
            "members": self.members,
            "share": self.share,
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
    ) -> EnsembleModel:
        """Fit every member; see `Learner.fit`.

        Raises:
            InputError: what the learner refuses.
        """
        check_fit(inputs, rows, labels, classes)
        apart = 1 - self.share if int(labels.bincount().max()) > 1 else 0.0
        jobs = []
        for number in range(self.members):
            own = derive(seed, "member", number)
            kept, _ = validation_split(labels, apart, derive(own, "share"))
            jobs.append(Job(rows[kept], labels[kept], own, unlabeled))
        return EnsembleModel(fit_many(self.learner, inputs, jobs, classes=classes).models)


class EnsembleModel:
    """The fitted members.

    It has no linear head of its own: the mean of softmaxes is the softmax of no linear function.

    Args:
        models: M of them, of as many classes.

    Attributes:
        classes: C.
        members: the models.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        self.members = tuple(models)
        self.classes = models[0].classes
        self.head_weight: Tensor | None = None
        self.head_bias: Tensor | None = None

    def predict(self, inputs: Rows, rows: Tensor | None = None) -> Outputs:
        """Mean probabilities, their logarithms as logits, and all members' embeddings.

        The embeddings are the members' side by side, divided by sqrt(M): a squared distance is
        the mean of the members'. Where the members see rows as they are given (linear heads) so
        does the ensemble. Without logits of every member there are none.
        """
        logs: Tensor | None = None
        mean: Tensor | None = None
        seen: list[Rows | Tensor] = []
        with_logits = True
        for member in self.members:
            found = member.predict(inputs, rows)
            mean = found.probs.clone() if mean is None else mean.add_(found.probs)
            seen.append(found.embeddings)
            if found.logits is None:
                with_logits = False
            elif with_logits:
                # Summed as logarithms: a saturated mean still orders the classes.
                part = found.logits.float().log_softmax(1)
                logs = part if logs is None else torch.logaddexp(logs, part)
        assert mean is not None
        mean /= len(self.members)
        if not with_logits or logs is None:
            return Outputs(None, mean, self._together(seen, inputs, rows))
        logs = logs - math.log(len(self.members))
        return Outputs(logs, mean, self._together(seen, inputs, rows))

    def draws(self, inputs: Rows, *, samples: int, seed: int) -> Tensor:
        """Class distributions of the members, as samples of a posterior.

        Every member stands ``samples // M`` times, and as many as are left over once more, drawn
        by the seed without repetition. So ``samples=M`` (or a multiple) gives every member the
        same say, and fewer than M are different members.

        Args:
            inputs: (N, ...).
            samples: S, at least 1.
            seed: decides which members.

        Returns:
            (S, N, C) float32.

        Raises:
            InputError: samples below 1.
        """
        if samples < 1:
            raise InputError(f"samples must be at least 1, got {samples}")
        members = len(self.members)
        order = numpy_stream(seed, "draws").permutation(members)
        chosen = sorted(int(order[sample % members]) for sample in range(samples))
        out = torch.empty(samples, len(inputs), self.classes)
        for place, number in enumerate(chosen):
            if place and chosen[place - 1] == number:
                out[place] = out[place - 1]
            else:
                out[place] = self.members[number].predict(inputs).probs
        return out

    def _together(
        self, seen: list[Rows | Tensor], inputs: Rows, rows: Tensor | None
    ) -> Rows | Tensor:
        if all(each is inputs for each in seen):
            return inputs
        parts = [each.tensor() if isinstance(each, Rows) else each for each in seen]
        if rows is not None and all(torch.equal(parts[0], part) for part in parts[1:]):
            return parts[0]  # rows of the inputs, as linear heads see them
        return torch.cat(parts, 1) / math.sqrt(len(parts))
