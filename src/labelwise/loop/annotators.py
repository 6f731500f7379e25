"""Who gives labels: people, a model, or an oracle that stands in for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from labelwise.errors import InputError
from labelwise.loop.tasks import Label


class Annotator(Protocol):
    """Answers queries, at once or later."""

    def annotate(self, ids: Sequence[str]) -> Mapping[str, Any]:
        """Labels of some of the items, by id.

        Args:
            ids: the items asked for that have no label yet, in pick order.

        Returns:
            What is known now. An item left out stays pending and is asked for again at the
            next call, so people may take their time; an item nobody asked for is refused.
        """
        ...


class NoAnswers:
    """An annotator who answers nothing yet: a round goes as far as it goes without labels.

    >>> NoAnswers().annotate(["dog.png"])
    {}
    """

    def annotate(self, ids: Sequence[str]) -> dict[str, Label]:
        """No label."""
        return {}


class Oracle:
    """An annotator that knows the truth and answers at once: for simulations.

    Args:
        labels: the true label of every item that may be asked for, by id.

    >>> Oracle({"cat.png": 0, "dog.png": 1}).annotate(["dog.png"])
    {'dog.png': 1}
    """

    def __init__(self, labels: Mapping[str, Label]) -> None:
        self._labels = dict(labels)

    def annotate(self, ids: Sequence[str]) -> dict[str, Label]:
        """The true label of every item asked for.

        Raises:
            InputError: an item the oracle does not know.
        """
        unknown = [item for item in ids if item not in self._labels]
        if unknown:
            raise InputError(
                f"the oracle has no label for item {unknown[0]!r}: leave it out of the candidates"
            )
        return {item: self._labels[item] for item in ids}
