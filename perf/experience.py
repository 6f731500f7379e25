"""The experience that `auto` starts from: learned on half of the tabular sets, judged on the rest.

    python -m perf.experience learn      # writes src/labelwise/strategies/experience.json
    python -m perf.experience compare --out docs/results/auto.md

``$LABELWISE_DATA/tabular`` has the sets, a Parquet file each. By name, every other one is for
learning and the rest are for the comparison. At most 2,000 rows of a set are the pool.

Learning is the regression of `lsa` with rewards that can be compared: from one and the same model
several batches are picked by `lsa` with weights drawn at random, each is labeled and fitted, and
what its accuracy on held-out rows is above the average of these batches is its reward; its context
is likewise what its mean context is above their average. Then the run goes on with one of them.
(The online rule itself, run on one set after the other, ended with opposite signs for two seeds:
accuracy rises with labels however they are picked, and the rule credits whatever it did.)
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from labelwise.benchmark import aubc, paired
from labelwise.kernels import Rows, numpy_stream
from labelwise.learners import default_encoder, make_encoder, make_learner
from labelwise.learners.encoding import encode_data
from labelwise.loop import Loop, Oracle, Round, SingleLabel, State, stratified_initial
from labelwise.pools import open_data
from labelwise.strategies import Experience, Picks
from labelwise.strategies.linucb import learned_weights
from perf.common import machine, table

ARMS = "margin+entropy+badge+k_center+typiclust"
LEARNER = "ridge"
SHIPPED = Path("src/labelwise/strategies/experience.json")
STRATEGIES = ("random", "margin", "auto")
MOST_ROWS, MOST_TEST, MOST_ROUNDS = 2000, 2000, 15
TRIES = 4


def sets() -> tuple[list[Path], list[Path]]:
    """The sets to learn on and those to compare on."""
    folder = Path(os.environ.get("LABELWISE_DATA", ".")) / "tabular"
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise SystemExit(f"no sets in {folder}: set LABELWISE_DATA")
    return files[::2], files[1::2]


@dataclass
class Run:
    """One set with one seed: a pool, a test set, an oracle, and the sizes of a run."""

    loop: Loop
    oracle: Oracle
    initial: list[str]
    batch: int
    rounds: int

    @classmethod
    def of(cls, file: Path, seed: int) -> Run:
        """Small budgets: two labels a class at first, then at least 5 a round, 15 rounds."""
        data = open_data(str(file))
        assert data.test_labels is not None
        encoded = encode_data(data, make_encoder(default_encoder(data.kind)), seed=0)
        assert encoded.test is not None
        classes = len(data.classes)
        rows = _some(len(data.pool), MOST_ROWS, seed, "pool")
        test = _some(len(data.test_labels), MOST_TEST, seed, "test")
        ids = [data.pool.ids[row] for row in rows]
        labels = data.labels[rows]
        initial, batch = max(10, 2 * classes), max(5, classes)
        rounds = min(MOST_ROUNDS, (len(ids) // 2 - initial) // batch)
        first = stratified_initial(ids, np.arange(len(ids)), initial, labels=labels, seed=seed)
        loop = Loop(
            ids,
            Rows(encoded.pool.take(torch.from_numpy(rows))),
            make_learner(LEARNER),
            SingleLabel(classes),
            seed=seed,
            test=(Rows(encoded.test.take(torch.from_numpy(test))), data.test_labels[test].tolist()),
            rounds=rounds,
        )
        oracle = Oracle(dict(zip(ids, labels.tolist())))
        return cls(loop, oracle, [ids[row] for row in first], batch, rounds)

    def start(self) -> Round:
        """The initial set's round."""
        return self.loop.start(self.initial, self.oracle)

    def ask(self, current: Round, strategy: str, options: Mapping[str, Any]) -> Picks:
        """A query of a round's model."""
        assert current.fitted is not None
        return self.loop.query(current.state, current.fitted, strategy, self.batch, options=options)

    def go_on(self, state: State, picks: Picks) -> Round:
        """The round of these picks."""
        asked = state.ask([self.loop.ids[row] for row in picks.rows])
        return self.loop.finish(asked.carry(picks.strategy, picks.state), self.oracle)


def learn(seeds: int) -> Experience:
    """Weights from the rewards of all learning sets and seeds."""
    files, _ = sets()
    arms = tuple(ARMS.split("+"))
    gram, moment = np.zeros((len(arms), len(arms))), np.zeros(len(arms))
    batches = 0
    for file in files:
        start = time.perf_counter()
        for seed in range(seeds):
            contexts, rewards = tried(Run.of(file, seed), seed)
            gram, moment = gram + contexts.T @ contexts, moment + contexts.T @ rewards
            batches += len(rewards)
        weights = learned_weights(gram, moment, np.zeros(len(arms)), 1.0)
        told = ", ".join(f"{arm} {100 * weight:+.3f}" for arm, weight in zip(arms, weights))
        sys.stdout.write(f"{file.stem}: {told} ({time.perf_counter() - start:.1f} s)\n")
        sys.stdout.flush()
    about: dict[str, Any] = {
        "command": "python -m perf.experience learn",
        "data": [file.stem for file in files],
        "learner": LEARNER,
        "seeds": seeds,
        "batches": batches,
        "reward": "accuracy on held-out rows above that of other batches from the same model",
    }
    unit = weights / np.linalg.norm(weights)  # where nothing is explored only ratios decide
    return Experience(arms, tuple(np.round(unit, 4).tolist()), "zscore", about)


def tried(run: Run, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Contexts (T, K) and rewards (T,) of the batches of a run, less the mean of their round."""
    stream, arms = numpy_stream(seed, "weights"), tuple(ARMS.split("+"))
    current, contexts, rewards = run.start(), [], []
    for _ in range(run.rounds):
        context, reward = [], []
        for weights in stream.standard_normal((TRIES, len(arms))):
            known = Experience(arms, tuple(weights.tolist()))
            options = {"arms": ARMS, "experience": known, "alpha": 0.0}
            picks = run.ask(current, "lsa", options)
            assert picks.state is not None
            after = run.go_on(current.state, picks)
            context.append(np.mean(picks.state["waiting"][1], axis=0))
            reward.append(after.measures["accuracy"])
        contexts.append(np.array(context) - np.mean(context, axis=0))
        rewards.append(np.array(reward) - np.mean(reward))
        # Without the state of `lsa`: here every batch is its first.
        current = replace(after, state=replace(after.state, carried={}))
    return np.concatenate(contexts), np.concatenate(rewards)


def compare(seeds: int) -> list[dict[str, object]]:
    """Areas under the learning curve on the other sets; `auto` less margin, paired by seed."""
    rows: list[dict[str, object]] = []
    means: dict[str, dict[int, float]] = {name: {} for name in STRATEGIES}
    for number, file in enumerate(sets()[1]):
        area: dict[str, dict[int, float]] = {name: {} for name in STRATEGIES}
        for seed in range(seeds):
            run = Run.of(file, seed)
            start = run.start()
            for name in STRATEGIES:
                area[name][seed] = _area(run, start, name)
        for name in STRATEGIES:
            means[name][number] = float(np.mean(list(area[name].values())))
        labels = len(run.initial) + run.rounds * run.batch
        each = {name: means[name][number] for name in STRATEGIES}
        rows.append(_row(file.stem, labels, each, area))
        sys.stdout.write(f"{rows[-1]}\n")
        sys.stdout.flush()
    each = {name: float(np.mean(list(means[name].values()))) for name in STRATEGIES}
    rows.append(_row("all (a value a set)", "", each, means))
    return rows


def _area(run: Run, start: Round, strategy: str) -> float:
    current, labels, accuracy = start, [len(start.state.ids)], [start.measures["accuracy"]]
    for _ in range(run.rounds):
        current = run.go_on(current.state, run.ask(current, strategy, {}))
        labels.append(len(current.state.ids))
        accuracy.append(current.measures["accuracy"])
    return aubc(labels, accuracy)


def _row(
    name: str, labels: object, each: Mapping[str, float], area: Mapping[str, Mapping[int, float]]
) -> dict[str, object]:
    row: dict[str, object] = {"set": name, "labels": labels}
    row |= {strategy: f"{100 * value:.2f}" for strategy, value in each.items()}
    for other in ("margin", "random"):
        found = paired(area["auto"], area[other])
        row[f"auto - {other} [95 %]"] = (
            f"{100 * found.mean:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"
        )
    return row


def _some(size: int, most: int, seed: int, name: str) -> NDArray[np.int64]:
    return np.sort(numpy_stream(seed, name).permutation(size)[:most])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.experience", description=__doc__)
    parser.add_argument("what", choices=("learn", "compare"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="file of the experience, or of the table")
    given = parser.parse_args()
    if given.what == "learn":
        learn(given.seeds).save(given.out or SHIPPED)
        return
    rows = compare(given.seeds)
    command = "python -m perf.experience " + " ".join(sys.argv[1:])
    text = (
        f"# auto\n\nMade by `{command}` on {machine()}: areas under the learning curve in points "
        f"of accuracy, {given.seeds} seeds, differences paired by seed (last line: by set). The "
        f"shipped experience was learned on the other half of the sets.\n\n{table(rows)}\n"
    )
    sys.stdout.write(text)
    if given.out:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
