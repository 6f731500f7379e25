"""Self-supervised pretraining: a network learns from a pool without labels, and is kept."""

from __future__ import annotations

import copy
import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from labelwise._version import __version__
from labelwise.errors import InputError, ResourceError, ResultsError
from labelwise.kernels import Rows, derive
from labelwise.learners.checkpoint import CARD, Checkpoint, difference, write_in_place
from labelwise.learners.diagnostics import effective_rank, knn_accuracy, spread
from labelwise.learners.duration import Costs
from labelwise.learners.encoding import encode_data
from labelwise.learners.history import Passed
from labelwise.learners.network import NetworkLearner
from labelwise.learners.objectives import Objective
from labelwise.learners.parallel import Ranks
from labelwise.learners.pretext import PRETRAINING, write_evidence
from labelwise.learners.pretraining_recipes import (
    base_encoder,
    one_objective,
    pretraining_learner,
    without_epochs,
)
from labelwise.learners.saving import save_model
from labelwise.learners.training import Trained, train

if TYPE_CHECKING:
    from labelwise.pools import Data

FORMAT = 1
LOG, STATE, TIMING = "log.jsonl", "checkpoint", "timing"
EPOCHS, MOST_EPOCHS = 200, 1000
LOOKED_AT, VOTING = 10_000, 50_000
"""Rows whose embeddings are looked at, and rows that vote on the class of test items, at most."""

TIMED_SHARE, MOST_TIMED = 0.03, 30
"""Share of a promised time that steps are timed for at the start, and how many are at most."""


class Looked(NamedTuple):
    """What is told while pretraining goes on, after every epoch.

    Attributes:
        passed: where the fit is.
        left: seconds the rest will take.
        found: what was measured after this epoch, by name; empty where nothing was.
    """

    passed: Passed
    left: float
    found: dict[str, float]


class Pretraining(NamedTuple):
    """What `pretrain` leaves behind.

    Attributes:
        folder: for ``make_encoder("pretrained:<folder>")``.
        epochs, steps: made.
        seconds: of all of it, with what came before a break.
        loss: mean of the last epoch.
        minibatch: unlabeled rows in a step.
        found: ``spread``, ``effective_rank``, and where there are labels ``knn`` (each labeled
            row of the pool left out in turn) and ``knn_test`` (test items by the pool's labels).
    """

    folder: Path
    epochs: int
    steps: int
    seconds: float
    loss: float
    minibatch: int
    found: dict[str, float]


def pretrain(
    data: Data,
    out: Path | str,
    *,
    method: str | Objective = "simclr",
    network: str | NetworkLearner | None = None,
    network_options: dict[str, Any] | None = None,
    size: int | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    every: int = 10,
    cache: Path | str | None = None,
    listener: Callable[[Looked], None] | None = None,
    **recipe: Any,
) -> Pretraining:
    """Pretrain a network on a pool's items by an objective that needs no labels.

    Killed at any moment, the same call goes on from the last checkpoint and ends with the same
    weights; where all is done, it returns at once. Labels are only looked at to say how good the
    embeddings are. What comes out is an encoder: ``make_encoder("pretrained:<out>")``. Beside it
    lies what the method says of each item, if anything: ``rotation`` leaves ``pretext_loss.npy``.

    The default, SimCLR for 200 epochs with minibatches of 512, is what does best on CIFAR-10 in
    a quarter of an hour of one GPU; with more time BYOL and MoCo end higher.

    Args:
        data: the pool; a test set only measures.
        out: folder of the result, of the log (``log.jsonl``, a line an epoch) and of checkpoints.
        method: an objective, or its name with options, such as ``"simclr:temperature=0.5"``.
        network: a learner of networks; ``"resnet18"`` for images, else ``"mlp"``, by default.
        network_options: of the learner by name, such as ``{"width": 16}``.
        size: side of the images in pixels; None takes them as they are.
        epochs: passes over the pool; 200 by default.
        minutes: instead of epochs: as many as are expected to take this long, of the whole call.
            Some steps and a look at the embeddings are timed at the start; from then on the
            number is settled, whatever else the machine does later.
        seed: of weights, order and looks.
        every: epochs between checkpoints, and between looks at the embeddings.
        cache: folder where decoded items are kept; None keeps them in memory.
        listener: told after every epoch.
        recipe: fields of `Recipe` to change, such as ``precision="bf16"``.

    Raises:
        InputError: no method for this kind of pool, an unknown option, both epochs and minutes,
            or a loss that is not finite; the last good checkpoint stays.
        ResultsError: the folder holds another pretraining.
        ResourceError: the folder cannot be written, or out of memory.
    """
    if epochs is not None and minutes is not None:
        raise InputError("epochs and minutes exclude each other: give one of them")
    if every < 1 or (epochs is not None and epochs < 1) or (minutes is not None and minutes <= 0):
        raise InputError(f"epochs, minutes, every must be positive: {epochs}, {minutes}, {every}")
    began, ranks = time.perf_counter(), Ranks.here()
    base = base_encoder(data.kind, size)
    objective = one_objective(method)
    learner = pretraining_learner(data, objective, network, network_options or {}, recipe)
    folder = Path(out)
    made_by = {
        "version": {"format": FORMAT, "labelwise": __version__},
        "pool": data.pool.fingerprint,
        "encoder": base.signature(),
        "method": objective.signature(),
        "network": without_epochs(learner),
        "seed": seed,
        "length": {"epochs": EPOCHS if epochs is None and minutes is None else epochs}
        | {"minutes": minutes},
    }
    card = _open(folder, json.loads(json.dumps(made_by)), ranks)
    if "result" in card:
        return Pretraining(folder, **card["result"])
    encoded = encode_data(data, base, seed=0, cache=cache)  # nothing of a base is random
    work = _Work(data, encoded.pool, encoded.test, learner, seed)
    if "epochs" not in card:
        settled = epochs or EPOCHS
        if minutes is not None:
            costs = work.costs(60 * minutes, folder / TIMING, began)
            settled = costs.epochs(60 * minutes, every, MOST_EPOCHS)
            card["expected"] = costs._asdict()
        card["epochs"] = int(ranks.send(str(settled).encode()))
        card["item_shape"] = list(encoded.pool.shape[1:])
        _write(folder, card)
    result = work.run(folder, card["epochs"], every, made_by, listener)
    card["result"] = {k: v for k, v in result._asdict().items() if k != "folder"}
    if ranks.first:
        save_model(work.model(bare=True), folder)
        write_evidence(work.model(), work.inputs, folder)
        _write(folder, card)
        shutil.rmtree(folder / STATE, ignore_errors=True)
    return result


class _Work:
    """One pretraining: the network, its pool as an array, and what is measured of it."""

    def __init__(
        self, data: Data, inputs: Rows, test: Rows | None, learner: NetworkLearner, seed: int
    ) -> None:
        self.inputs, self.test = inputs, test
        self.learner, self.seed = learner, seed
        self.trained: tuple[Objective, ...] = ()
        self.classes = max(2, len(data.classes))
        self.network = learner.build(inputs, self.classes, derive(seed, "weights"))
        self.labels = labels = torch.from_numpy(data.labels)
        known = (labels >= 0).nonzero()[:, 0]
        self.voting, self.looked_at = _evenly(known, VOTING), _evenly(known, LOOKED_AT)
        self.labeled = len(known) > 1 and len(labels[known].unique()) > 1
        if not self.labeled:
            self.looked_at = _evenly(torch.arange(len(inputs)), LOOKED_AT)
        self.asked = torch.zeros(0, dtype=torch.int64)
        if test is not None and data.test_labels is not None and self.labeled:
            self.test_labels = torch.from_numpy(data.test_labels)
            self.asked = _evenly((self.test_labels >= 0).nonzero()[:, 0], LOOKED_AT)

    def model(self, *, bare: bool = False) -> Any:
        """The network as a model; bare is without its objective, as it is kept."""
        learner = copy.copy(self.learner)
        if bare:
            learner.objectives = ()
        trained, shape = () if bare else self.trained, self.inputs.shape[1:]
        return learner.wrap(self.network, shape, self.classes, objectives=trained)

    def costs(self, seconds: float, aside: Path, began: float) -> Costs:
        """What the parts of this pretraining take, timed with a copy of the network.

        Args:
            seconds: promised for the whole; a small share of it goes into timing.
            aside: a folder for a checkpoint, which is taken away again.
            began: when the call began.
        """
        ranks, look = Ranks.here(), 0.0
        if ranks.first:
            shutil.rmtree(aside, ignore_errors=True)  # of a call that was killed
        try:
            (_, once), save = self._timed(2, Checkpoint(aside))
        finally:
            if ranks.first:
                shutil.rmtree(aside, ignore_errors=True)
        count = min(MOST_TIMED, max(1, int(TIMED_SHARE * seconds / max(once, 1e-6))))
        count = int(ranks.send(str(count).encode()))  # each has a clock of its own
        (first, *rest), _ = self._timed(count + 1)
        step = statistics.median(rest)
        if ranks.first:
            since = time.perf_counter()
            self.measure()
            look = time.perf_counter() - since
        share = (len(self.voting) + len(self.asked)) / max(1, len(self.looked_at))
        end = (look * share if len(self.asked) else 0.0) + save
        steps = -(-len(self.inputs) // self._step_rows)
        start = time.perf_counter() - began + max(0.0, first - step)
        return Costs(start, steps * step, look + save, end)

    @property
    def _step_rows(self) -> int:
        return min(self.learner.recipe.unlabeled_minibatch, len(self.inputs))

    def _timed(self, count: int, checkpoint: Checkpoint | None = None) -> tuple[list[float], float]:
        """Seconds of some epochs of one step each, and of what comes after the last.

        The checkpoint is written after the last, so that is what comes then.
        """
        if checkpoint is not None:
            checkpoint = replace(checkpoint, every=count)
        marks = [time.perf_counter()]
        self._train(
            copy.deepcopy(self.network),
            count,
            unlabeled=torch.arange(self._step_rows) * len(self.inputs) // self._step_rows,
            checkpoint=checkpoint,
            listener=lambda _: marks.append(time.perf_counter()),
        )
        marks.append(time.perf_counter())
        *gaps, after = (later - before for before, later in pairwise(marks))
        return gaps, after

    def run(
        self,
        folder: Path,
        epochs: int,
        every: int,
        made_by: dict[str, Any],
        listener: Callable[[Looked], None] | None,
    ) -> Pretraining:
        """Train to the end, from a checkpoint where there is one, with a line an epoch."""
        first, log = Ranks.here().first, folder / LOG
        if first:
            _cut(log, folder / STATE)
        began: list[Passed] = []
        looked: dict[str, float] = {}

        def hear(passed: Passed) -> None:
            began.append(passed)
            look = passed.epoch % every == 0 or passed.epoch == passed.epochs
            found = self.measure() if look else {}
            looked.update(found)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**passed._asdict(), **found}) + "\n")
            if listener is not None:
                # The first epoch of a session pays for warming up, where there is another.
                start = began[0]
                spent, over = passed.seconds - start.seconds, passed.epoch - start.epoch
                each = spent / over if over else passed.seconds / passed.epoch
                listener(Looked(passed, each * (passed.epochs - passed.epoch), found))

        checkpoint = Checkpoint(folder / STATE, every, {"pretraining": made_by})
        history, self.trained = self._train(
            self.network, epochs, checkpoint=checkpoint, listener=hear if first else None
        )
        found = (looked or self.measure()) | self.measure_test()  # no look: broken off at the end
        return Pretraining(
            folder,
            len(history.losses),
            history.steps,
            history.seconds,
            history.losses[-1],
            history.unlabeled_minibatch,
            found,
        )

    def _train(self, network: nn.Module, epochs: int, **options: Any) -> Trained:
        none = torch.zeros(0, dtype=torch.int64)
        return train(
            network,
            self.inputs,
            none,
            none,
            classes=self.classes,
            seed=self.seed,
            recipe=replace(self.learner.recipe, epochs=epochs, min_steps=0),
            objectives=self.learner.objectives,
            looks=self.learner.looks(self.inputs.shape[1:]),
            **options,
        )

    def measure(self) -> dict[str, float]:
        """Collapse diagnostics, and accuracy by neighbors where there are labels."""
        seen = self._embed(self.inputs, self.looked_at)
        found = {"spread": spread(seen), "effective_rank": effective_rank(seen)}
        if self.labeled:
            found["knn"] = knn_accuracy(seen, self.labels[self.looked_at])
        return found

    def measure_test(self) -> dict[str, float]:
        """Accuracy on test items, by the labels of the pool."""
        if not len(self.asked):
            return {}
        assert self.test is not None
        accuracy = knn_accuracy(
            self._embed(self.inputs, self.voting),
            self.labels[self.voting],
            queries=self._embed(self.test, self.asked),
            query_labels=self.test_labels[self.asked],
        )
        return {"knn_test": accuracy}

    def _embed(self, inputs: Rows, rows: Tensor) -> Tensor:
        found: Tensor = self.model().predict(inputs, rows).embeddings
        return found


def _evenly(rows: Tensor, most: int) -> Tensor:
    return rows[:: max(1, -(-len(rows) // most))]


def _open(folder: Path, made_by: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """The folder's card, or a new one; refuses that of another pretraining.

    Only the first rank reads it. Another might find what the first writes meanwhile.
    """
    try:
        text = (folder / PRETRAINING).read_bytes() if ranks.first else b""
    except FileNotFoundError:
        text = b""
    except OSError as error:
        raise ResultsError(f"{str(folder)!r} holds no pretraining ({error})") from error
    text = ranks.send(text)
    if not text:
        return {"made_by": made_by}
    try:
        card: dict[str, Any] = json.loads(text)
        there = card["made_by"]
    except (ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{str(folder)!r} holds no pretraining ({error})") from error
    for topic, mine in made_by.items():
        if there.get(topic) != mine:
            raise ResultsError(
                f"{str(folder)!r} holds a pretraining of another {topic} "
                f"({difference(there.get(topic), mine)}): go on as it began, or name another folder"
            )
    return card


def _write(folder: Path, card: dict[str, Any]) -> None:
    if not Ranks.here().first:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_in_place(folder / PRETRAINING, json.dumps(card, indent=1).encode())
    except OSError as error:
        raise ResourceError(
            f"{str(folder)!r} cannot be written: {error.strerror or error}"
        ) from error


def _cut(log: Path, state: Path) -> None:
    """Take lines off the log that are younger than the checkpoint; they will be written anew."""
    try:
        epoch = json.loads((state / CARD).read_text(encoding="utf-8"))["epoch"]
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True)[:epoch]
    except FileNotFoundError:
        lines = []
    write_in_place(log, "".join(lines).encode())
