"""The loop: round = query -> annotate -> fit -> evaluate, for people and oracles alike.

A `Loop` holds what does not change; a `State` is what does, and goes in and comes out. Labels come
from an `Annotator`, which may answer later: a round whose answers are not all in stops there, and
the same call takes it up again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Evidence, check
from labelwise.kernels import Rows, derive
from labelwise.learners import Learner, Model, UntrainedLearner
from labelwise.learners.evidence import model_evidence
from labelwise.learners.many import Job
from labelwise.loop.annotators import Annotator
from labelwise.loop.outcomes import Fitted, Made, Round
from labelwise.loop.shared import (
    Provider,
    SharedEvidence,
    cold_evidence,
    previous_evidence,
    private_evidence,
)
from labelwise.loop.state import State
from labelwise.loop.tasks import Balance, Label, Task
from labelwise.strategies import Picks, as_strategy, call_needs, select

if TYPE_CHECKING:
    from labelwise.strategies import Strategy

COLD_EVIDENCE = frozenset({"embeddings", "oracle_labels", "round", "rounds"})
"""What a strategy may need before there is a model (embeddings: of an encoder with a matrix)."""


class Loop:
    """Everything a loop needs that does not change from round to round.

    Args:
        ids: (N,) the pool's ids.
        inputs: (N, ...) the pool, encoded.
        learner: fits the models, each from nothing: the model of a round depends on the labels,
            the seed and the round alone, so a lost model can always be had again.
        task: what a label is.
        seed: of the run. The fit of round r draws from ``derive(seed, "fit", r)`` whatever the
            strategy, a query from ``derive(seed, "strategy", r)``, which `select` splits further
            by the strategy's name.
        candidates: rows that may be asked for; every row by default.
        test: (T, ...) encoded test items, and their labels in the task's form; without it
            nothing is evaluated. Never within a strategy's reach.
        samples: S, posterior samples where a strategy asks for ``draws``.
        rounds: how many queries there will be, for strategies that ask; None when it is open.
        memory: a query's bound, handed to `select`.

    Raises:
        InputError: lengths that do not fit, or a matrix of inputs that is not finite.
    """

    def __init__(
        self,
        ids: Sequence[str],
        inputs: Rows,
        learner: Learner,
        task: Task,
        *,
        seed: int = 0,
        candidates: NDArray[np.int64] | None = None,
        test: tuple[Rows, Sequence[Label]] | None = None,
        samples: int = 10,
        rounds: int | None = None,
        memory: int | str | None = None,
    ) -> None:
        if len(ids) != len(inputs):
            raise InputError(f"ids must be one a row of inputs: {len(ids)} ids, {len(inputs)} rows")
        if test is not None and len(test[0]) != len(test[1]):
            raise InputError(
                f"test labels must be one a test row: {len(test[1])} labels, {len(test[0])} rows"
            )
        # On frozen features the embeddings are the inputs themselves: checked here once, they
        # are not read through again in every round.
        self.inputs: Rows = check("embeddings", inputs) if inputs.ndim == 2 else inputs
        self.ids, self.learner, self.task = list(ids), learner, task
        self.seed, self.samples, self.rounds, self.memory = seed, samples, rounds, memory
        # Hashed once: a query over a million items would spend seconds on hashing their names.
        self._keys = np.array([derive(0, item) for item in self.ids], dtype=np.int64)
        self._row = {item: row for row, item in enumerate(self.ids)}
        every = np.arange(len(self.ids)) if candidates is None else candidates
        self._candidates = np.unique(np.asarray(every, dtype=np.int64))
        self._test = None if test is None else (test[0], task.target(test[1]))

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """(n,) int64 positions in the pool of some ids.

        Raises:
            InputError: an id the pool does not have.
        """
        unknown = [item for item in ids if item not in self._row]
        if unknown:
            raise InputError(f"item {unknown[0]!r} is not in the pool of {len(self.ids)} items")
        return np.array([self._row[item] for item in ids], dtype=np.int64)

    def candidates(self, state: State) -> NDArray[np.int64]:
        """(M,) int64 rows that may be asked for: neither labeled nor pending, ascending."""
        taken = self.rows(state.ids + state.pending)
        return np.setdiff1d(self._candidates, taken, assume_unique=True)

    def query(
        self,
        state: State,
        fitted: Fitted,
        strategy: str | Strategy,
        n: int,
        *,
        options: Mapping[str, Any] | None = None,
        providers: Sequence[Provider] = (),
    ) -> Picks:
        """Let a strategy pick n candidates; the state is left to `State.ask` and `State.carry`.

        Args:
            state: after the last round.
            fitted: the model of that round.
            strategy: a name, or a strategy.
            n: how many.
            options: the strategy's options.
            providers: more evidence than the model's, which goes before it.

        Raises:
            InputError: what `select` refuses, such as n above the candidates left.
        """
        ids, labels = self._inside(state)
        return select(
            strategy,
            n,
            seed=derive(self.seed, "strategy", state.round + 1),
            labeled=self.rows(ids),
            labels=self.task.target(labels),
            candidates=self.candidates(state),
            memory=self.memory,
            ids=self._keys,
            providers=(*providers, *fitted.evidence.providers, *self._private(state)),
            round=state.round,
            rounds=self.rounds,
            state=state.carried.get(as_strategy(strategy).name),
            **(options or {}),
        )

    def missing(
        self,
        strategy: Strategy,
        fitted: Fitted,
        providers: Sequence[Provider] = (),
        options: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """What a strategy needs and a model cannot give; to be asked before a long run.

        Args:
            strategy: whose needs are looked at, not computed.
            fitted: the model it would query.
            providers: more evidence than the model's.
            options: the strategy's options, which may name a picker or arms with needs.
        """
        given: dict[str, Any] = {"round": 0, "rounds": self.rounds}
        if fitted.model is not None:
            given |= {"labeled": [0], "labels": [0]}
        graph = Evidence(given, (*fitted.evidence.providers, *providers))
        return [name for name in call_needs(strategy, options or {}) if name not in graph]

    def annotate(self, state: State, annotator: Annotator) -> State:
        """Ask for what is pending, and take in what is answered.

        Raises:
            InputError: a label the task refuses, or an answer nobody asked for.
        """
        if not state.pending:
            return state
        answers = annotator.annotate(state.pending)
        checked = {item: self.task.check(item, label) for item, label in answers.items()}
        return state.answer(checked)

    def fit(self, state: State, previous: Fitted | None = None, made: Made | None = None) -> Fitted:
        """The model of a state, fitted from nothing; the same state gives the same model.

        Pseudo-labels count as much as others: learners know no weights.

        Args:
            state: nothing pending.
            previous: of the round before, where it is at hand. Without it that model is fitted
                again when a strategy asks for ``previous_probs``, and not before.
            made: what came of `job`, where it was fitted among others.
        """
        start = time.perf_counter()
        job = self.job(state)
        if job is None:
            return Fitted(None, state.round, 0.0, SharedEvidence(cold_evidence(self.inputs)))
        model = job.fit(self.learner, self.inputs, self.task.classes) if made is None else made[0]
        seconds = time.perf_counter() - start if made is None else made[1]
        providers = model_evidence(
            model,
            self.inputs,
            samples=self.samples,
            seed=derive(self.seed, "draws", state.round),
        )
        evidence = SharedEvidence((*providers, *self._earlier(state, previous)))
        return Fitted(model, state.round, seconds, evidence)

    def job(self, state: State) -> Job | None:
        """The fit of a state: what is labeled inside, and pseudo-labels; None without a label."""
        ids, labels = self._inside(state)
        if not ids:
            return None
        sure = [item for item, _ in state.pseudo], [label for _, label in state.pseudo]
        return Job(
            torch.from_numpy(self.rows([*ids, *sure[0]])),
            self.task.target([*labels, *sure[1]]),
            derive(self.seed, "fit", state.round),
            self._unlabeled(self.rows([*state.ids, *sure[0]])),
        )

    def _earlier(self, state: State, previous: Fitted | None) -> tuple[Provider, ...]:
        """What the model of the round before believes; in round 0 the network before its fit.

        Of the previous fit only what is needed is held on to. Where nothing was labeled then, or
        it is not known what was, there is no such model.
        """
        known = None if previous is None else previous.evidence.found("probs")
        held = None if previous is None or known is not None else previous.model
        before = state.previous()
        job = None if before is None or known is not None or held is not None else self.job(before)
        if state.round > 0 and known is None and held is None and job is None:
            return ()

        def model() -> Model | None:
            if held is not None:
                return held
            if job is not None:
                with torch.enable_grad():  # strategies are asked without
                    return job.fit(self.learner, self.inputs, self.task.classes)
            if not isinstance(self.learner, UntrainedLearner):
                return None
            seed = derive(self.seed, "fit", 0)
            return self.learner.untrained(self.inputs, classes=self.task.classes, seed=seed)

        return previous_evidence(known, model, self.inputs, self.task.classes)

    def evaluate(self, fitted: Fitted) -> dict[str, float]:
        """Measures of a model on the test set; empty without a test set or a model."""
        if self._test is None or fitted.model is None:
            return {}
        inputs, target = self._test
        return self.task.measures(fitted.model.predict(inputs), target)

    def resume(self, state: State) -> Round:
        """A finished round had again: the model and measures of a state with nothing pending.

        Nothing is asked for; the round's picks are not known here, so they are left empty.

        Raises:
            InputError: items are pending.
        """
        self._nothing_pending(state)
        return self._measured(state, (), self.task.balance(()), self.fit(state))

    def start(self, initial: Sequence[str], annotator: Annotator) -> Round:
        """Round 0: label the initial set, fit, evaluate. An empty one is a cold start."""
        return self.finish(State().ask(initial, initial=True), annotator)

    def run_round(
        self,
        state: State,
        annotator: Annotator,
        *,
        strategy: str | Strategy,
        n: int,
        fitted: Fitted,
        options: Mapping[str, Any] | None = None,
        providers: Sequence[Provider] = (),
    ) -> Round:
        """One whole round: query, annotate, fit, evaluate.

        Args:
            state: after the last round, nothing pending (else call `finish`).
            annotator: gives the labels.
            strategy: picks.
            n: how many.
            fitted: the model to query, of the last round.
            options: the strategy's options.
            providers: more evidence than the model's.

        Returns:
            The round; `Round.waiting` when the annotator left items open, which `finish` takes
            up again later.

        Raises:
            InputError: items are pending, or what `query` and `annotate` refuse.
        """
        self._nothing_pending(state)
        fitted.evidence.owed()
        start = time.perf_counter()
        picks = self.query(state, fitted, strategy, n, options=options, providers=providers)
        seconds = time.perf_counter() - start + fitted.evidence.owed()
        asked = state.ask([self.ids[row] for row in picks.rows], pseudo=self._pseudo(picks))
        asked = asked.carry(picks.strategy, picks.state)
        wants = "previous_probs" in call_needs(as_strategy(strategy), options or {})
        return self.finish(
            asked,
            annotator,
            scores=picks.scores,
            select_seconds=seconds,
            previous=fitted if wants else None,
        )

    def finish(
        self,
        state: State,
        annotator: Annotator,
        *,
        scores: NDArray[np.float64] | None = None,
        select_seconds: float = 0.0,
        previous: Fitted | None = None,
        made: Made | None = None,
    ) -> Round:
        """The rest of a round whose items have been asked for: annotate, fit, evaluate.

        Args:
            state: with its pending items.
            annotator: gives the labels.
            scores: of the pending items, handed through to the round.
            select_seconds: handed through to the round.
            previous: the model that was queried, where the next query will ask for it; see `fit`.
            made: the model, where it is there already; see `fit`.
        """
        before, picked = len(state.ids), state.pending
        state = self.annotate(state, annotator)
        balance = self.task.balance(state.labels[before:])
        if state.pending:
            return Round(state, picked, scores, balance, None, select_seconds=select_seconds)
        done = self._measured(state, picked, balance, self.fit(state, previous, made))
        return replace(done, scores=scores, select_seconds=select_seconds)

    def _measured(
        self, state: State, picked: tuple[str, ...], balance: Balance, fitted: Fitted
    ) -> Round:
        """Evaluate."""
        start = time.perf_counter()
        measures = self.evaluate(fitted)
        seconds = time.perf_counter() - start
        return Round(state, picked, None, balance, fitted, measures, evaluate_seconds=seconds)

    def _pseudo(self, picks: Picks) -> list[tuple[str, Label]]:
        """What the strategy labeled itself, by id."""
        if picks.pseudo_rows is None or picks.pseudo_labels is None:
            return []
        items = [self.ids[row] for row in picks.pseudo_rows]
        labels = zip(items, picks.pseudo_labels.tolist())
        return [(item, self.task.check(item, label)) for item, label in labels]

    def _nothing_pending(self, state: State) -> None:
        if state.pending:
            raise InputError(
                f"{len(state.pending)} items of round {state.round} wait for labels, such as "
                f"{state.pending[0]!r}: finish that round or drop them first"
            )

    def _inside(self, state: State) -> tuple[list[str], list[Label]]:
        """Labeled items that are not out of distribution, and their labels."""
        pairs = [pair for pair in zip(state.ids, state.labels) if self.task.inside(pair[1])]
        return [item for item, _ in pairs], [label for _, label in pairs]

    def _private(self, state: State) -> tuple[Provider, ...]:
        """What is out of distribution, as the points that picks should be unlike.

        Where it may yet be found there are none of them: that is another thing than no such set.
        """
        pairs = zip(state.ids, state.labels)
        foreign = [item for item, label in pairs if not self.task.inside(label)]
        if not foreign and not getattr(self.task, "ood", False):
            return ()
        return private_evidence(torch.from_numpy(self.rows(foreign)))

    def _unlabeled(self, labeled: NDArray[np.int64]) -> Tensor:
        """Rows that objectives may see without a label.

        Where all are labeled it is all of them: a learner that wants such rows is not to fail on
        the last labels of a pool, nor on the line of the full data.
        """
        every = np.arange(len(self.ids))
        rest = np.setdiff1d(every, labeled, assume_unique=True)
        return torch.from_numpy(rest if len(rest) else every)
