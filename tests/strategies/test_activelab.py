"""ActiveLab against its formulas, annotation by annotation, and what it decides."""

import math

import numpy as np
import pytest

import labelwise as lw
from labelwise.errors import InputError
from labelwise.strategies.activelab import activelab_scores, best_power

SIZE, CLASSES = 60, 3


def make(seed=0, annotators=5, several=True):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES, SIZE)
    logits = rng.normal(size=(SIZE, CLASSES)) + 2 * np.eye(CLASSES)[truth]
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    said = []
    for row in range(40):
        asked = rng.choice(annotators, size=rng.integers(1, 4) if several else 1, replace=False)
        for who in asked:
            wrong = rng.random() < 0.1 + 0.1 * who
            said.append((row, who, rng.integers(0, CLASSES) if wrong else truth[row]))
    return probs, np.array(said), truth


def by_definition(probs, said):
    """The paper's formulas, with plain loops; (N,) quality."""
    votes = {}
    for row, who, what in said.tolist():
        votes.setdefault(row, {})[who] = what
    annotators = sorted(set(said[:, 1].tolist()))

    def majority(row):
        counts = [sum(v == c for v in votes[row].values()) for c in range(CLASSES)]
        return max(range(CLASSES), key=lambda c: (counts[c], probs[row, c]))

    several = [row for row in votes if len(votes[row]) > 1]
    consensus = {row: majority(row) for row in votes}
    share = np.mean([np.mean([v == consensus[r] for v in votes[r].values()]) for r in several])
    classes = [consensus[r] for r in several]
    common = max(set(classes), key=lambda c: (classes.count(c), -c))
    guess = np.mean([c != common for c in classes])
    pairs = [
        (j, votes[r][j] == votes[r][k])
        for r in several
        for j in votes[r]
        for k in votes[r]
        if j != k
    ]
    overall = np.mean([same for _, same in pairs])
    weight = {}
    for j in annotators:
        mine = [same for who, same in pairs if who == j]
        agreement = np.mean(mine) if mine else overall
        weight[j] = max(1 - (1 - agreement) / guess, 1e-6)
    error = np.mean([probs[r].argmax() != consensus[r] for r in several])
    asked = np.mean([len(v) for v in votes.values()])
    model = max(1 - error / guess, 1e-6) * math.sqrt(asked)
    mean = np.mean(list(weight.values()))
    quality = np.empty(len(probs))
    for row in range(len(probs)):
        mine = votes.get(row, {})
        ensemble = []
        for c in range(CLASSES):
            total, top = model, model * probs[row, c]
            for j, what in mine.items():
                total += weight[j]
                top += weight[j] * (share if what == c else (1 - share) / (CLASSES - 1))
            ensemble.append(top / total)
        total = model + sum(weight[j] for j in mine)
        quality[row] = (total * max(ensemble) + mean / CLASSES) / (total + mean)
    return quality


@pytest.mark.parametrize("seed", range(4))
def test_by_definition(seed):
    probs, said, _ = make(seed)
    scores = activelab_scores(probs, said, calibrate=False)
    np.testing.assert_allclose(scores.numpy(), 1 - by_definition(probs, said), atol=1e-12)


def test_single_opinions_by_hand():
    # One annotation a row: model and annotator weigh 1 each, and the model alone tells quality.
    probs = np.array([[0.8, 0.2], [0.8, 0.2], [0.6, 0.4]])
    said = np.array([[0, 0, 0], [1, 0, 1]])
    expected = [(2 * 0.8 + 0.5) / 3, (2 * 0.2 + 0.5) / 3, (0.6 + 0.5) / 2]
    scores = activelab_scores(probs, said, calibrate=False)
    np.testing.assert_allclose(1 - scores.numpy(), expected)


def test_a_label_the_model_doubts_goes_before_a_new_row_and_a_new_row_before_agreement():
    probs = np.array([[0.95, 0.05], [0.95, 0.05], [0.6, 0.4]])
    said = np.array([[0, 0, 1], [1, 0, 0]])
    picks = lw.select("activelab", 3, probs=probs, annotations=said, calibrate=False)
    assert picks.rows.tolist() == [0, 2, 1]
    assert picks.notes == ("2 rows to label again, 1 to label for the first time",)


def test_the_power_fits_the_annotations():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, CLASSES))
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    drawn = np.array([rng.choice(CLASSES, p=p) for p in true])
    sure = true**4 / (true**4).sum(1, keepdims=True)
    assert best_power(sure, np.eye(CLASSES)[drawn]) == pytest.approx(0.25, rel=0.1)


def test_annotators_are_only_names_and_order_does_not_matter():
    probs, said, _ = make()
    renamed = said.copy()
    renamed[:, 1] = np.array([70, 3, 900, 12, 5])[said[:, 1]]
    shuffled = renamed[np.random.default_rng(0).permutation(len(said))]
    one, two = activelab_scores(probs, said), activelab_scores(probs, shuffled)
    np.testing.assert_allclose(one.numpy(), two.numpy(), atol=1e-12)


def test_nothing_annotated_is_least_confidence():
    probs, _, _ = make()
    ours = lw.select("activelab", 20, probs=probs)
    assert ours.rows.tolist() == lw.select("least_confidence", 20, probs=probs).rows.tolist()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([[0, 0, 9]], "annotations must be of classes in 0..2, but entry 0 has 9"),
        ([[SIZE, 0, 0]], "annotations must be of rows in 0..59"),
        ([[1, 0, 0], [1, 0, 2]], "one class a row and annotator, but 0 has two of row 1"),
        ([[0, 0]], "annotations must be"),
        ([[0.5, 0, 0]], "annotations must be"),
    ],
)
def test_bad_annotations(said, message):
    with pytest.raises(InputError, match=message):
        lw.select("activelab", 1, probs=make()[0], annotations=np.array(said))


def test_one_class():
    with pytest.raises(InputError, match="activelab weighs classes"):
        lw.select("activelab", 1, probs=np.ones((4, 1)))


def test_two_annotators_who_always_agree_on_one_class():
    # Nothing beats guessing the only class; weights stay at their least, scores stay numbers.
    probs = np.full((5, 2), 0.5)
    said = np.array([[r, j, 0] for r in range(3) for j in range(2)])
    assert activelab_scores(probs, said).isfinite().all()
