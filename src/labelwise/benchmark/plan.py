"""The plan of a simulation: everything that determines its results, and nothing else.

It is written beside the results, and a folder that holds another plan is refused: two runs that
differ in anything but machine and time never share a table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from labelwise._version import __version__
from labelwise.benchmark.journal import JOURNAL, write_atomically
from labelwise.errors import InputError, ResultsError
from labelwise.options import Option, parse_value

FORMAT = 1
"""Layout of the results folder; raised when an older folder can no longer be read."""


class _Record(BaseModel):
    """Plain data: frozen, and closed to fields that nobody declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StrategyEntry(_Record):
    """A strategy with its options.

    Attributes:
        name: as `get_strategy` knows it, or the name of a function given in its stead.
        options: what was said on its behalf; everything else is the strategy's default.
        source: fingerprint of the code of a function given in the strategy's stead, or of the
            experience that a strategy starts from; None for any other strategy of the library,
            whose version the plan holds.
    """

    name: str
    options: dict[str, Option] = Field(default_factory=dict)
    source: str | None = None

    @property
    def label(self) -> str:
        """What tables and plots call it, and what `parse_strategy` reads back.

        >>> StrategyEntry(name="badge", options={"first": "uniform"}).label
        'badge:first=uniform'
        """
        return ":".join([self.name, *(f"{k}={_text(v)}" for k, v in self.options.items())])


class DataRecord(_Record):
    """Which data: its name and sizes for people, its fingerprint to tell it from any other."""

    name: str
    fingerprint: str
    items: int
    test_items: int
    classes: list[str]


class Plan(_Record):
    """What a simulation will do.

    Attributes:
        format: layout of the folder.
        version: of labelwise.
        data: which pool, test set and labels.
        encoder: the encoder's signature.
        encoder_seed: the seed of its unsupervised fit.
        learner: the learner's signature.
        strategies: in the order they run.
        initial: labels of the initial set, the same for every strategy; 0 is a cold start.
        initial_set: how it is drawn: ``"random"``, or ``"stratified"`` in the classes' own
            proportions with every class at least once where ``initial`` allows.
        batch: labels asked for a round.
        rounds: queries after the initial set. Round 0 is the initial fit, so that a curve has
            ``rounds + 1`` points (``rounds`` after a cold start).
        seeds: of the repetitions.
        samples: posterior samples, for strategies that use ``draws``.
        full: whether one model is fitted to the whole pool, as an upper line.
        primary: the endpoint whose tests are corrected together, declared beforehand.
        ood: classes that are out of distribution, together the last of the data's classes.
        together: fits that go as one group at most, see `simulate`; None fits one after another.
        evidence: a checksum of what is known of the items beforehand, by name.
    """

    format: int = FORMAT
    version: str = __version__
    data: DataRecord
    encoder: dict[str, Any]
    encoder_seed: int = 0
    learner: dict[str, Any]
    strategies: list[StrategyEntry]
    initial: int
    initial_set: Literal["random", "stratified"] = "random"
    batch: int
    rounds: int
    seeds: list[int]
    samples: int = 10
    full: bool = True
    primary: Literal["area", "final"] = "area"
    ood: list[str] = Field(default_factory=list)
    together: int | None = None
    evidence: dict[str, str] = Field(default_factory=dict)

    def check(self) -> Plan:
        """Refuse a plan that cannot be carried out, before anything runs; returns itself.

        Raises:
            InputError: the pool cannot pay the budget, or a list is empty or repeats itself.
        """
        # No pydantic validator: it would wrap our one line into several of its own.
        check_budget(
            initial=self.initial,
            batch=self.batch,
            rounds=self.rounds,
            available=self.data.items,
        )
        labels = [entry.label for entry in self.strategies]
        twice = {label for label in labels if labels.count(label) > 1}
        if twice:
            raise InputError(f"strategies must be distinct, got {min(twice)!r} more than once")
        if not labels:
            raise InputError("strategies is empty: name at least one, such as 'random'")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds must be distinct and at least one, got {self.seeds}")
        if self.together is not None and self.together < 1:
            raise InputError(f"together must be at least 1, got {self.together}")
        if self.samples < 1:
            raise InputError(f"samples must be at least 1, got {self.samples}")
        return self

    @property
    def first_round(self) -> int:
        """The first round with a model: 0, or 1 after a cold start."""
        return 0 if self.initial else 1

    @property
    def points(self) -> int:
        """Rows of the table that a strategy has for each seed."""
        return self.rounds + 1 - self.first_round

    def labels_at(self, round_: int) -> int:
        """Labels paid for once that round's answers are in."""
        return self.initial + round_ * self.batch

    def write(self, folder: Path) -> None:
        """Write ``plan.json`` into a results folder, whole or not at all."""
        text = self.model_dump_json(indent=2) + "\n"
        write_atomically(folder / "plan.json", lambda file: file.write(text.encode()))

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """The plan of a results folder.

        Raises:
            ResultsError: there is none, or it is not one of this version's.
        """
        path = folder / "plan.json"
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ResultsError(
                f"{folder} holds no plan.json: name a folder that `simulate` wrote"
            ) from None
        try:
            record = json.loads(text)
            found = record.get("format"), record.get("version")
            if found[0] != FORMAT:
                raise ResultsError(
                    f"{path} has format {found[0]!r} (labelwise {found[1]}) and this version "
                    f"reads format {FORMAT}: choose another folder"
                )
            return cls.model_validate(record).check()
        except (ValidationError, json.JSONDecodeError, AttributeError, InputError) as error:
            first = str(error).splitlines()[0]
            raise ResultsError(f"{path} is no plan of labelwise ({first})") from error

    def claim(self, folder: Path) -> None:
        """Make a results folder this plan's own, or refuse it.

        Raises:
            ResultsError: it holds another plan, or a journal without one.
        """
        if self.extends(folder):
            self.write(folder)
        elif (folder / "plan.json").exists():
            self.check_same(Plan.read(folder), folder)
        elif (folder / JOURNAL).exists():
            raise ResultsError(
                f"{folder} has a {JOURNAL} but no plan.json to say what it is of: "
                "choose another folder, or delete this one"
            )
        else:
            self.write(folder)

    def extends(self, folder: Path) -> bool:
        """Whether the folder's plan is this one with fewer strategies, none of them another."""
        # Which fits make a group depends on the strategies, so groups admit no more of them.
        if self.together is not None or not (folder / "plan.json").exists():
            return False
        there = Plan.read(folder)
        if any(entry not in self.strategies for entry in there.strategies):
            return False
        wider = there.model_copy(update={"strategies": self.strategies})
        return wider == self and len(there.strategies) < len(self.strategies)

    def check_same(self, other: Plan, folder: Path) -> None:
        """Refuse a folder that holds another plan.

        Raises:
            ResultsError: names the first field that differs, and both values.
        """
        for field in type(self).model_fields:
            found = first_difference(getattr(other, field), getattr(self, field), field)
            if found:
                path, theirs, ours = found
                raise ResultsError(
                    f"{folder} holds results of another plan: {path} is {_short(theirs)} there "
                    f"and {_short(ours)} now. Choose another folder, or delete this one"
                )


def check_budget(*, initial: int, batch: int, rounds: int, available: int) -> None:
    """Refuse a budget that the pool cannot pay, before anything runs.

    Raises:
        InputError: a number out of its range, or more labels than the pool has.

    >>> check_budget(initial=10, batch=50, rounds=2, available=100)
    Traceback (most recent call last):
    labelwise.errors.InputError: initial + rounds x batch = 10 + 2 x 50 = 110 labels, but the
    pool has 100: at most 1 round of 50 fits
    """
    for name, value, least in (("initial", initial, 0), ("batch", batch, 1), ("rounds", rounds, 0)):
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    if not initial and not rounds:
        raise InputError("initial is 0 and rounds is 0: there is nothing to label, raise either")
    if initial + rounds * batch <= available:
        return
    fit = max(0, available - initial) // batch
    advice = f"at most {fit} round{'s' * (fit != 1)} of {batch} fits"
    if initial > available:
        advice = f"initial must be at most {available}"
    raise InputError(
        f"initial + rounds x batch = {initial} + {rounds} x {batch} = "
        f"{initial + rounds * batch} labels, but the pool has {available}: {advice}"
    )


def parse_strategy(text: str) -> StrategyEntry:
    """A strategy as written on the command line: ``name`` or ``name:option=value:...``.

    Values read as ``true``, ``false``, ``none``, an integer or a number where they look like
    one, and as text otherwise.

    Raises:
        InputError: an empty name, a part without ``=``, or an option given twice.

    >>> parse_strategy("badge:first=uniform:trials=2").options
    {'first': 'uniform', 'trials': 2}
    """
    name, *parts = (part.strip() for part in text.split(":"))
    if not name:
        raise InputError(f"a strategy needs a name, got {text!r}: write 'badge:first=uniform'")
    options: dict[str, Option] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not key or not value:
            raise InputError(f"option {part!r} of {text!r} must be written name=value")
        if key in options:
            raise InputError(f"option {key!r} of {text!r} is given twice")
        options[key] = parse_value(value)
    return StrategyEntry(name=name, options=options)


def parse_strategies(text: str) -> list[StrategyEntry]:
    """Several strategies, separated by commas.

    >>> [entry.label for entry in parse_strategies("random, badge:first=uniform")]
    ['random', 'badge:first=uniform']
    """
    return [parse_strategy(part) for part in text.split(",") if part.strip()]


def first_difference(a: Any, b: Any, path: str) -> tuple[str, Any, Any] | None:
    """Where two records first differ: the dotted path and both values; None when they do not.

    >>> first_difference({"k": [1, 2]}, {"k": [1, 3]}, "data")
    ('data.k[1]', 2, 3)
    """
    a, b = _plain(a), _plain(b)
    pairs: Iterable[tuple[str, Any, Any]]
    if isinstance(a, Mapping) and isinstance(b, Mapping) and a.keys() == b.keys():
        pairs = ((f"{path}.{key}", a[key], b[key]) for key in a)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = ((f"{path}[{i}]", x, y) for i, (x, y) in enumerate(zip(a, b)))
    else:
        return None if type(a) is type(b) and a == b else (path, a, b)
    return next((found for p, x, y in pairs if (found := first_difference(x, y, p))), None)


def _plain(value: Any) -> Any:
    if isinstance(value, StrategyEntry):
        return value.label if value.source is None else f"{value.label} (source {value.source})"
    return value.model_dump() if isinstance(value, BaseModel) else value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _text(value: Option) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
