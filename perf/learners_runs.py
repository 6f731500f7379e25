"""What ``perf.learners`` measures. What is finished is a record in a journal, and is not redone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labelwise.benchmark import simulate
from labelwise.benchmark.journal import Journal, Record
from labelwise.benchmark.report import write_report
from labelwise.kernels import Rows, torch_stream
from labelwise.learners import Encoder, Model, encode_data, make_encoder, make_learner, pretrain
from labelwise.learners.diagnostics import effective_rank, knn_accuracy, spread
from labelwise.learners.pretraining import Looked, Pretraining
from labelwise.pools import Data, open_data
from perf.common import machine, print_event, some_rows, some_test_rows

SUPERVISED = "cross_entropy"
PLANNED = (
    "cross_entropy+fixmatch",
    "cross_entropy+joint_entropy",
    "cross_entropy+tod",
    "cross_entropy+barlow_twins:hidden=256:width=256",
)
"""What is compared with labels alone: what each objective adds, with its default options.

The projector is 4 times as wide as the embedding, as it is by default on the full network.
"""

ADDED = (
    "cross_entropy+fixmatch:threshold=0.7",
    "cross_entropy+barlow_twins:hidden=256:width=256:weight=0.01",
)
"""Options that their documentation names for short fits, and beside cross-entropy."""

TRAININGS = (SUPERVISED, *PLANNED, *ADDED)

STRATEGIES = "random,margin,badge,k_center,base,typiclust"


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        data: names of image sets; the first is the one that the GPU's parts take whole.
        images, tested: drawn of the pool (by seed) and of the test set (always the same).
        side: pixels that images are scaled to; None takes them as they are.
        width, fit_width: of the first stage of networks on the CPU, pretrained and from scratch.
        labels, epochs, minibatch, unlabeled, rate: of the fits that compare objectives.
        filters: of the offline encoder; None for its own number.
        pretraining: epochs on the CPU; 120 are 5 minutes of an idle thread, 10 of half of one.
        probed: labels that heads on frozen embeddings are given.
        heads, head: how often those are drawn, and what learns from them, also in the curves.
        full_width, full_epochs, full_minibatch: of the ResNet that learns the whole set.
        methods: of pretraining on the whole set, with epochs; curves stand on the first.
        batch, rounds: of the curves; the initial set is as large as a batch.
    """

    data: tuple[str, ...] = ("cifar10", "fashion_mnist")
    images: int = 2000
    tested: int = 2000
    side: int | None = 16
    width: int = 16
    fit_width: int = 8
    labels: int = 200
    epochs: int = 160
    minibatch: int = 32
    unlabeled: int = 32
    rate: float = 0.1
    filters: int | None = None
    pretraining: int = 120
    probed: tuple[int, ...] = (200, 1000)
    heads: int = 5
    head: str = "auto"
    full_width: int = 64
    full_epochs: int = 60
    full_minibatch: int = 512
    methods: tuple[tuple[str, int], ...] = (("simclr", 400), ("byol", 200))
    batch: int = 100
    rounds: int = 9


DECIDE = {
    "objectives": "data images tested side fit_width labels epochs minibatch unlabeled rate",
    "pretraining": "data images tested side width pretraining probed heads filters",
    "scratch": "data full_width full_epochs full_minibatch",
    "neighbors": "data full_width methods",
    "curves": "data full_width methods batch rounds",
}
"""The sizes that decide what a part measures."""

QUICK = Sizes(
    data=("digits",),
    images=160,
    tested=100,
    side=None,
    width=4,
    fit_width=4,
    labels=40,
    epochs=2,
    minibatch=32,
    unlabeled=32,
    filters=16,
    pretraining=1,
    probed=(20, 80),
    heads=2,
    head="ridge",
    full_width=4,
    full_epochs=1,
    full_minibatch=256,
    methods=(("simclr", 1),),
    batch=20,
    rounds=1,
)
"""To see that all of it runs, in seconds."""


class Run:
    """One part at work: how large, how many seeds, where its records go, and who made them."""

    def __init__(
        self, sizes: Sizes, seeds: int, folder: Path, journal: Journal, command: str
    ) -> None:
        self.sizes, self.seeds, self.folder, self.journal = sizes, seeds, folder, journal
        self._session: Record = {"kind": "session", "command": command, "machine": machine()}
        self._whole: dict[str, Data] = {}

    def missing(self, **cell: Any) -> bool:
        """Whether no record has these values."""
        return not find(self.journal.records, **cell)

    def keep(self, **record: Any) -> None:
        """Write a record, and a line of it."""
        if self._session not in self.journal.records:
            self.journal.append(self._session)
        self.journal.append(record)
        shown = (f"{k} {v:.4g}" if isinstance(v, float) else f"{v}" for k, v in record.items())
        print(", ".join(shown), flush=True)

    def whole(self, name: str) -> Data:
        """A data set, opened once."""
        if name not in self._whole:
            self._whole[name] = open_data(name).require_labels()
        return self._whole[name]

    def small(self, name: str, seed: int) -> Data:
        """The seed's images of a data set, and the fixed test images."""
        part = some_rows(self.whole(name), self.sizes.images, seed)
        return some_test_rows(part, self.sizes.tested)


def find(records: Sequence[Record], **cell: Any) -> list[Record]:
    """The records with these values."""
    return [r for r in records if all(name in r and r[name] == v for name, v in cell.items())]


def objectives(run: Run) -> None:
    """The same network from the same weights by the same labels in as many steps, each training."""
    for seed in range(run.seeds):
        for name in run.sizes.data:
            cell = {"kind": "fit", "data": name, "seed": seed}
            left = [each for each in TRAININGS if run.missing(**cell, training=each)]
            if not left:
                continue
            small = run.small(name, seed)
            images = encode_data(small, make_encoder("pixels", size=run.sizes.side), seed=0)
            rows = label_rows(small, seed, 0, run.sizes.labels)
            for training in left:
                learner = make_learner(
                    "resnet18",
                    width=run.sizes.fit_width,
                    objectives=training,
                    epochs=run.sizes.epochs,
                    min_steps=0,
                    minibatch=run.sizes.minibatch,
                    unlabeled_minibatch=run.sizes.unlabeled,
                    learning_rate=run.sizes.rate,
                )
                labels = torch.from_numpy(small.labels)[rows]
                started, busy = time.perf_counter(), time.process_time()
                model: Any = learner.fit(
                    images.pool, rows, labels, classes=len(small.classes), seed=seed
                )
                seconds = time.perf_counter() - started
                processor = time.process_time() - busy
                run.keep(
                    **cell,
                    training=training,
                    accuracy=accuracy(model, images.test, small),
                    seconds=seconds,
                    processor=processor,
                    steps=model.history.steps,
                    loss=model.history.losses[-1],
                )


def pretraining(run: Run) -> None:
    """Networks pretrained for some minutes, and the offline encoder, under the same heads."""
    for seed in range(run.seeds):
        for name in run.sizes.data:
            cell = {"data": name, "seed": seed}
            small = run.small(name, seed)
            at = run.folder / f"{name}-{seed}"
            fresh, busy = not at.exists(), time.process_time()
            made = small_pretraining(run, small, at, seed)
            if run.missing(kind="pretraining", **cell):
                spent = time.process_time() - busy if fresh else None
                run.keep(kind="pretraining", **cell, **_facts(made), processor=spent)
            options = {} if run.sizes.filters is None else {"filters": run.sizes.filters}
            for encoder in (make_encoder("patches", **options), make_encoder(f"pretrained:{at}")):
                _probe(run, small, seed, encoder, cell)


def small_pretraining(run: Run, small: Data, at: Path, seed: int) -> Pretraining:
    """A narrow network pretrained on some images by the default method."""
    return pretrain(
        small,
        at,
        epochs=run.sizes.pretraining,
        network_options={"width": run.sizes.width},
        size=run.sizes.side,
        seed=seed,
        every=20,
        listener=_say,
    )


def _probe(run: Run, small: Data, seed: int, encoder: Encoder, cell: dict[str, Any]) -> None:
    """What an encoding is worth by its neighbors, and under heads by the same label sets."""
    sizes = run.sizes
    cell = {**cell, "encoder": encoder.name.partition(":")[0]}
    draws = [(count, draw) for count in sizes.probed for draw in range(sizes.heads)]
    left = [
        (count, draw)
        for count, draw in draws
        if run.missing(kind="head", **cell, labels=count, draw=draw)
    ]
    if not left and not run.missing(kind="encoding", **cell):
        return
    encoded = encode_data(small, encoder, seed=seed)
    if run.missing(kind="encoding", **cell):
        found = _diagnosed(encoded.pool, encoded.test, small)
        columns = encoded.pool.shape[1]
        run.keep(kind="encoding", **cell, columns=columns, seconds=encoded.seconds, **found)
    truth = torch.from_numpy(small.labels)
    for count, draw in left:
        rows = label_rows(small, seed, draw, count)
        head = make_learner(sizes.head)
        model = head.fit(encoded.pool, rows, truth[rows], classes=len(small.classes), seed=draw)
        right = accuracy(model, encoded.test, small)
        run.keep(kind="head", **cell, labels=count, draw=draw, accuracy=right)


def _diagnosed(pool: Rows, test: Rows | None, data: Data) -> dict[str, float]:
    items, answers = _asked(test, data)
    seen, asked = pool.tensor().float(), items.tensor().float()
    labels = torch.from_numpy(data.labels)
    return {
        "knn": knn_accuracy(seen, labels),
        "knn_test": knn_accuracy(seen, labels, queries=asked, query_labels=answers),
        "spread": spread(seen),
        "effective_rank": effective_rank(seen),
    }


def scratch(run: Run) -> None:
    """A ResNet-18 that learns the whole set from nothing.

    One cycle of SGD with Nesterov momentum, minibatches of 512 at 0.1 for 128 rows, weight decay
    5e-4, label smoothing 0.1, shifts by 4 pixels and mirrored images, bf16, channels last.
    """
    sizes, name = run.sizes, run.sizes.data[0]
    data = run.whole(name)
    images = encode_data(data, make_encoder("pixels"), seed=0)
    rows = torch.arange(len(data.pool))
    for seed in range(run.seeds):
        if not run.missing(kind="scratch", data=name, seed=seed):
            continue
        learner = make_learner(
            "resnet18",
            width=sizes.full_width,
            objectives="cross_entropy:smoothing=0.1",
            epochs=sizes.full_epochs,
            min_steps=0,
            minibatch=sizes.full_minibatch,
            learning_rate=0.1 * sizes.full_minibatch / 128,
            precision="bf16",
        )
        started = time.perf_counter()
        model: Any = learner.fit(
            images.pool,
            rows,
            torch.from_numpy(data.labels),
            classes=len(data.classes),
            seed=seed,
        )
        run.keep(
            kind="scratch",
            data=name,
            seed=seed,
            seconds=time.perf_counter() - started,
            accuracy=accuracy(model, images.test, data),
            epochs=sizes.full_epochs,
            steps=model.history.steps,
        )


def neighbors(run: Run) -> None:
    """Pretraining on the whole set, and what its embeddings are worth by their neighbors."""
    for place in range(len(run.sizes.methods)):
        made = _whole_pretraining(run, place)
        cell = {"kind": "neighbors", "method": run.sizes.methods[place][0]}
        if run.missing(**cell):
            run.keep(**cell, data=run.sizes.data[0], **_facts(made))


def _whole_pretraining(run: Run, place: int) -> Pretraining:
    method, epochs = run.sizes.methods[place]
    return pretrain(
        run.whole(run.sizes.data[0]),
        run.folder.parent / "neighbors" / method,
        method=method,
        epochs=epochs,
        network_options={"width": run.sizes.full_width},
        precision="bf16",
        every=20,
        listener=_say,
    )


def curves(run: Run) -> None:
    """Learning curves on frozen embeddings of the first method's network, through `simulate`."""
    made = _whole_pretraining(run, 0)
    data = run.whole(run.sizes.data[0])
    results = simulate(
        data,
        strategies=STRATEGIES,
        initial=run.sizes.batch,
        batch=run.sizes.batch,
        rounds=run.sizes.rounds,
        seeds=run.seeds,
        out=run.folder / "simulation",
        encoder=make_encoder(f"pretrained:{made.folder}"),
        learner=run.sizes.head,
        full=False,
        cache=run.folder / "cache",
        progress=print_event,
    )
    print(write_report(results, run.folder / "simulation", data=data))
    for name, curve in results.curves("accuracy").items():
        for seed, area in curve.area().items():
            cell = {"kind": "curve", "strategy": name, "seed": seed}
            if run.missing(**cell):
                run.keep(**cell, area=area, final=curve.final()[seed])


PARTS: dict[str, Callable[[Run], None]] = {
    each.__name__: each for each in (objectives, pretraining, scratch, neighbors, curves)
}
"""By name; the last three are made for a GPU."""

FOR_GPU = ("scratch", "neighbors", "curves")


def label_rows(data: Data, seed: int, draw: int, count: int) -> Tensor:
    """(count,) int64 rows whose labels are shown; fewer are a part of more, for one draw."""
    stream = torch_stream(seed, "labels", draw)
    return torch.randperm(len(data.pool), generator=stream)[:count].sort().values


def accuracy(model: Model, test: Rows | None, data: Data) -> float:
    """On the test set."""
    items, answers = _asked(test, data)
    return float((model.predict(items).probs.argmax(1) == answers).double().mean())


def _asked(test: Rows | None, data: Data) -> tuple[Rows, Tensor]:
    assert test is not None
    assert data.test_labels is not None
    return test, torch.from_numpy(data.test_labels)


def _facts(made: Pretraining) -> Record:
    return {k: v for k, v in made._asdict().items() if k not in ("folder", "found")} | made.found


def _say(seen: Looked) -> None:
    """A line wherever something was measured."""
    if seen.found:
        measured = ", ".join(f"{name} {value:.3g}" for name, value in seen.found.items())
        passed = seen.passed
        words = f"epoch {passed.epoch}/{passed.epochs}, loss {passed.loss:.4g}, {measured}"
        print(f"{words}, {seen.left:.0f} s left", flush=True)
