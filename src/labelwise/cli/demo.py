"""``labelwise demo``: a whole simulation on data that is already here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labelwise.cli.options import AsJson, set_threads
from labelwise.cli.output import note, say
from labelwise.cli.running import present, run_simulation

STRATEGIES = "random,margin,badge,k_center,typiclust"
ROUNDS, SEEDS = 7, 5


def demo(
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Results folder; created, or resumed.")
    ] = Path("demo"),
    threads: Annotated[
        int, typer.Option(metavar="N", help="Cores to use; so small a job is fastest on one.")
    ] = 1,
    json: AsJson = False,
) -> None:
    """Compare strategies on 1,797 handwritten digits, in about a minute.

    The images come with scikit-learn, so nothing is downloaded.
    """
    set_threads(threads)
    from labelwise.learners import make_encoder
    from labelwise.pools import open_data

    note("labelwise demo: which handwritten digits are worth labeling first?")
    results, page = run_simulation(
        open_data("digits"),
        out,
        strategies=STRATEGIES,
        initial=20,
        batch=20,
        rounds=ROUNDS,
        seeds=SEEDS,
        # Images of 8 x 8 pixels need no more, and it keeps the demo at a minute.
        encoder=make_encoder("patches", filters=50, size=16),
        learner="logistic",
        cache=out / "cache",
    )
    present(results, page, json=json)
    if not json:
        say()
        say("Open the report in a browser. What to look at:")
        say("  the learning curves  - who needs fewer labels for the same accuracy;")
        say("  the dots             - whether the difference to random is more than luck;")
        say("  the first picks      - what each strategy finds worth asking about.")
        say("Then run it on your own data: labelwise simulate YOUR_DATA --out results")
