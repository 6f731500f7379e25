"""The report: every picture and sentence its numbers allow, and nothing a name could inject."""

import base64
import io
import re
from dataclasses import dataclass
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from labelwise.benchmark import drawing, findings
from labelwise.benchmark.contact_sheet import first_picks
from labelwise.benchmark.report import write_report
from labelwise.benchmark.view import make_view
from labelwise.errors import ResultsError

HOSTILE = "<script>alert(1)</script>\"'&$x^2$</svg>漢字"
VOID = {"meta", "img", "br", "path", "use"}


@dataclass
class FakePool:
    """As much of a pool as a report needs."""

    ids: list
    kind: str
    make: object

    def items(self, rows):
        return [self.make(row) for row in rows]


@dataclass
class FakeData:
    pool: FakePool
    labels: np.ndarray
    classes: list


def fake_data(kind, make, ids=None, classes=("cat", "dog", "ship", "truck")):
    ids = [f"item/{row}" for row in range(2000)] if ids is None else list(ids)
    return FakeData(FakePool(ids, kind, make), np.arange(len(ids)) % len(classes), list(classes))


def image(row):
    return Image.new("RGB", (8, 8), (row % 256, 90, 200))


class Page(HTMLParser):
    """A page taken apart: tags with attributes, text, and whether every tag is closed."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.open, self.broken = [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.broken.append(tag)

    def handle_data(self, data):
        self.text.append(data)

    def all_text(self):
        return " ".join(" ".join(self.text).split())

    def pictures(self):
        return [attributes for tag, attributes in self.tags if tag == "svg"]


def written(tmp_path, results, **kwargs):
    path = write_report(results, tmp_path, **kwargs)
    page = Page(path)
    assert not page.broken, page.broken
    assert not page.open, page.open
    return page, {file.stem for file in path.parent.glob("*.png")}


def test_a_whole_run_has_every_picture_and_its_numbers(synthetic_results, tmp_path):
    results = synthetic_results(("random", "margin", "badge"))
    page, files = written(
        tmp_path, results, data=fake_data("image", image), command="labelwise simulate pets"
    )
    assert files == {
        "learning_curves",
        "advantage",
        "differences",
        "label_efficiency",
        "class_balance",
        "seconds",
        "contact_sheet",
    }
    assert len(page.pictures()) == len(files) - 1  # the contact sheet is the page's own images
    text = page.all_text()
    assert "badge and margin beat random on area under the curve" in text
    assert "Smallest effect that 5 paired seeds can show" in text
    assert "labelwise simulate pets" in text
    row = next(row for row in findings.comparisons(results) if row.strategy == "badge")
    assert findings.percent(row.final, row.final_std) in text
    assert findings.interval(row.area_difference) in text


def test_the_page_stands_alone(synthetic_results, tmp_path):
    page, _ = written(
        tmp_path, synthetic_results(("random", "badge")), data=fake_data("image", image)
    )
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "srcset"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/")), (tag, value)
    assert "default-src 'none'" in page.source
    outside = re.findall(r"(?:url\(|@import)\s*['\"]?(?!#)[^)]*", page.source)
    assert not outside, outside


def test_ids_on_the_page_are_distinct_and_references_lead_somewhere(synthetic_results, tmp_path):
    page, _ = written(
        tmp_path, synthetic_results(("random", "badge")), data=fake_data("image", image)
    )
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    wanted = re.findall(r"url\(#([^)]+)\)", page.source)
    wanted += [a["xlink:href"][1:] for _, a in page.tags if "xlink:href" in a]
    assert wanted
    assert set(wanted) <= set(ids)


@pytest.mark.parametrize("kind", ["image", "text", "table", "array"])
def test_hostile_names_are_shown_and_nothing_else(synthetic_results, tmp_path, kind):
    ids = [f"{HOSTILE}{row}" for row in range(2000)]
    classes = [f"{HOSTILE} a", f"{HOSTILE} b", "ship", "truck"]
    make = {
        "image": image,
        "text": lambda row: HOSTILE,
        "table": lambda row: {HOSTILE: HOSTILE, "n": row},
        "array": lambda row: np.zeros(3),
    }[kind]
    results = synthetic_results(
        ("random", HOSTILE), ids=ids, classes=classes, name=HOSTILE, seeds=2, rounds=2
    )
    data = fake_data(kind, make, ids, classes)
    page, _ = written(tmp_path, results, data=data, command=HOSTILE)
    assert "script" not in {tag for tag, _ in page.tags}
    assert len(page.pictures()) == 6
    text = page.all_text()
    assert text.count("<script>alert(1)</script>") > 4
    assert "漢字" in text


def test_the_true_class_and_the_picture_of_each_first_pick_are_shown(synthetic_results, tmp_path):
    results, data = synthetic_results(("random",), seeds=1), fake_data("image", image)
    page, _ = written(tmp_path, results, data=data)
    shown = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [one["alt"] for one in shown[:16]] == results.picks("random", seed=0, round=1)[:16]
    encoded = base64.b64decode(shown[0]["src"].split(",", 1)[1])
    row = data.pool.ids.index(shown[0]["alt"])
    assert Image.open(io.BytesIO(encoded)).getpixel((0, 0)) == (row % 256, 90, 200)
    sheet = first_picks(results, data)
    assert sheet.picks["random"][0].label == data.classes[row % 4]


def test_texts_and_tables_are_listed(synthetic_results):
    results = synthetic_results(("random", "margin"), seeds=1)
    sheet = first_picks(results, fake_data("text", lambda row: f"say {row} \n" * 99))
    pick = sheet.picks["margin"][0]
    assert pick.item == results.picks("margin", seed=0, round=1)[0]
    assert pick.text.startswith(f"say {pick.item[5:]} say")
    assert len(pick.text) == 240
    values = {
        "age": float("nan"),
        "town": None,
        "w": 1 / 3,
        "n": 7,
        **{f"x{i}": 0 for i in range(9)},
    }
    sheet = first_picks(results, fake_data("table", lambda row: values))
    assert sheet.columns == list(values)[:8]
    assert sheet.picks["random"][0].values[:4] == ["–", "–", "0.3333", "7"]
    sheet = first_picks(results, None)
    assert (sheet.kind, sheet.labeled) == ("ids", False)
    assert [pick.item for pick in sheet.picks["random"]] == results.picks(
        "random", seed=0, round=1
    )[:16]


def test_random_wins_when_it_does(synthetic_results, tmp_path):
    results = synthetic_results(("random", "typiclust"), gains={"random": 0, "typiclust": -0.03})
    page, _ = written(tmp_path, results)
    text = page.all_text()
    assert "Random wins here: no strategy has a higher mean area under the curve" in text
    assert "typiclust is worse than random" in text


def test_a_difference_within_chance_is_not_called_one(synthetic_results, tmp_path):
    gains = {"random": 0.0, "margin": 0.0005}
    results = synthetic_results(("random", "margin"), gains=gains, noise=0.02, seeds=3)
    text = written(tmp_path, results)[0].all_text()
    assert "beats random" not in text
    assert "cannot be told from random" in text
    assert "not told apart" in text


def test_one_seed_has_no_interval_and_says_so(synthetic_results, tmp_path):
    page, files = written(tmp_path, synthetic_results(("random", "badge"), seeds=1))
    text = page.all_text()
    assert "One seed shows neither spread nor chance" in text
    assert "Nothing is shown to beat random here" in text
    assert "nan" not in text.lower()
    assert "no test" in text
    assert "differences" in files


def test_without_random_nothing_is_compared(synthetic_results, tmp_path):
    page, files = written(tmp_path, synthetic_results(("margin", "badge")))
    text = page.all_text()
    assert "There is no random baseline" in text
    assert "p (Holm)" not in text
    assert files == {"learning_curves", "class_balance", "seconds"}


@pytest.mark.parametrize("strategies", [("random",), ("margin",)])
def test_a_single_strategy(synthetic_results, tmp_path, strategies):
    page, files = written(tmp_path, synthetic_results(strategies, full=False))
    assert "learning_curves" in files
    assert "differences" not in files
    assert "accuracy with all labels" not in page.all_text()


@pytest.mark.parametrize(
    "keep",
    [
        lambda strategy, seed, round_: (seed, strategy) < (2, "margin"),
        lambda strategy, seed, round_: round_ < 2 or strategy == "random",
        lambda strategy, seed, round_: strategy == "random",
        lambda strategy, seed, round_: round_ == 0,
        lambda strategy, seed, round_: False,
    ],
    ids=["two seeds", "half the rounds", "random alone", "initial fits", "nothing"],
)
def test_an_unfinished_run_is_shown_as_far_as_it_got(synthetic_results, tmp_path, keep):
    results = synthetic_results(("random", "margin"), keep=keep, full=False, rounds=3)
    text = written(tmp_path, results)[0].all_text()
    assert f"Unfinished: {len(results.table)} of 40 rounds are in" in text
    assert "nan" not in text.lower()


def test_no_round_and_a_cold_start(synthetic_results, tmp_path):
    written(tmp_path / "a", synthetic_results(("random", "margin"), rounds=0))
    results = synthetic_results(("random", "margin"), initial=0, rounds=1)
    assert "from a cold start" in written(tmp_path / "b", results)[0].all_text()


def test_many_classes_and_many_strategies(synthetic_results, tmp_path):
    names = ("random", *(f"strategy_{number}" for number in range(15)))
    results = synthetic_results(names[:9], seeds=2, rounds=1, classes=[f"c{n}" for n in range(99)])
    written(tmp_path, results)
    looks = drawing.looks(names)
    assert len({(look.color, str(look.dash), look.mark) for look in looks.values()}) == len(names)


def test_the_summary_has_the_classes_of_the_picks(synthetic_results, tmp_path):
    results = synthetic_results(("random", "margin"), rounds=3)
    write_report(results, tmp_path)
    text = (tmp_path / "report" / "summary.md").read_text()
    shares = make_view(results, None).shares["margin"]
    assert "| strategy | cat | dog | ship | truck |" in text
    assert f"| margin | {' | '.join(f'{100 * share:.1f}' for share in shares)} |" in text
    write_report(synthetic_results(seeds=2, classes=[f"c{n}" for n in range(13)]), tmp_path / "b")
    assert "Share of each class" not in (tmp_path / "b" / "report" / "summary.md").read_text()


def test_of_many_strategies_the_best_and_the_worst_are_drawn(synthetic_results, tmp_path):
    gains = {f"s{i:02}": 0.004 * i for i in range(-10, 15)}
    names = ("random", *gains)
    view = make_view(synthetic_results(names, gains=gains, noise=0.0001), None)
    best = {f"s{i:02}" for i in range(9, 15)}
    assert set(view.featured) == {"random", *best, "s-10", "s-9"}
    assert [row.strategy for row in view.rows][:3] == ["s14", "s13", "s12"]
    assert {row.strategy for row in view.rows} == set(names) == set(view.looks)
    page, _ = written(tmp_path, view.results)
    text = page.all_text()
    assert "the 6 best, the 2 worst, not 17 more" in text  # but they are in the table
    assert all(name in text for name in names)
    assert re.search(r"s14, s13, s12, s11, s10, s09, s08, s07 and \d+ more beat random", text)
    assert "s-10, s-9, s-8" in text


@pytest.mark.filterwarnings("error")
def test_long_names_leave_room_for_the_lines(synthetic_results, tmp_path):
    long = "similar:function=logdetcmi:query_classes=0+1+2+3+4+5+6:lam=0.5"
    results = synthetic_results(("random", long), gains={"random": 0.0, long: 0.01})
    page, _ = written(tmp_path, results)  # a layout that does not fit is warned of
    assert long in page.all_text()


def test_a_folder_that_cannot_be_made_is_refused(synthetic_results, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match=r"cannot create .*file"):
        write_report(synthetic_results(seeds=1), tmp_path / "file")


def test_writing_again_gives_the_same_bytes(synthetic_results, tmp_path):
    results = synthetic_results(("margin",), seeds=2, rounds=1)
    first, again = (write_report(results, tmp_path / name).parent for name in ("a", "b"))
    for file in sorted(first.iterdir()):
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name


@pytest.mark.parametrize("seed", range(50))
def test_labels_are_spread_in_order_and_apart(seed):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=generator.integers(1, 9)).round(1).tolist()
    places = drawing.spread(values, gap=0.5, low=-4.0, high=4.0)
    order = np.argsort(values, kind="stable")
    assert np.all(np.diff(np.array(places)[order]) >= 0.5 - 1e-9)
    assert min(places) >= -4 - 1e-9
    assert max(places) <= 4 + 1e-9
    alone = [p for p, v in zip(places, values) if all(abs(v - w) > 8 for w in values if w != v)]
    assert all(place in values for place in alone)


def test_labels_that_have_room_stay_where_they_are():
    assert drawing.spread([1.0, 3.0, 2.0], gap=0.5, low=0, high=4) == [1.0, 3.0, 2.0]


def test_svg_takes_the_colors_of_the_page():
    figure, (axis,) = drawing.new_figure(3, 2)
    axis.plot([0, 1], [0, 1], color=drawing.SERIES[1])
    drawing.title(axis, "a $title")
    svg = drawing.inline_svg(figure, "name", 'alt "text"')
    assert f"var(--series-2, {drawing.SERIES[1]})" in svg
    assert "a $title" in svg
    assert "DejaVu" not in svg
    assert 'aria-label="alt &quot;text&quot;"' in svg
