"""Simulated annotation: what would each strategy have reached with the same labels?

For every seed all strategies start from the same initial set, split and weights; whatever is
drawn comes from a stream named for its purpose, so that one strategy's draws never shift
another's. A finished round is on disk before the next one starts: a run that was killed goes on
where it was, and ends in the same numbers.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from labelwise.benchmark.experience import write_experience
from labelwise.benchmark.journal import JOURNAL, Journal, Record, locked, state_after
from labelwise.benchmark.known import providers_of
from labelwise.benchmark.plan import StrategyEntry
from labelwise.benchmark.preparation import Prepared, default_cache, prepare
from labelwise.benchmark.progress import Event, Listener, Pace, Step
from labelwise.benchmark.results import (
    TABLE,
    Results,
    from_records,
    session,
    session_changes,
    write_table,
)
from labelwise.benchmark.together import run_together
from labelwise.errors import InputError
from labelwise.kernels import Rows, derive
from labelwise.learners import Encoder, Learner
from labelwise.learners.encoding import encode_data
from labelwise.learners.given_by import who_gives
from labelwise.loop import (
    Loop,
    Oracle,
    Provider,
    Round,
    SingleLabel,
    State,
    oracle_evidence,
)

if TYPE_CHECKING:
    from labelwise.benchmark.preparation import StrategyLike
    from labelwise.pools import Data
    from labelwise.strategies import Strategy


def simulate(
    data: Data,
    *,
    strategies: str | Sequence[StrategyLike],
    initial: int,
    batch: int,
    rounds: int,
    seeds: int | Sequence[int] = 5,
    out: str | os.PathLike[str],
    learner: str | Learner | None = None,
    encoder: str | Encoder | None = None,
    initial_set: Literal["random", "stratified"] = "random",
    samples: int = 10,
    full: bool = True,
    primary: Literal["area", "final"] = "area",
    ood: Sequence[str] = (),
    together: bool | int = False,
    evidence: Mapping[str, Any] | None = None,
    cache: str | os.PathLike[str] | None = None,
    memory: int | str | None = None,
    progress: Listener | None = None,
) -> Results:
    """Compare strategies on labeled data, as if the labels were still to be paid for.

    Run the same call again after an interruption of any kind: finished rounds are not redone,
    and every column but the timings is what an uninterrupted run would have written.

    Args:
        data: items with labels and a test set, see `open_data`.
        strategies: names with options, ``"random,badge:first=uniform"``, or a sequence of such
            texts, of strategies, or of functions.
        initial: labels given before the first query; 0 is a cold start, without a model.
        batch: labels asked for in a round.
        rounds: queries. Round 0 is the initial set's, so curves have ``rounds + 1`` points.
        seeds: how many repetitions (seeds 0, 1, ...), or the seeds themselves.
        out: the results folder; created when absent, resumed when it holds this plan or the plan
            with fewer strategies.
        learner: a name or a learner; by default the one for the kind of items.
        encoder: a name or an encoder; by default the one for the kind of items.
        initial_set: drawn at ``"random"``, or ``"stratified"`` by class.
        samples: posterior samples, for strategies that use ``draws``.
        full: also fit one model to the whole pool, as an upper line, where time allows.
        primary: the endpoint whose tests are corrected together, kept in the plan.
        ood: classes that are out of distribution: their rows stay in the pool and cost a label
            where they are asked for, but nothing is trained or tested on them. Strategies that
            take private points get those found so far.
        together: fit seeds and strategies of a round as one group, or as groups of this many at
            most, see `fit_many`. Results differ by rounding; no strategies can be added later.
        evidence: what is known of each item beforehand, by name, such as ``costs``: arrays,
            ``.npy`` files, or the folder of a pretraining for its ``pretext_loss``.
        cache: folder of encodings, shared between runs; see `default_cache`.
        memory: a query's bound, bytes or text such as ``"4GB"``.
        progress: told of every step.

    Returns:
        The results, also in ``out/results.parquet`` (see `results.schema`).

    Raises:
        InputError: a plan that cannot be carried out, found before anything runs; or a strategy
            that needs what the learner's models lack, found after the first fit.
        DataError: a missing label or test set, or a single class.
        ResultsError: ``out`` holds another plan, is in use, damaged, or cannot be written.
        ResourceError: the disk is full; what is finished is kept.
    """
    prepared = prepare(
        data,
        strategies=strategies,
        learner=learner,
        encoder=encoder,
        initial=initial,
        batch=batch,
        rounds=rounds,
        seeds=seeds,
        initial_set=initial_set,
        samples=samples,
        full=full,
        primary=primary,
        ood=ood,
        together=together,
        evidence=evidence,
    )
    folder = Path(out)
    with locked(folder):
        if prepared.plan.extends(folder):
            (folder / TABLE).unlink(missing_ok=True)  # the journal has all of it
        prepared.plan.claim(folder)
        with Journal(folder / JOURNAL) as journal:
            run = Run(prepared, folder, journal, progress or _ignore, memory)
            run.finish(default_cache() if cache is None else Path(cache))
            results = from_records(folder, prepared.plan, journal.records)
            if not (folder / TABLE).exists():
                write_table(results)
            write_experience(folder, prepared.plan, journal.records)
    run.tell("done", f"results in {folder / TABLE}")
    return results


@dataclass
class Run:
    """One process's work on a results folder."""

    prepared: Prepared
    folder: Path
    journal: Journal
    listener: Listener
    memory: int | str | None

    def __post_init__(self) -> None:
        self.plan, self.pace = self.prepared.plan, Pace()
        ood = bool(self.plan.ood)
        self.task = SingleLabel(len(self.plan.data.classes) - ood, ood=ood)
        self.ids = self.prepared.data.pool.ids
        self.labels = dict(zip(self.ids, self.prepared.data.labels.tolist()))
        self.done: dict[tuple[str, int, int], Record] = {}
        # Counted, because every event tells what is left and a large plan has many thousand.
        self.left = Counter((name, self.plan.labels_at(r)) for name, _, r in self.todo())
        for record in self.journal.records:
            if record["kind"] == "round":
                self._note_round(record)

    def finish(self, cache: Path) -> None:
        """Do every round that is not in the journal, and the full-data fit."""
        total = len(self.todo())
        missing_full = self.plan.full and not self._has("full")
        if not total and not missing_full:
            return
        self._begin_session()
        if self.done:
            self.tell("resume", f"{len(self.done)} rounds found in {self.folder}, {total} to go")
        inputs, test = self._encode(cache)
        loops = (self._loop(inputs, test, seed) for seed in self.plan.seeds)
        if self.plan.together is not None:
            run_together(self, loops, self.plan.together)
        else:
            for loop in loops:
                self.run_seed(loop)
        if missing_full:
            self._fit_everything(self._loop(inputs, test, derive(self.plan.seeds[0], "full")))

    def todo(self) -> list[tuple[str, int, int]]:
        """Rounds that are not in the journal, as (strategy, seed, round), in running order."""
        plan = self.plan
        cells = (
            (entry.label, seed, round_)
            for seed in plan.seeds
            for entry in plan.strategies
            for round_ in range(plan.first_round, plan.rounds + 1)
        )
        return [cell for cell in cells if cell not in self.done]

    def tell(self, step: Step, message: str, done: int | None = None, total: int = 0) -> None:
        """Report an event; without numbers of its own it counts rounds."""
        if done is None:
            done, total = len(self.done), len(self.done) + self.left.total()
        self.listener(Event(step, done, total, message, self.pace.remaining(self.left)))

    def _encode(self, cache: Path) -> tuple[Rows, Rows]:
        def items(done: int, total: int) -> None:
            self.tell("encode", "encoding the items", done, total)

        encoded = encode_data(
            self.prepared.data,
            self.prepared.encoder,
            seed=self.plan.encoder_seed,
            cache=cache,
            progress=items,
        )
        assert encoded.test is not None  # `prepare` refuses data without a test set
        if not self._has("encoding"):
            self.journal.append({"kind": "encoding", "seconds": encoded.seconds})
        return encoded.pool, encoded.test

    def _loop(self, inputs: Rows, test: Rows, seed: int) -> Loop:
        return Loop(
            self.ids,
            inputs,
            self.prepared.learner,
            self.task,
            seed=seed,
            test=(test, self.prepared.test_labels.tolist()),
            samples=self.plan.samples,
            rounds=self.plan.rounds,
            memory=self.memory,
        )

    def run_seed(self, loop: Loop) -> None:
        """All strategies of one seed, from one initial fit that they share."""
        open_cells = {(strategy, seed) for strategy, seed, _ in self.todo()}
        entries = [e for e in self.plan.strategies if (e.label, loop.seed) in open_cells]
        if not entries:
            return
        self.tell("start", f"seed {loop.seed}: initial fit to {self.plan.initial} labels")
        start = loop.start(self.prepared.initial(loop.seed), Oracle(self.labels))
        for entry in entries:
            self.check_evidence(loop, entry, start)
        for entry in entries:
            self._run_cell(loop, entry, start)

    def check_evidence(self, loop: Loop, entry: StrategyEntry, start: Round) -> None:
        """Find out now, not hours later, that a model lacks what a strategy needs."""
        assert start.fitted is not None
        strategy = self.prepared.strategies[entry.label]
        providers = self.providers(strategy)
        missing = loop.missing(strategy, start.fitted, providers, entry.options)
        if missing:
            raise InputError(
                f"strategy {entry.name!r} needs {' and '.join(missing)}, which the models of "
                f"learner {self.prepared.learner.name!r} do not give: {who_gives(missing)}"
            )

    def providers(self, strategy: Strategy) -> tuple[Provider, ...]:
        """Evidence beyond the model's."""
        oracle = oracle_evidence(self.prepared.data.labels) if strategy.simulation_only else ()
        return (*providers_of(self.prepared.evidence), *oracle)

    def _run_cell(self, loop: Loop, entry: StrategyEntry, start: Round) -> None:
        """The rounds of one strategy and seed that are still to do."""
        if self.plan.initial and (entry.label, loop.seed, 0) not in self.done:
            self.keep(entry, loop.seed, start)
        current = self._restored(loop, entry, start)
        strategy = self.prepared.strategies[entry.label]
        for _ in range(current.state.round, self.plan.rounds):
            assert current.fitted is not None  # an oracle leaves nothing pending
            current = loop.run_round(
                current.state,
                Oracle(self.labels),
                strategy=strategy,
                n=self.plan.batch,
                fitted=current.fitted,
                options=entry.options,
                providers=self.providers(strategy),
            )
            self.keep(entry, loop.seed, current)

    def _restored(self, loop: Loop, entry: StrategyEntry, start: Round) -> Round:
        """The last finished round of a cell: its labels from the journal, its model fitted anew."""
        cell = [
            self.done[entry.label, loop.seed, round_]
            for round_ in range(self.plan.first_round, self.plan.rounds + 1)
            if (entry.label, loop.seed, round_) in self.done
        ]
        last = cell[-1] if cell else None
        if last is None or last["round"] == 0:
            again = start
        else:
            strategy = self.prepared.strategies[entry.label].name
            state = state_after(cell, self.labels)
            again = loop.resume(state.carry(strategy, last.get("carried")))
        if last:
            self.compare(entry, loop.seed, again, last)
        return again

    def compare(self, entry: StrategyEntry, seed: int, again: Round, last: Record) -> None:
        """Say so if a model that was fitted again is not as good as it was."""
        if any(last[name] != value for name, value in again.measures.items()):
            self._note(
                f"{entry.label}, seed {seed}, round {last['round']}: fitted again, the model "
                f"has accuracy {again.measures['accuracy']!r}, not {last['accuracy']!r} as before "
                "the interruption; what follows may differ from an uninterrupted run"
            )

    def keep(self, entry: StrategyEntry, seed: int, result: Round) -> None:
        """Write a finished round to the journal."""
        assert result.fitted is not None
        if result.fitted.model is None:
            raise InputError(
                f"{entry.label}, seed {seed}: all {len(result.state.ids)} labels so far are out of "
                "distribution, so there is no model to measure: raise initial or batch"
            )
        round_ = result.state.round
        scores = result.scores
        record: Record = {
            "kind": "round",
            "strategy": entry.label,
            "seed": seed,
            "round": round_,
            "initial": self.plan.initial,
            "labels": len(result.state.ids),
            **result.measures,
            "class_balance": result.balance.balance,
            "class_counts": list(result.balance.counts),
            "select_seconds": result.select_seconds,
            "train_seconds": result.fitted.seconds,
            "evaluate_seconds": result.evaluate_seconds,
            "picked_ids": list(result.picked),
            "picked_scores": None if scores is None else [float(score) for score in scores],
            "learner": self.prepared.learner.name,
        }
        carried = result.state.carried.get(self.prepared.strategies[entry.label].name)
        if carried is not None:  # all but the table: what the strategy goes on with
            record["carried"] = carried
        if result.state.pseudo:
            record["pseudo"] = [list(pair) for pair in result.state.pseudo]
        self.journal.append(record)
        self._note_round(record)
        self.tell(
            "round",
            f"seed {seed}, {entry.label}, round {round_}: {record['labels']} labels, "
            f"accuracy {record['accuracy']:.4f}",
        )

    def _fit_everything(self, loop: Loop) -> None:
        self.tell("full", f"fit to all {len(self.ids)} labels")
        state = State(tuple(self.ids), tuple(self.labels[item] for item in self.ids))
        result = loop.resume(state)
        assert result.fitted is not None
        record = {
            "kind": "full",
            "learner": self.prepared.learner.name,
            "labels": len(state.ids),
            **result.measures,
            "train_seconds": result.fitted.seconds,
            "seed": self.plan.seeds[0],
        }
        self.journal.append(record)

    def _begin_session(self) -> None:
        """Leave versions and machine in the journal; say so when they are not the first ones."""
        new = session()
        first = next((r for r in self.journal.records if r["kind"] == "session"), None)
        self.journal.append(new)
        changes = [] if first is None else list(session_changes(first, new))
        if changes:
            self._note(
                f"resumed under other conditions ({'; '.join(changes)}): "
                "rounds from here on need not be bit-identical to an uninterrupted run"
            )

    def _note(self, text: str) -> None:
        self.journal.append({"kind": "note", "text": text})
        self.tell("note", text)

    def _note_round(self, record: Record) -> None:
        key = (record["strategy"], record["seed"], record["round"])
        self.left[key[0], self.plan.labels_at(key[2])] -= key not in self.done
        self.done[key] = record
        fit = record["train_seconds"] + record["evaluate_seconds"]
        self.pace.observe(key[0], record["labels"], query=record["select_seconds"], fit=fit)

    def _has(self, kind: str) -> bool:
        return any(record["kind"] == kind for record in self.journal.records)


def _ignore(event: Event) -> None:
    """Nobody is listening."""
