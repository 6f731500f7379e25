"""GALAXY against a search on the graph itself, and what it does without labels."""

from collections import deque
from itertools import pairwise

import numpy as np
import pytest

from labelwise.errors import InputError
from labelwise.strategies import select


def line_of(probs, k, on_line):
    """Rows of a class's line, surest first; of distinct scores."""
    top = probs.max(1)
    score = probs[:, k] - top + 1e-8 * top
    return sorted(on_line, key=lambda row: -score[row])


def path_of_order(line, color, step, k):
    """Shortest path from a row labeled k to one labeled otherwise; neighbors up to step apart."""
    place = {row: i for i, row in enumerate(line)}
    before = {row: None for row in line if color.get(row) == k}
    queue = deque(before)
    while queue:
        row = queue.popleft()
        for i in range(max(0, place[row] - step), min(len(line), place[row] + step + 1)):
            near = line[i]
            if near in before or (color.get(row) is not None and color.get(near) is not None):
                continue
            before[near] = row
            if color.get(near) is not None:
                path = [near]
                while before[path[-1]] is not None:
                    path.append(before[path[-1]])
                return path
            queue.append(near)
    return None


def draw(seed, size=60, classes=3, known=8):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, size)
    logits = rng.normal(size=(size, classes)) + 2 * np.eye(classes)[truth]
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labeled = rng.permutation(size)[:known]
    return probs, truth, labeled


@pytest.mark.parametrize("pending", ["unknown", "predicted"])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_first_picks_are_on_the_shortest_path(pending, classes):
    compared, wide = 0, 0
    for seed in range(25):
        probs, truth, labeled = draw(seed, classes=classes)
        picks = select(
            "galaxy", 12, probs=probs, labeled=labeled, labels=truth[labeled], pending=pending
        )
        believed = probs.argmax(1) if pending == "predicted" else None
        for n in range(1, 13):
            done = picks.rows[: n - 1].tolist()
            expected = continued(probs, truth, labeled, done, believed)
            if expected is None:
                break
            step, length, ties = expected
            assert picks.rows[n - 1] in ties, (seed, n, step, length)
            compared += len(ties) == 1
            wide += step > 1
    assert compared > 50
    assert wide > 10


def continued(probs, truth, labeled, done, answers):
    """What may come after some picks: order, length of the path, and rows that are its middle."""
    color = {row: int(truth[row]) for row in labeled.tolist()}
    gone = set()
    if answers is None:
        gone = set(done)
    else:
        color |= {row: int(answers[row]) for row in done}
    classes = probs.shape[1]
    k = (len(labeled) + len(done)) % classes if classes > 2 else 0
    line = line_of(probs, k, [row for row in range(len(probs)) if row not in gone])
    mine = {row: (k if c == k else -1) for row, c in color.items()}
    if len(set(mine.values())) < 2:
        return None
    step = 1
    while (path := path_of_order(line, mine, step, k)) is None:
        step += 1
    return step, len(path), middles(line, mine, step, k, len(path))


def middles(line, color, step, k, length):
    """Every row that is the middle of some path of that length."""
    if step == 1:
        at = [i for i, row in enumerate(line) if row in color]
        pairs = [(i, j) for i, j in pairwise(at) if color[line[i]] != color[line[j]] and j - i > 1]
        shortest = min(j - i for i, j in pairs)
        found = set()
        for i, j in pairs:
            if j - i == shortest:
                assert shortest + 1 == length
                path = list(range(i, j + 1))
                path = path if color[line[i]] != k else path[::-1]
                found.add(line[path[length // 2]])
        return found
    assert length == 3
    near = []
    for i, row in enumerate(line):
        kinds = {color[o] for o in line[max(0, i - step) : i + step + 1] if o in color}
        if row not in color and len(kinds) == 2:
            near.append(row)
    return set(near)


@pytest.mark.parametrize("seed", range(10))
def test_sequential_is_one_row_at_a_time_with_its_label(seed):
    probs, truth, labeled = draw(seed, classes=3 + seed % 2)

    def oracle_labels():
        return truth

    known = labeled.tolist()
    whole = select(
        "galaxy_sequential",
        15,
        probs=probs,
        labeled=labeled,
        labels=truth[labeled],
        providers=[oracle_labels],
    )
    for row in whole.rows.tolist():
        expected = continued(probs, truth, labeled, known[len(labeled) :], truth)
        if expected is not None:
            one = select("galaxy", 1, probs=probs, labeled=known, labels=truth[known])
            assert one.rows.tolist() == [row]
            assert row in expected[2]
        known.append(row)


def test_by_hand_the_middle_of_the_shortest_path():
    first = np.linspace(0.95, 0.05, 10)
    probs = np.stack([first, 1 - first], 1)
    # 0 | 1 2 3 | 4 | 5 | 6 7 8 | 9 with labels at 0, 4, 6, 9: paths 4-6 (one row) and 0-4, 6-9.
    labeled, labels = [0, 4, 6, 9], [0, 1, 0, 1]
    picks = select("galaxy", 3, probs=probs, labeled=labeled, labels=labels)
    # Row 5 lies alone between 4 and 6. Then 6-9 has rows 7, 8: the middle nearer 6, then 8.
    assert picks.rows.tolist() == [5, 7, 8]
    assert not picks.notes


def test_at_an_even_path_the_row_nearer_the_class():
    first = np.linspace(0.9, 0.1, 6)
    probs = np.stack([first, 1 - first], 1)
    picks = select("galaxy", 1, probs=probs, labeled=[0, 5], labels=[0, 1])
    assert picks.rows.tolist() == [2]
    picks = select("galaxy", 1, probs=probs, labeled=[0, 5], labels=[1, 0])
    assert picks.rows.tolist() == [3]


def test_past_a_boundary_that_is_found_the_nearest_row_comes():
    first = np.linspace(0.9, 0.1, 9)
    probs = np.stack([first, 1 - first], 1)
    # Labels at 2..5 leave no path; row 1 is 3 places from the first other label, row 6 is 2
    # places from the last own one.
    labeled, labels = [2, 3, 4, 5], [0, 0, 0, 1]
    picks = select("galaxy", 2, probs=probs, labeled=labeled, labels=labels)
    assert picks.rows.tolist() == [6, 7]


def test_predicted_labels_let_a_batch_bisect_further():
    first = np.linspace(0.99, 0.01, 17)
    probs = np.stack([first, 1 - first], 1)
    ends = {"labeled": [0, 16], "labels": [0, 1]}
    asked = select("galaxy", 4, probs=probs, pending="predicted", **ends)
    # 8 is a tie, taken for class 0; then between 8 and 16, and on towards 8.
    assert asked.rows.tolist() == [8, 12, 10, 9]
    assert select("galaxy", 4, probs=probs, **ends).rows.tolist() == [8, 7, 9, 6]


def test_classes_take_turns_from_the_number_of_labels():
    probs, truth, labeled = draw(0, classes=3, known=9)
    more = {"probs": probs, "labels": truth[labeled], "labeled": labeled}
    fixed = select("galaxy", 1, **more).rows.tolist()
    assert fixed[0] in continued(probs, truth, labeled, [], None)[2]
    drawn = {select("galaxy", 1, turns="random", seed=s, **more).rows[0] for s in range(20)}
    assert len(drawn) == 3


def test_without_labels_picks_are_random_and_say_so():
    probs, truth, labeled = draw(0)
    picks = select("galaxy", 5, probs=probs)
    assert picks.notes == ("nothing is labeled: picks are random",)
    others = {tuple(select("galaxy", 5, probs=probs, seed=seed)) for seed in range(5)}
    assert len(others) == 5
    assert "labels were not passed" in select("galaxy", 5, probs=probs, labeled=labeled).notes[0]
    single = select("galaxy", 5, probs=probs, labeled=labeled, labels=np.zeros(8, int))
    assert len(set(single)) == 5
    assert truth is not None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"pending": "maybe"}, "pending must be"),
        ({"turns": "left"}, "turns must be"),
        ({"labels": [0, 7]}, "labels must be classes 0..2, but one is 7"),
    ],
)
def test_what_it_refuses(options, match):
    probs = draw(0)[0]
    options = {"labels": [0, 1]} | options
    with pytest.raises(InputError, match=match):
        select("galaxy", 3, probs=probs, labeled=[0, 1], **options)
