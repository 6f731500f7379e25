"""Every benchmark, one after another: ``python -m perf [--quick] [--out FILE] [names ...]``."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from perf.common import machine, table

MODULES = (
    *("imports", "select", "fit", "encode", "images", "training", "many", "kmeans", "kernels"),
    *("coverage", "imagenet", "ray", "scale", "strategies"),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MODULES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument(
        "--out",
        type=Path,
        help="write the tables to this Markdown file too; what it holds by hand is lost",
    )
    given = parser.parse_args()
    command = "python -m perf " + " ".join(sys.argv[1:])
    parts = [f"# Speed\n\nMade by `{command.strip()}` on {machine()}.\n"]
    for name in given.names or MODULES:
        module = importlib.import_module(f"perf.{name}")
        about = (module.__doc__ or "").strip()
        parts.append(f"## {name}\n\n{about}\n\n{table(module.run(given.quick))}\n")
        sys.stdout.write(parts[-1] + "\n")
        sys.stdout.flush()
    if given.out:
        given.out.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
