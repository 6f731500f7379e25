"""Learners on real images: what unlabeled rows add, pretraining, and what a GPU makes of them.

``python -m perf.learners runs/learners`` measures what can be measured on a CPU, on one thread if
``OMP_NUM_THREADS=1`` says so, and writes the page. Everything finished is in journals below the
folder: the same command goes on after a break, makes the page anew where nothing is left to do,
and with ``--parts`` the parts can be made by processes side by side.

- ``objectives``: a narrow ResNet-18 from scratch on 2,000 images, 200 of them with labels.
- ``pretraining``: some minutes on 2,000 images without labels, against the offline encoder.
- ``scratch``, ``neighbors``, ``curves``: the whole of CIFAR-10, for a CUDA GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from labelwise.benchmark import Paired, holm, paired
from labelwise.benchmark.findings import ALPHA, interval, p_value, percent, points
from labelwise.benchmark.journal import JOURNAL, Journal, Record, locked, parse, write_atomically
from labelwise.errors import ResultsError
from perf.common import command_line, table
from perf.learners_runs import (
    ADDED,
    DECIDE,
    FOR_GPU,
    PARTS,
    PLANNED,
    QUICK,
    STRATEGIES,
    SUPERVISED,
    Run,
    Sizes,
    find,
)

PAGE = Path("docs/results/learners.md")
ABOUT = (
    "Accuracies are on test images, in percent. Intervals are of mean differences, paired, 95 %; "
    "p is of the paired t test, corrected by Holm within a table. `python -m perf.learners "
    "runs/learners` makes this page of the journals that the commands below leave."
)
NOT_RUN = "*not run*"
SEEDS = {"objectives": 5, "pretraining": 2, "scratch": 3, "neighbors": 1, "curves": 5}


def measure(part: str, folder: Path, sizes: Sizes, seeds: int, command: str) -> None:
    """Do what is left of a part.

    Raises:
        ResultsError: the folder holds fits of other sizes, or is in use.
    """
    at = folder / part
    with locked(at), Journal(at / JOURNAL) as journal:
        decisive = {name: asdict(sizes)[name] for name in DECIDE[part].split()}
        made_by = json.loads(json.dumps({"kind": "sizes", **decisive}))
        there = find(journal.records, kind="sizes")
        if there and not find(there, **made_by):
            raise ResultsError(f"{at} holds results of other sizes: name another folder")
        if not there:
            journal.append(made_by)
        PARTS[part](Run(sizes, seeds, at, journal, command))


def page(folder: Path) -> str:
    """The page, from the journals that there are."""
    found = {part: _records(folder / part / JOURNAL) for part in PARTS}
    parts = ["# Learners on real images", ABOUT]
    parts += _objectives(found["objectives"])
    parts += _pretraining(found["pretraining"])
    parts += _gpu(found)
    return "\n\n".join(parts) + "\n"


def _records(path: Path) -> list[Record]:
    return parse(path)[0] if path.exists() else []


def _made(records: Sequence[Record]) -> str:
    lines = (f"`{r['command']}` on {r['machine']}" for r in find(records, kind="session"))
    return f"Measured by {'; '.join(dict.fromkeys(lines)) or 'a run that is not finished'}."


def _objectives(records: list[Record]) -> list[str]:
    parts = ["## What unlabeled images add to a network that learns from scratch"]
    fits = find(records, kind="fit")
    if not fits:
        return [*parts, f"{NOT_RUN}: `python -m perf.learners runs/learners --parts objectives`."]
    sizes = find(records, kind="sizes")[0]
    scale = "as they are" if sizes["side"] is None else f"scaled to {sizes['side']} pixels"
    parts.append(
        f"{sizes['images']:,} images of each set {scale}, drawn by the seed; {sizes['labels']} of "
        f"them, at random, with labels, the others without; {sizes['tested']:,} test images, "
        f"always the same. A ResNet-18 of width {sizes['fit_width']}, {fits[0]['steps']:,} steps "
        f"of SGD with {sizes['minibatch']} labeled and {sizes['unlabeled']} unlabeled images at "
        f"most, one cycle of the learning rate up to {sizes['rate']:g}. All trainings of a "
        "seed have the same images, labels, first weights, order and number of steps. Objectives "
        "have their default options, but for Barlow's projector, which is 4 times as wide as this "
        "network's embeddings, as by default it is of the full one's. Nothing was tuned on these "
        "seeds but this: the last two rows have options that their documentation names for short "
        "fits, and beside cross-entropy, and were added after a run of a quarter of "
        "the steps, so p is corrected apart."
    )
    parts.append(
        "These fits are short (FixMatch's authors make a million steps of 64 labeled and 448 "
        "unlabeled images): nothing here says what an objective is worth in long training."
    )
    for name in dict.fromkeys(r["data"] for r in fits):
        parts += [f"### {name}", *_compared(find(fits, data=name))]
    return [*parts, _made(records)]


def _compared(fits: list[Record]) -> list[str]:
    """Every training against labels alone."""
    by_training = {
        training: find(fits, training=training)
        for training in (SUPERVISED, *PLANNED, *ADDED)
        if find(fits, training=training)
    }
    accuracies = {name: _by(rows, "seed", "accuracy") for name, rows in by_training.items()}
    base = accuracies[SUPERVISED]
    pairs = {name: paired(each, base) for name, each in accuracies.items() if name != SUPERVISED}
    corrected: dict[str, float] = {}
    for family in (PLANNED, ADDED):
        there = [name for name in family if name in pairs]
        corrected |= zip(there, holm([pairs[name].p_t for name in there]))
    rows: list[dict[str, object]] = []
    for name, fitted in by_training.items():
        row: dict[str, object] = {"objectives": f"`{name}`", "seeds": len(fitted)}
        row["accuracy"] = _spread(accuracies[name].values())
        if name in pairs:
            row["less labels alone, points"] = _difference(pairs[name])
            row["p (Holm)"] = p_value(corrected[name])
        row["last loss"] = statistics.median(r["loss"] for r in fitted)
        row["s a fit"] = statistics.median(r["seconds"] for r in fitted)
        row["s of processor"] = statistics.median(r["processor"] for r in fitted)
        rows.append(row)
    return [table(rows), _verdict(pairs, corrected)]


def _verdict(pairs: Mapping[str, Paired], corrected: Mapping[str, float]) -> str:
    """What helps, what hurts, and what these seeds cannot tell."""
    sure = {name for name, p in corrected.items() if p < ALPHA}
    groups = {
        "Helps": [n for n in pairs if n in sure and pairs[n].mean > 0],
        "Hurts": [n for n in pairs if n in sure and pairs[n].mean < 0],
        "Not told apart from labels alone": [n for n in pairs if n not in sure],
    }
    said = [
        f"{words}: {', '.join(f'`{n}` ({points(pairs[n].mean)})' for n in names)}."
        for words, names in groups.items()
        if names
    ]
    return " ".join(said)


def _pretraining(records: list[Record]) -> list[str]:
    parts = ["## Minutes of pretraining against the offline encoder"]
    made, heads = find(records, kind="pretraining"), find(records, kind="head")
    if not made:
        return [*parts, f"{NOT_RUN}: `python -m perf.learners runs/learners --parts pretraining`."]
    sizes = find(records, kind="sizes")[0]
    scale = "as they are" if sizes["side"] is None else f"scaled to {sizes['side']} pixels"
    parts.append(
        f"SimCLR, the default of `labelwise pretrain`, for {sizes['pretraining']} epochs of the "
        f"seed's {sizes['images']:,} images {scale}, with a ResNet-18 of width {sizes['width']}; "
        "`patches` learns from the same images at full size: the two as one core affords them, not "
        "the methods at equal resolution. Seconds are wall time of one thread "
        "on a machine that did much other work, so epochs were set and not minutes; seconds of "
        "processor time are what an idle core needs (where the run was not interrupted). On the "
        "frozen embeddings of either the better of ridge and logistic regression, by held-out "
        f"labeled rows, learns from the same labels, drawn {sizes['heads']} times; intervals are "
        "over these draws, of one pretraining each."
    )
    rows = [row for run in made for row in _heads(find(heads, data=run["data"], seed=run["seed"]))]
    shown = [{k: v for k, v in row.items() if k != "pair"} for row in rows]
    parts += [table(shown), _winner([row["pair"] for row in rows])]
    parts.append(
        "kNN is the accuracy by cosine neighbors, among the pool's own images and of test images. "
        "The spread of embeddings is 0 where all of them have collapsed to one point, 1 where they "
        "point everywhere; the effective rank counts the directions in use."
    )
    lines = []
    for run in made:
        for seen in find(records, kind="encoding", data=run["data"], seed=run["seed"]):
            lines.append(_encoding(run, seen))
    return [*parts, table(lines), _made(records)]


def _heads(heads: list[Record]) -> list[dict[str, object]]:
    rows = []
    for labels in dict.fromkeys(r["labels"] for r in heads):
        here = find(heads, labels=labels)
        ours, theirs = (
            _by(find(here, encoder=name), "draw", "accuracy") for name in ("pretrained", "patches")
        )
        pair = paired(ours, theirs)
        rows.append(
            {
                "data": here[0]["data"],
                "seed": here[0]["seed"],
                "labels": labels,
                "`patches`": _spread(theirs.values()),
                "pretrained": _spread(ours.values()),
                "pretrained less `patches`, points": _difference(pair),
                "pair": pair,
            }
        )
    return rows


def _winner(pairs: Sequence[object]) -> str:
    """In how many of the comparisons which of the two is better."""
    known = [pair for pair in pairs if isinstance(pair, Paired) and pair.n > 1]
    better = sum(pair.low > 0 for pair in known)
    worse = sum(pair.high < 0 for pair in known)
    return (
        f"Of {len(known)} comparisons pretraining is better than `patches` in {better}, worse in "
        f"{worse}, and {len(known) - better - worse} cannot be told (intervals not corrected)."
    )


def _encoding(run: Record, seen: Record) -> dict[str, object]:
    mine = seen["encoder"] == "pretrained"
    made = f"{run['epochs']} epochs, {run['steps']:,} steps" if mine else "k-means of patches"
    return {
        "data": seen["data"],
        "seed": seen["seed"],
        "encoder": f"`{seen['encoder']}`",
        "made": made,
        "s": round(run["seconds"] if mine else seen["seconds"]),
        "s of processor": round(run["processor"]) if mine and run["processor"] else "",
        "columns": f"{seen['columns']:,}",
        "kNN, pool": percent(seen["knn"]),
        "kNN, test": percent(seen["knn_test"]),
        "spread": seen["spread"],
        "effective rank": seen["effective_rank"],
    }


def _gpu(found: Mapping[str, list[Record]]) -> list[str]:
    """What needs a CUDA GPU, with its commands; filled in where it was run."""
    start = "python -m perf.learners runs/learners --parts"
    sizes = Sizes()
    methods = " and ".join(f"{method} for {epochs} epochs" for method, epochs in sizes.methods)
    rows = [
        {
            "what": f"CIFAR-10, ResNet-18 from scratch, {sizes.full_epochs} epochs, "
            f"{SEEDS['scratch']} seeds",
            "aim": "94 % of test images, and its seconds",
            "found": _scratch(found["scratch"]),
            "command": f"`{start} scratch`",
        },
        {
            "what": f"CIFAR-10, ResNet-18 pretrained: {methods}",
            "aim": "85 % by 200 neighbors, and its minutes",
            "found": _neighbors(found["neighbors"]),
            "command": f"`{start} neighbors`",
        },
        {
            "what": f"Curves on the frozen embeddings of {sizes.methods[0][0]}, "
            f"{sizes.batch} to {sizes.batch * (sizes.rounds + 1):,} labels, "
            f"{SEEDS['curves']} seeds: {STRATEGIES.replace(',', ', ')}",
            "aim": "areas less random's",
            "found": _curves(found["curves"]),
            "command": f"`{start} curves`",
        },
    ]
    return [
        "## With a CUDA GPU",
        f"In one go: `{start} {','.join(FOR_GPU)}`. The recipe from scratch: one cycle of SGD with "
        f"Nesterov momentum, minibatches of {sizes.full_minibatch}, learning rate 0.1 a 128 rows, "
        "weight decay 5e-4, label smoothing 0.1, shifts by 4 pixels and mirrored images, bf16, "
        "channels last. Elsewhere a standard ResNet-18 ends at 96.0 % after 200 epochs "
        "(cifar10-airbench); that a cycle of these is enough for 94 % is to be seen. lightly's "
        "benchmark has 84.8 % by neighbors for 200 epochs of SimCLR with minibatches of 512 and "
        "86.8 % for BYOL: hence the epochs of pretraining. Each of these commands runs on small "
        "data in the tests (`--quick`).",
        table(rows),
        *(_made(found[part]) for part in FOR_GPU if found[part]),
    ]


def _scratch(records: list[Record]) -> str:
    fits = find(records, kind="scratch")
    if not fits:
        return NOT_RUN
    seconds = statistics.median(r["seconds"] for r in fits)
    return f"{_spread(r['accuracy'] for r in fits)} in {seconds:.0f} s a fit"


def _neighbors(records: list[Record]) -> str:
    lines = (
        f"{r['method']} {percent(r['knn_test'])} in {r['seconds'] / 60:.1f} min"
        for r in find(records, kind="neighbors")
    )
    return "; ".join(lines) or NOT_RUN


def _curves(records: list[Record]) -> str:
    areas = {
        name: _by(find(records, kind="curve", strategy=name), "seed", "area")
        for name in STRATEGIES.split(",")
    }
    if not areas["random"]:
        return NOT_RUN
    less = (
        f"{name} {_difference(paired(each, areas['random']))}"
        for name, each in areas.items()
        if name != "random"
    )
    return f"random {_spread(areas['random'].values())}; {'; '.join(less)}"


def _by(records: Iterable[Record], key: str, value: str) -> dict[int, float]:
    return {record[key]: record[value] for record in records}


def _spread(values: Iterable[float]) -> str:
    """Mean and standard deviation; a dash where nothing is finished."""
    known = [*values]
    if not known:
        return percent(float("nan"))
    return percent(
        statistics.mean(known), statistics.stdev(known) if len(known) > 1 else float("nan")
    )


def _difference(pair: Paired) -> str:
    return f"{points(pair.mean)} {interval(pair)}".strip()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.learners", description=__doc__)
    parser.add_argument("folder", type=Path, help="of the journals")
    parser.add_argument(
        "--parts", default="objectives,pretraining", help=f"of {', '.join(PARTS)}, with commas"
    )
    parser.add_argument("--seeds", type=int, help=f"of a part; by default {SEEDS}")
    parser.add_argument("--epochs", type=int, help="of a pretraining on the CPU; 120 by default")
    parser.add_argument("--page", type=Path, help=f"{PAGE} by default, of --quick in the folder")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    given = parser.parse_args()
    sizes = QUICK if given.quick else Sizes()
    if given.epochs is not None:
        sizes = replace(sizes, pretraining=given.epochs)
    parts = [part for part in given.parts.split(",") if part]
    for part in parts:
        if part not in PARTS:
            parser.error(f"no part is called {part!r}: choose from {', '.join(PARTS)}")
        if part in FOR_GPU and not given.quick and not torch.cuda.is_available():
            parser.error(f"{part} needs a CUDA GPU, and torch finds none (--quick does not)")
    for part in parts:
        seeds = given.seeds or (2 if given.quick else SEEDS[part])
        measure(part, given.folder, sizes, seeds, command_line("perf.learners"))
    text = page(given.folder)
    to = given.page or (given.folder / PAGE.name if given.quick else PAGE)
    write_atomically(to, lambda file: file.write(text.encode()))
    print(f"page: {to}")


if __name__ == "__main__":
    main()
