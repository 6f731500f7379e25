"""Join the pages of the whole catalogue into one table: what each strategy gained, and where.

    python docs/results/catalogue.py

reads the four ``catalogue-*.md`` here and writes ``catalogue.md``.
"""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGES = ("letter-100", "letter-500", "cifar10-100", "cifar10-500")
NUMBER = re.compile(r"[-+]?\d+\.\d")
MINUS = "\N{MINUS SIGN}"

HEAD = """# The whole catalogue on real data

What each strategy gains against random, in points of area under the learning curve (AUBC), with
95 % intervals of 5 seeds, paired; **bold** where the interval leaves zero outside (before Holm's
correction, which the pages apply). The mean is over the pages, and orders the rows.

Each page names its command: {pages}. This one is made by `python docs/results/catalogue.py`.

"""


def cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table, without its escapes."""
    parts = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [re.sub(r"\\(.)", r"\1", part).strip() for part in parts]


def gains(page: Path) -> dict[str, str]:
    """The difference of areas by strategy, as the page's first table has it."""
    lines = page.read_text(encoding="utf-8").splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("| strategy | final"))
    found = {}
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        row = cells(line)
        if row[4]:
            found[row[0]] = row[4]
    return found


def numbers(gain: str) -> list[float]:
    """Mean, low and high of a gain written as ``+1.2 [+0.3, +2.1]``."""
    return [float(part) for part in NUMBER.findall(gain.replace(MINUS, "-"))]


def join(pages: dict[str, dict[str, str]]) -> str:
    """The table, by falling mean."""
    names = sorted({name for found in pages.values() for name in found})

    def mean(name: str) -> float:
        known = [numbers(found[name])[0] for found in pages.values() if name in found]
        return sum(known) / len(known)

    def cell(gain: str) -> str:
        sure = len(numbers(gain)) == 3 and numbers(gain)[1] * numbers(gain)[2] > 0
        return f"**{gain}**" if sure else gain

    rows = [["strategy", *pages, "mean"], ["---"] * (len(pages) + 2)]
    for name in sorted(names, key=mean, reverse=True):
        shown = [cell(found[name]) if name in found else "" for found in pages.values()]
        whole = f"{mean(name):+.1f}".replace("-", MINUS) if all(shown) else ""
        rows.append([f"`{name}`", *shown, whole])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def page() -> str:
    """What ``catalogue.md`` has to be."""
    pages = {name: gains(HERE / f"catalogue-{name}.md") for name in PAGES}
    links = ", ".join(f"[{name}](catalogue-{name}.md)" for name in PAGES)
    return HEAD.format(pages=links) + join(pages)


if __name__ == "__main__":
    (HERE / "catalogue.md").write_text(page(), encoding="utf-8")
