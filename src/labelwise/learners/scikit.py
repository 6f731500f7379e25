"""Any scikit-learn classifier that gives probabilities."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels import Rows, derive, linear
from labelwise.learners.base import Outputs, check_fit


class Scikit:
    """A scikit-learn classifier as a learner.

    Every fit makes a new one; where it has a ``random_state`` that was not given, that is
    derived from the seed. A class that no labeled row shows gets probability zero. Logits and a
    head are given for linear classifiers whose softmax the probabilities are. Inputs with more
    dimensions than two are flattened.

    Args:
        classifier: a class, or its dotted path such as
            ``"sklearn.ensemble.RandomForestClassifier"``.
        options: its keyword arguments.

    Raises:
        InputError: no such class, options it does not take, or one without ``predict_proba``.
    """

    def __init__(self, classifier: str | type, **options: Any) -> None:
        self._class = _find(classifier) if isinstance(classifier, str) else classifier
        self._path = f"{self._class.__module__}.{self._class.__qualname__}"
        self._options = options
        self.name = f"sklearn:{classifier if isinstance(classifier, str) else self._path}"
        made = self._make(0)
        if not hasattr(made, "predict_proba"):
            raise InputError(
                f"{self._path} has no predict_proba with these options, and strategies need "
                "probabilities; choose a classifier that has it"
            )

    def signature(self) -> dict[str, Any]:
        """Name, options and the version of scikit-learn."""
        import sklearn

        options = {option: repr(value) for option, value in sorted(self._options.items())}
        return {"name": self.name, "options": options, "sklearn": sklearn.__version__}

    def fit(
        self,
        inputs: Rows,
        rows: Tensor,
        labels: Tensor,
        *,
        classes: int,
        seed: int,
        unlabeled: Tensor | None = None,
    ) -> ScikitModel:
        """Fit a fresh classifier on the labeled rows.

        Raises:
            InputError: a labeled set that `check_fit` refuses, or that the classifier refuses;
                its own message is passed on.
        """
        check_fit(inputs, rows, labels, classes)
        present = torch.unique(labels).cpu()
        if len(present) == 1:
            return ScikitModel(None, present, classes)
        classifier = self._make(derive(seed, "weights") % 2**31)
        try:
            classifier.fit(_features(inputs.take(rows)), labels.cpu().numpy())
        except ValueError as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{self._path} refuses the labeled rows: {reason}") from error
        return ScikitModel(classifier, present, classes)

    def _make(self, random_state: int) -> Any:
        """A new classifier; those among its options get the random state as well."""
        from sklearn.base import clone

        try:
            made = self._class(**self._options)
        except TypeError as error:
            raise InputError(f"{self._path} does not take these options: {error}") from error
        if not hasattr(made, "get_params"):
            raise InputError(f"{self._path} is no scikit-learn classifier: it has no get_params")
        made = clone(made)  # classifiers among the options are copied, not changed
        unset = {
            parameter: random_state
            for parameter, value in made.get_params().items()
            if (parameter == "random_state" or parameter.endswith("__random_state"))
            and value is None
        }
        return made.set_params(**unset)


class ScikitModel:
    """A fitted scikit-learn classifier, or the single class that was ever seen.

    Attributes:
        classes: C.
        head_weight: (C, D) float32 and head_bias: (C,) for a linear classifier whose softmax
            gives its probabilities and that was shown every class; otherwise None.
    """

    def __init__(self, classifier: Any, present: Tensor, classes: int) -> None:
        self.classes = classes
        self.classifier = classifier
        self.head_weight: Tensor | None = None
        self.head_bias: Tensor | None = None
        self._present = present
        if classifier is not None and len(present) == classes:
            self._take_head()

    def predict(self, inputs: Rows, rows: Tensor | None = None) -> Outputs:
        """Outputs of some rows, or of all, block by block."""
        count = len(inputs) if rows is None else len(rows)
        probs = torch.zeros(count, self.classes)
        logits = None if self.head_weight is None else torch.empty(count, self.classes)
        size = inputs.block_size()
        for start in range(0, count, size):
            stop = min(start + size, count)
            block = inputs.block(start, stop) if rows is None else inputs.take(rows[start:stop])
            features = _features(block)
            if self.classifier is None:
                probs[start:stop, self._present] = 1.0
            else:
                answers = self.classifier.predict_proba(features)
                probs[start:stop, self._present] = torch.from_numpy(answers).float()
            if logits is not None:
                assert self.head_weight is not None
                logits[start:stop] = linear(
                    torch.from_numpy(features), self.head_weight, self.head_bias
                )
        probs /= probs.sum(1, keepdim=True)
        return Outputs(logits, probs, inputs if rows is None else inputs.take(rows))

    def _take_head(self) -> None:
        """The weights of a classifier whose probabilities are the softmax of a linear function."""
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
        from sklearn.linear_model import LogisticRegression

        made = self.classifier
        if not isinstance(made, LogisticRegression | LinearDiscriminantAnalysis):
            return
        one_by_one = "ovr" in str(getattr(made, "multi_class", "")) or made.solver == "liblinear"
        if one_by_one and self.classes > 2:
            return  # its probabilities are normalized sigmoids, not a softmax
        weight = torch.from_numpy(np.asarray(made.coef_, np.float32))
        bias = torch.from_numpy(np.asarray(made.intercept_, np.float32))
        bias = bias.expand(len(weight))
        if len(weight) == 1:  # two classes: one function, its sign turned for the first class
            weight = torch.cat([-weight, weight]) / 2
            bias = torch.cat([-bias, bias]) / 2
        self.head_weight, self.head_bias = weight, bias


def _find(path: str) -> type:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name) if module else None
    except (ImportError, AttributeError):
        found = None
    if not isinstance(found, type):
        raise InputError(
            f"no class is called {path!r}; give a dotted path such as "
            "'sklearn.ensemble.RandomForestClassifier'"
        )
    return found


def _features(block: Tensor) -> NDArray[np.float32]:
    """(n, D) float32, as scikit-learn takes it."""
    array: NDArray[np.float32] = block.reshape(len(block), -1).float().cpu().numpy()
    return array
