"""Rounds of several seeds and strategies in step, so that their fits go as groups.

Which fits make a group follows from the plan alone. A run that was interrupted fits the same
groups again, those whose rounds are finished included, so that it goes on from the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

from labelwise.benchmark.journal import Record, state_after
from labelwise.benchmark.plan import StrategyEntry
from labelwise.learners.many import fit_many, reason_apart
from labelwise.loop import Fitted, Loop, NoAnswers, Oracle, Round, State
from labelwise.strategies import call_needs

if TYPE_CHECKING:
    from labelwise.benchmark.simulate import Run
    from labelwise.learners import Model


@dataclass
class _Cell:
    """One strategy and seed.

    Attributes:
        entry: the strategy. loop: of the seed.
        current: the last round that is fitted.
        asked: the next one, as far as it goes without a fit.
        queried: the model that was asked, where the next query wants to know it.
    """

    entry: StrategyEntry
    loop: Loop
    current: Round | None = None
    asked: Round | None = None
    queried: Fitted | None = None


def run_together(run: Run, loops: Iterable[Loop], size: int) -> None:
    """Every round that is not in the journal, as many seeds at a time as make a group.

    A learner whose fits cannot go together runs as without groups, which gives the very same: in
    step, the models of all seeds and strategies would be held at once for nothing.

    Args:
        run: the simulation. loops: one a seed, in the plan's order.
        size: fits in a group at most.
    """
    seeds = max(1, size // len(run.plan.strategies))
    waiting = iter(loops)
    first = next(waiting)
    waiting = chain([first], waiting)
    apart = reason_apart(first.learner, first.inputs.shape[1:], first.task.classes)
    if apart:
        run.tell("note", f"fitted one after another: {apart}")
        for loop in waiting:
            run.run_seed(loop)
    while batch := list(islice(waiting, seeds)):
        Lockstep(run, batch, size).finish()


class Lockstep:
    """All strategies of some seeds, a round of all at a time.

    Args:
        run: the simulation: plan, journal and progress.
        loops: one a seed, in the plan's order.
        size: fits in a group at most.
    """

    def __init__(self, run: Run, loops: Sequence[Loop], size: int) -> None:
        self.run, self.plan, self.size = run, run.plan, size
        self.oracle = Oracle(run.labels)
        self.loops = list(loops)
        self.cells = [_Cell(entry, loop) for loop in loops for entry in self.plan.strategies]

    def finish(self) -> None:
        """Every round that is not in the journal."""
        last = [self._last(cell) for cell in self.cells]
        if min(last) == self.plan.rounds:
            return
        # What the slowest has done all have done: from there on everything is done in step.
        floor = max(min(last), 0)
        self._take_up(floor)
        for cell in self.cells:
            assert cell.current is not None
            self.run.check_evidence(cell.loop, cell.entry, cell.current)
        for round_ in range(floor + 1, self.plan.rounds + 1):
            for cell in self.cells:
                self._query(cell, round_)
            self._fit_asked(round_)

    def _last(self, cell: _Cell) -> int:
        """The last round of a cell that is in the journal; -1 for none."""
        done = [r for r in range(self.plan.rounds + 1) if self._record(cell, r) is not None]
        return max(done, default=-1)

    def _record(self, cell: _Cell, round_: int) -> Record | None:
        return self.run.done.get((cell.entry.label, cell.loop.seed, round_))

    def _take_up(self, floor: int) -> None:
        """Fit the models of a round again, as they were fitted then, or round 0 for the first time.

        A strategy that compares a model with the one before needs both from their groups.
        """
        if floor == 0 or (floor == 1 and self._anyone_compares()):
            self._start()
        if floor > 0:
            first = floor - self._anyone_compares()
            for round_ in range(max(first, 1), floor + 1):
                for cell in self.cells:
                    cell.queried = self._compared(cell)
                    cell.asked = self._finished(cell, round_)
                self._fit_asked(round_)

    def _start(self) -> None:
        """Round 0: a model a seed, shared by its strategies."""
        self.run.tell(
            "start", f"{len(self.loops)} seeds: initial fits to {self.plan.initial} labels"
        )
        initial = self.run.prepared.initial
        asked = [
            loop.finish(State().ask(initial(loop.seed), initial=True), NoAnswers())
            for loop in self.loops
        ]
        rounds = self._complete([(loop, one, None) for loop, one in zip(self.loops, asked)])
        starts = dict(zip((loop.seed for loop in self.loops), rounds))
        for cell in self.cells:
            cell.current = starts[cell.loop.seed]
            if self.plan.initial:
                self._settle(cell, 0)

    def _query(self, cell: _Cell, round_: int) -> None:
        """Ask a cell's strategy, or take what it picked from the journal."""
        assert cell.current is not None
        assert cell.current.fitted is not None
        cell.queried = self._compared(cell)
        if self._record(cell, round_) is not None:
            cell.asked = self._finished(cell, round_)
        else:
            strategy = self.run.prepared.strategies[cell.entry.label]
            cell.asked = cell.loop.run_round(
                cell.current.state,
                NoAnswers(),
                strategy=strategy,
                n=self.plan.batch,
                fitted=cell.current.fitted,
                options=cell.entry.options,
                providers=self.run.providers(strategy),
            )
        cell.current = None  # evidence of a pool is large, and nobody asks for it again

    def _finished(self, cell: _Cell, round_: int) -> Round:
        """A round that is in the journal, but for its model."""
        records = [self._record(cell, r) for r in range(self.plan.first_round, round_ + 1)]
        found = [record for record in records if record is not None]
        name = self.run.prepared.strategies[cell.entry.label].name
        state = state_after(found, self.run.labels).carry(name, found[-1].get("carried"))
        return Round(state, (), None, cell.loop.task.balance(()), None)

    def _fit_asked(self, round_: int) -> None:
        """The models of a round whose items have all been asked for."""
        todo = []
        for cell in self.cells:
            assert cell.asked is not None
            todo.append((cell.loop, cell.asked, cell.queried))
        for cell, done in zip(self.cells, self._complete(todo)):
            cell.current, cell.asked, cell.queried = done, None, None
            self._settle(cell, round_)

    def _complete(self, todo: Sequence[tuple[Loop, Round, Fitted | None]]) -> list[Round]:
        """Annotate, fit in groups, evaluate."""
        jobs = [loop.job(loop.annotate(asked.state, self.oracle)) for loop, asked, _ in todo]
        given = [job for job in jobs if job is not None]
        models: list[Model] = []
        start = time.perf_counter()
        if given:
            loop = todo[0][0]
            models = fit_many(
                loop.learner, loop.inputs, given, classes=loop.task.classes, group=self.size
            ).models
        seconds = (time.perf_counter() - start) / max(1, len(given))
        ready = iter(models)
        return [
            loop.finish(
                asked.state,
                self.oracle,
                scores=asked.scores,
                select_seconds=asked.select_seconds,
                previous=queried,
                made=None if job is None else (next(ready), seconds),
            )
            for (loop, asked, queried), job in zip(todo, jobs)
        ]

    def _settle(self, cell: _Cell, round_: int) -> None:
        """Keep a new round; compare one that was fitted again with what it was."""
        assert cell.current is not None
        record = self._record(cell, round_)
        if record is None:
            self.run.keep(cell.entry, cell.loop.seed, cell.current)
        else:
            self.run.compare(cell.entry, cell.loop.seed, cell.current, record)

    def _anyone_compares(self) -> bool:
        return any(self._compares(entry) for entry in self.plan.strategies)

    def _compares(self, entry: StrategyEntry) -> bool:
        strategy = self.run.prepared.strategies[entry.label]
        return "previous_probs" in call_needs(strategy, entry.options)

    def _compared(self, cell: _Cell) -> Fitted | None:
        """The model of the round that ends, for strategies that compare the next one with it."""
        if cell.current is None or not self._compares(cell.entry):
            return None
        return cell.current.fitted
