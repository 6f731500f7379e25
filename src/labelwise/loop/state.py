"""What a loop knows between two steps, as plain data: all it needs to go on another day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from labelwise.errors import InputError
from labelwise.loop.tasks import Label


@dataclass(frozen=True)
class State:
    """Who has been labeled, who has been asked for, and in which round.

    Frozen: every step returns a new state. Items are named by id, never by row, so that a state
    outlives a change of the pool's order.

    Attributes:
        ids: labeled items, in the order they were asked for.
        labels: their labels, in the task's form.
        pending: items asked for that have no label yet, in pick order.
        round: rounds begun; 0 is the initial set.
        carried: what strategies want back at their next query, by the strategy's name: see
            `labelwise.strategies.Picks`. Plain data, like the rest.
        pseudo: items that nobody labeled and the last query's strategy was sure of, with the
            labels it gave them. The round's model is fitted to these too; the next query drops
            them, and they may be asked for.
        before: how many items, of ``ids``, were labeled when the round began; None in round 0,
            or where it is not known.
        pseudo_before: ``pseudo`` of the round before.

    >>> state = State().ask(["b", "a"]).answer({"a": 1})
    >>> state.ids, state.labels, state.pending
    (('a',), (1,), ('b',))
    """

    ids: tuple[str, ...] = ()
    labels: tuple[Label, ...] = ()
    pending: tuple[str, ...] = ()
    round: int = 0
    carried: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pseudo: tuple[tuple[str, Label], ...] = ()
    before: int | None = None
    pseudo_before: tuple[tuple[str, Label], ...] = ()

    def ask(
        self,
        ids: Sequence[str],
        *,
        initial: bool = False,
        pseudo: Iterable[tuple[str, Label]] = (),
    ) -> State:
        """The state after a query.

        Args:
            ids: the items picked, in pick order.
            initial: they are the initial set, of round 0; else a new round begins.
            pseudo: items the strategy labels itself, with their labels, in place of those of
                the last query.

        Raises:
            InputError: an item is labeled, pending or named twice already.
        """
        known = set(self.ids) | set(self.pending)
        given = tuple((item, label) for item, label in pseudo)
        for item in (*ids, *(item for item, _ in given)):
            if item in known:
                raise InputError(f"item {item!r} is labeled or asked for already, or named twice")
            known.add(item)
        asked = replace(self, pending=self.pending + tuple(ids), pseudo=given)
        if initial:
            return asked
        return replace(asked, round=self.round + 1, before=len(self.ids), pseudo_before=self.pseudo)

    def previous(self) -> State | None:
        """Who was labeled when the model of the round before was fitted; None if not known.

        >>> state = State().ask(["a"], initial=True).answer({"a": 0}).ask(["b"]).answer({"b": 1})
        >>> state.ids, state.previous().ids
        (('a', 'b'), ('a',))
        """
        if self.round == 0 or self.before is None:
            return None
        return State(
            self.ids[: self.before],
            self.labels[: self.before],
            round=self.round - 1,
            pseudo=self.pseudo_before,
        )

    def answer(self, labels: Mapping[str, Label]) -> State:
        """The state after some answers; who has none stays pending.

        Raises:
            InputError: an answer about an item that nobody asked for.
        """
        asked = set(self.pending)
        stray = [item for item in labels if item not in asked]
        if stray:
            raise InputError(
                f"item {stray[0]!r} has a label but is not among the {len(self.pending)} pending "
                "items: answer only what was asked for"
            )
        new = [item for item in self.pending if item in labels]
        return replace(
            self,
            ids=self.ids + tuple(new),
            labels=self.labels + tuple(labels[item] for item in new),
            pending=tuple(item for item in self.pending if item not in labels),
        )

    def carry(self, strategy: str, state: Mapping[str, Any] | None) -> State:
        """The state with what a strategy left behind for its next query, if anything."""
        if state is None:
            return self
        return replace(self, carried={**self.carried, strategy: state})

    def drop_pending(self) -> State:
        """The state with its pending items given up: they are candidates again."""
        return replace(self, pending=())

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values; `from_dict` reads it back."""
        return {
            "ids": list(self.ids),
            "labels": list(self.labels),
            "pending": list(self.pending),
            "round": self.round,
            "carried": dict(self.carried),
            "pseudo": [list(pair) for pair in self.pseudo],
            "before": self.before,
            "pseudo_before": [list(pair) for pair in self.pseudo_before],
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> State:
        """The state that `to_dict` wrote."""
        return cls(
            tuple(record["ids"]),
            tuple(record["labels"]),
            tuple(record["pending"]),
            int(record["round"]),
            dict(record.get("carried", {})),
            tuple((item, label) for item, label in record.get("pseudo", ())),
            record.get("before"),
            tuple((item, label) for item, label in record.get("pseudo_before", ())),
        )
