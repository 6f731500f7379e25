"""``labelwise pretrain``: a network learns from a pool without labels, and becomes an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelwise.cli.options import (
    AsJson,
    HoldoutShare,
    IdColumn,
    LabelColumn,
    Seed,
    SplitColumn,
    Threads,
    TrainingDevice,
    check_device,
    parse_pairs,
    set_threads,
)
from labelwise.cli.output import emit_json, note, say
from labelwise.cli.progress import progress

if TYPE_CHECKING:
    from labelwise.learners.pretraining import Looked, Pretraining

COLLAPSED = 0.02
"""A spread below this says that all items have nearly one embedding."""


def pretrain(
    pool: Annotated[
        str,
        typer.Argument(
            help="What simulate takes as DATA: a folder of images, a table, an array, or the name "
            "of a data set. Labels are only looked at to say how good the result is.",
            show_default=False,
            metavar="POOL",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="The network, its log and checkpoints; created, or resumed. Then use it with "
            "simulate --encoder pretrained:FOLDER.",
            show_default=False,
        ),
    ],
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="simclr, moco, simsiam, byol, barlow_twins, vicreg, dino or rotation; options as "
            "in simclr:temperature=0.5.",
        ),
    ] = "simclr",
    network: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="resnet18 or mlp.", show_default="by kind"),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(metavar="N", help="Passes over the pool.", show_default="200"),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(metavar="N", help="As many epochs as take this long, instead of --epochs."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Side of the images in pixels.", show_default="as is"),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Of the recipe, such as unlabeled_minibatch=1024 or precision=bf16; repeatable.",
        ),
    ] = None,
    network_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Of the network, such as width=32; repeatable."),
    ] = None,
    every: Annotated[
        int, typer.Option(metavar="N", help="Epochs between checkpoints and measurements.")
    ] = 10,
    seed: Seed = 0,
    label: LabelColumn = None,
    id: IdColumn = None,
    split: SplitColumn = None,
    holdout: HoldoutShare = 0.2,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder of decoded items.", show_default="the user's cache"
        ),
    ] = None,
    threads: Threads = None,
    device: TrainingDevice = None,
    json: AsJson = False,
) -> None:
    """Pretrain a network on a pool without labels; what comes out is an encoder.

    Killed or interrupted, the same command goes on from the last checkpoint. Under torchrun all
    processes share the work.
    """
    set_threads(threads)
    recipe = parse_pairs(option or [], "--option")
    given = parse_pairs(network_option or [], "--network-option")
    chosen = check_device(device)

    from labelwise.benchmark import default_cache
    from labelwise.learners.parallel import joined
    from labelwise.learners.pretraining import pretrain as run
    from labelwise.pools import open_data

    data = open_data(pool, label=label, id=id, split=split, holdout=holdout)
    try:
        with joined() as ranks, progress() as listener:
            for line in data.notes if ranks.first else ():
                note(f"note: {line}")
            done = run(
                data,
                out,
                method=method,
                network=network,
                network_options=given,
                size=size,
                epochs=epochs,
                minutes=minutes,
                seed=seed,
                every=every,
                cache=default_cache() if cache is None else cache,
                listener=lambda seen: listener(_event(seen)),
                **recipe,
                **({} if chosen is None else {"device": chosen}),
            )
    except KeyboardInterrupt:
        raise typer.Abort(
            f"checkpoints are kept in {out}; run the same command again to go on"
        ) from None
    if ranks.first:
        _present(done, json=json)


def _event(seen: Looked) -> Any:
    from labelwise.benchmark.progress import Event

    passed = seen.passed
    words = f"loss {passed.loss:.4f}, learning rate {passed.learning_rate:.3g}"
    if seen.found:
        words += f", {_words(seen.found)}"
    return Event("round", passed.epoch, passed.epochs, words, seen.left)


def _words(found: dict[str, float]) -> str:
    """What was measured, for people.

    >>> _words({"spread": 0.5, "effective_rank": 20.25, "knn": 0.625})
    'kNN 62.5 %, spread 0.50, effective rank 20.2'
    """
    words = [f"kNN {100 * found['knn']:.1f} %"] if "knn" in found else []
    words += [f"kNN on test {100 * found['knn_test']:.1f} %"] if "knn_test" in found else []
    words += [f"spread {found['spread']:.2f}", f"effective rank {found['effective_rank']:.1f}"]
    return ", ".join(words)


def _present(done: Pretraining, *, json: bool) -> None:
    if json:
        emit_json({**done._asdict(), "folder": str(done.folder)})
        return
    say(f"{done.epochs} epochs in {done.seconds:.0f} s: loss {done.loss:.4f}, {_words(done.found)}")
    if done.found["spread"] < COLLAPSED:
        note("note: it has collapsed, all items have nearly one embedding; try another method")
    for file in sorted(done.folder.glob("*.npy")):
        say(f"for simulate: --evidence {file.stem}={done.folder}")
    say(f"encoder: pretrained:{done.folder}")
