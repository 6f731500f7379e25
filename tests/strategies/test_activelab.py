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


def by_definition(probs, said, against="consensus"):
    """The formulas of the authors' code, with plain loops; (N,) quality."""
    votes = {}
    for row, who, what in said.tolist():
        votes.setdefault(row, {})[who] = what
    annotators = sorted(set(said[:, 1].tolist()))

    def majority(row):
        counts = [sum(v == c for v in votes[row].values()) for c in range(CLASSES)]
        return max(range(CLASSES), key=lambda c: (counts[c], probs[row, c]))

    several = [row for row in votes if len(votes[row]) > 1]
    pairs = [
        (j, votes[r][j] == votes[r][k])
        for r in several
        for j in votes[r]
        for k in votes[r]
        if j != k
    ]
    met = {j: [same for who, same in pairs if who == j] for j in annotators}
    agreement = {j: np.mean(mine) for j, mine in met.items() if mine}
    mean_agreement = np.mean(list(agreement.values()))

    def weights(consensus):
        share = np.mean([np.mean([v == consensus[r] for v in votes[r].values()]) for r in several])
        classes = [consensus[r] for r in several]
        common = max(set(classes), key=lambda c: (classes.count(c), -c))
        guess = np.mean([c != common for c in classes])
        error = np.mean([probs[r].argmax() != consensus[r] for r in several])
        asked = np.mean([len(v) for v in votes.values()])
        model = max(1 - error / guess, 1e-6) * math.sqrt(asked)
        worth = {
            j: max(1 - (1 - agreement.get(j, mean_agreement)) / guess, 1e-6) for j in annotators
        }
        return share, model, worth

    def ensemble(row, share, model, worth):
        total, voices = model, model * probs[row]
        for j, what in votes.get(row, {}).items():
            total += worth[j]
            slip = (1 - share) / (CLASSES - 1)
            voices = voices + worth[j] * np.where(np.arange(CLASSES) == what, share, slip)
        return voices / total, total

    known = weights({row: majority(row) for row in votes})
    consensus = {row: ensemble(row, *known)[0].argmax() for row in votes}
    if against == "consensus":
        known = weights(consensus)
    mean = np.mean(list(known[2].values()))
    quality = np.empty(len(probs))
    for row in range(len(probs)):
        voices, total = ensemble(row, *known)
        best = voices[consensus.get(row, voices.argmax())]
        quality[row] = (total * best + mean / CLASSES) / (total + mean)
    return quality


@pytest.mark.parametrize("against", ["consensus", "majority"])
@pytest.mark.parametrize("seed", range(6))
def test_by_definition(seed, against):
    probs, said, _ = make(seed)
    alone = np.array([[40, 77, 0], [41, 77, 1]])  # this annotator met nobody
    said = np.concatenate([said, alone])
    scores = activelab_scores(probs, said, calibrate=False, against=against)
    np.testing.assert_allclose(scores.numpy(), 1 - by_definition(probs, said, against), atol=1e-12)


def test_weighing_once_more_makes_a_difference():
    pools = [make(seed)[:2] for seed in range(6)]
    both = [
        [by_definition(*pool, against) for against in ("consensus", "majority")] for pool in pools
    ]
    assert max(np.abs(one - two).max() for one, two in both) > 0.01


def test_single_opinions_by_hand():
    # One annotation a row: model and annotator weigh 1 each, and the model alone tells quality.
    probs = np.array([[0.8, 0.2], [0.8, 0.2], [0.6, 0.4]])
    said = np.array([[0, 0, 0], [1, 0, 1]])
    expected = [(2 * 0.8 + 0.5) / 3, (2 * 0.2 + 0.5) / 3, (0.6 + 0.5) / 2]
    scores = activelab_scores(probs, said)  # no temperature is fitted to single opinions
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


def test_the_temperature_has_bounds():
    sure = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]])
    said = np.eye(CLASSES)[[0, 1]]
    assert best_power(sure, said) == pytest.approx(10, rel=1e-3)
    assert best_power(sure, said[::-1]) == pytest.approx(1 / 8, rel=1e-3)


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


def test_what_the_model_is_weighed_by_is_one_of_two():
    with pytest.raises(InputError, match='against must be "consensus" or "majority"'):
        lw.select("activelab", 1, probs=make()[0], against="votes")


def test_one_class():
    with pytest.raises(InputError, match="activelab weighs classes"):
        lw.select("activelab", 1, probs=np.ones((4, 1)))


def test_two_annotators_who_always_agree_on_one_class():
    # Nothing beats guessing the only class; weights stay at their least, scores stay numbers.
    probs = np.full((5, 2), 0.5)
    said = np.array([[r, j, 0] for r in range(3) for j in range(2)])
    assert activelab_scores(probs, said).isfinite().all()
