"""Put a simulation's summary and pictures into this folder.

    labelwise simulate ... --out runs/letter
    python docs/results/publish.py runs/letter letter

writes ``letter.md``, ``letter-learning_curves.png`` and ``letter-differences.png`` here.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent


def publish(run: Path, name: str) -> None:
    """Copy ``run/report/summary.md`` and the pictures it shows, renamed after ``name``."""
    report = run / "report"
    text = (report / "summary.md").read_text()
    for picture in report.glob("*.png"):
        if f"]({picture.name})" in text:
            shutil.copyfile(picture, HERE / f"{name}-{picture.name}")
            text = text.replace(f"]({picture.name})", f"]({name}-{picture.name})")
    (HERE / f"{name}.md").write_text(text)


if __name__ == "__main__":
    publish(Path(sys.argv[1]), sys.argv[2])
