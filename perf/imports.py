"""How long the command line and the import keep a user waiting, in fresh processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from perf.common import machine, median_seconds, table


def _seconds(command: list[str], repeats: int) -> float:
    def call() -> None:
        subprocess.run(command, check=True, capture_output=True)

    return median_seconds(call, repeats)


def run(quick: bool = False) -> list[dict[str, object]]:
    """A row per command; a bare interpreter is the floor."""
    repeats = 3 if quick else 9
    python = sys.executable
    command = str(Path(python).parent / "labelwise")
    bare = _seconds([python, "-c", "pass"], repeats)
    rows: list[dict[str, object]] = [{"command": "python -c pass", "seconds": bare}]
    for name, line, limit in (
        ("import labelwise", [python, "-c", "import labelwise"], 0.3),
        ("labelwise --help", [command, "--help"], 0.5),
        ("labelwise strategies", [command, "strategies"], None),
        ("import torch", [python, "-c", "import torch"], None),
    ):
        rows.append({"command": name, "seconds": _seconds(line, repeats), "limit": limit or ""})
    return rows


if __name__ == "__main__":
    start = time.perf_counter()
    print(machine())
    print(table(run()))
    print(f"{time.perf_counter() - start:.0f} s")
