"""``labelwise simulate``: compare strategies on labeled data as if labels had to be paid for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from labelwise.cli.options import (
    AsJson,
    HoldoutShare,
    IdColumn,
    LabelColumn,
    SplitColumn,
    Threads,
    TrainingDevice,
    check_device,
    parse_pairs,
    parse_size,
    set_threads,
)
from labelwise.cli.running import present, run_simulation
from labelwise.cli.select import read_evidence


def simulate(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder of images, a Parquet, CSV, TSV, JSONL, .npy or .npz file, or the name "
            "of a data set under $LABELWISE_DATA; 'digits' comes with scikit-learn.",
            show_default=False,
            metavar="DATA",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Results folder; created, or resumed, also with strategies added.",
            show_default=False,
        ),
    ],
    strategies: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Separated by commas, options as in badge:first=uniform; labelwise strategies "
            "lists them.",
        ),
    ] = "random,margin,badge,k_center",
    initial: Annotated[
        int, typer.Option(metavar="N", help="Labels given before the first query.")
    ] = 100,
    batch: Annotated[int, typer.Option(metavar="N", help="Labels asked for in each round.")] = 100,
    rounds: Annotated[int, typer.Option(metavar="N", help="Queries.")] = 10,
    seeds: Annotated[int, typer.Option(metavar="N", help="Repetitions.")] = 5,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="A smaller form of the same plan: at most 2 seeds, 4 rounds, 10,000 items and "
            "2,000 test items, the fast image encoder, no full-data line.",
        ),
    ] = False,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What makes features of items: patches, patches-fast, pixels, table, tfidf, "
            "identity, pretrained:FOLDER, timm:NAME, open_clip:NAME, transformers:NAME, "
            "tokens:NAME, or several as in concat:A+B.",
            show_default="by kind",
        ),
    ] = None,
    encoder_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Option of the encoder; repeatable."),
    ] = None,
    learner: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What learns from features: logistic, ridge, auto, mlp, fused:WIDTHS, "
            "sklearn:CLASS, ensemble:LEARNER, laplace:LEARNER; from pixels resnet18 and "
            "finetune:timm:NAME.",
            show_default="by kind",
        ),
    ] = None,
    learner_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Option of the learner; repeatable. What a network minimizes is one of them: "
            "objectives=cross_entropy+fixmatch:threshold=0.9.",
        ),
    ] = None,
    evidence: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PLACE",
            help="What is known of each item beforehand, such as costs=FILE, or "
            "pretext_loss=FOLDER of pretrain --method rotation; repeatable.",
        ),
    ] = None,
    label: LabelColumn = None,
    id: IdColumn = None,
    split: SplitColumn = None,
    holdout: HoldoutShare = 0.2,
    skip_unreadable: Annotated[
        bool,
        typer.Option("--skip-unreadable", help="Leave out unreadable items."),
    ] = False,
    primary: Annotated[
        str, typer.Option(metavar="NAME", help="Endpoint that is tested: area or final.")
    ] = "area",
    ood: Annotated[
        str | None,
        typer.Option(
            metavar="CLASSES",
            help="Classes out of distribution, separated by commas: paid for, never trained on.",
        ),
    ] = None,
    full: Annotated[
        bool | None,
        typer.Option(
            "--full/--no-full",
            help="Also fit to all labels, as an upper line.",
            show_default="full",
        ),
    ] = None,
    together: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Fit seeds and strategies of a round as groups of at most N, or 'all': faster for "
            "small networks, the same results but for rounding.",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder of encodings.", show_default="the user's cache"
        ),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Bound of a query, such as 4GB.")
    ] = None,
    threads: Threads = None,
    device: TrainingDevice = None,
    json: AsJson = False,
) -> None:
    """Compare strategies on labeled data, as if every label had still to be paid for.

    Writes OUT/results.parquet and OUT/report/index.html. Killed or interrupted, the same
    command goes on where it stopped.
    """
    set_threads(threads)
    bound = parse_size(memory)
    learner_options = parse_pairs(learner_option or [], "--learner-option")
    encoder_options = parse_pairs(encoder_option or [], "--encoder-option")
    known = _evidence(evidence or [])
    group = _group(together)
    chosen = check_device(device)

    from labelwise.learners import (
        default_encoder,
        default_learner,
        make_encoder,
        make_learner,
        own_encoder,
    )
    from labelwise.pools import open_data

    opened = open_data(
        data, label=label, id=id, split=split, holdout=holdout, skip_unreadable=skip_unreadable
    )
    made = _on(chosen, make_learner, learner or default_learner(opened.kind), learner_options)
    wanted = encoder or own_encoder(made, opened.kind)
    budget = Budget(rounds=rounds, seeds=seeds, full=full is not False, encoder=wanted)
    if quick:
        opened = smaller(opened)
        budget = budget.smaller(opened.kind, full=full)
    results, page = run_simulation(
        opened,
        out,
        strategies=strategies,
        initial=initial,
        batch=batch,
        rounds=budget.rounds,
        seeds=budget.seeds,
        full=budget.full,
        primary=primary,
        ood=[name.strip() for name in ood.split(",")] if ood else (),
        together=group,
        encoder=_on(
            chosen, make_encoder, budget.encoder or default_encoder(opened.kind), encoder_options
        ),
        learner=made,
        evidence=known,
        cache=cache,
        memory=bound,
    )
    present(results, page, json=json)


def _evidence(pairs: list[str]) -> dict[str, Any]:
    """The options ``--evidence``: a folder as it is, a file as what is in it."""
    places = parse_pairs(pairs, "--evidence", str)
    folders = {name: place for name, place in places.items() if Path(place).is_dir()}
    files = {name: place for name, place in places.items() if name not in folders}
    return folders | read_evidence(files, None)


def _group(text: str | None) -> bool | int:
    """The option ``--together``: nothing, ``all``, or a number.

    >>> _group(None), _group("all"), _group("40")
    (False, True, 40)
    """
    if text is None or text == "all":
        return text == "all"
    if not text.isdecimal():
        raise typer.BadParameter(
            f"a group is a whole number or 'all', got {text!r}", param_hint="--together"
        )
    return int(text)


def _on(device: str | None, make: Any, name: str, options: dict[str, Any]) -> Any:
    """An encoder or a learner, on a device where it has a choice of one."""
    made = make(name, **options)
    if device is None or "device" in options:
        return made
    for part in getattr(made, "encoders", ()):  # of several side by side
        if hasattr(part, "device"):
            part.device = device
    inner = made
    while hasattr(inner, "learner"):  # of an ensemble, or a posterior
        inner = inner.learner
    chooses = hasattr(inner, "device") or hasattr(getattr(inner, "recipe", None), "device")
    return make(name, **options, device=device) if chooses else made


QUICK_SEEDS = 2
QUICK_ROUNDS = 4
QUICK_ITEMS = 10_000
QUICK_TEST_ITEMS = 2_000


@dataclass(frozen=True)
class Budget:
    """What ``--quick`` makes smaller in a plan."""

    rounds: int
    seeds: int
    full: bool
    encoder: str | None

    def smaller(self, kind: str, *, full: bool | None) -> Budget:
        """The quick form: what was named on the command line (encoder, --full) stays."""
        encoder = self.encoder or ("patches-fast" if kind == "image" else None)
        return Budget(
            rounds=min(self.rounds, QUICK_ROUNDS),
            seeds=min(self.seeds, QUICK_SEEDS),
            full=full is True,
            encoder=encoder,
        )


def smaller(data: Any) -> Any:
    """A data set of at most 10,000 items and 2,000 test items, the classes in proportion.

    The plan records it: the name says how many items are left, and the fingerprint is that of
    the smaller set.
    """
    import dataclasses

    pool_rows = sample(data.labels, QUICK_ITEMS, "pool")
    changes: dict[str, Any] = {}
    if len(pool_rows) < len(data.pool):
        changes |= {"pool": data.pool.subset(pool_rows), "labels": data.labels[pool_rows]}
        changes["name"] = f"{data.name}, {len(pool_rows)} of {len(data.pool)} items"
    if data.test is not None and data.test_labels is not None:
        test_rows = sample(data.test_labels, QUICK_TEST_ITEMS, "test")
        if len(test_rows) < len(data.test):
            changes["test"] = data.test.subset(test_rows)
            changes["test_labels"] = data.test_labels[test_rows]
    return dataclasses.replace(data, **changes)


def sample(labels: Any, most: int, name: str) -> Any:
    """At most ``most`` rows, sorted, every class in proportion and none lost.

    >>> sample([0, 0, 0, 0, 1, 1], 3, "pool").tolist()
    [1, 2, 5]
    """
    import numpy as np

    from labelwise.kernels import numpy_stream

    labels = np.asarray(labels)
    if len(labels) <= most:
        return np.arange(len(labels))
    # In random order within a class, then spread evenly over the whole: cutting off the end
    # takes the same share of every class, and the first of each class comes first.
    order = numpy_stream(0, "quick", name).permutation(len(labels))
    _, inverse, counts = np.unique(labels[order], return_inverse=True, return_counts=True)
    ranks = np.empty(len(labels), dtype=np.int64)
    for number in range(len(counts)):
        here = np.flatnonzero(inverse == number)
        ranks[here] = np.arange(len(here))
    place = ranks / counts[inverse]
    return np.sort(order[np.argsort(place, kind="stable")[:most]])
