"""A bad input is answered by one line naming the argument, the rule, the value and the fix."""

import numpy as np
import pytest

from labelwise.errors import InputError, ResourceError
from labelwise.strategies import parse_memory, select

PROBS = np.random.default_rng(0).dirichlet(np.ones(3), size=20)
H = np.random.default_rng(1).normal(size=(20, 4))

CAL = {"probs": PROBS, "embeddings": H, "labeled": [0, 1]}


def refused(words, *args, error=InputError, **kwargs):
    with pytest.raises(error, match=words) as caught:
        select(*args, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (0, r"n must be in 1\.\.20 \(the rows that may be picked\), got 0"),
        (21, r"n must be in 1\.\.20"),
        (-3, "got -3"),
        (2.0, "n must be a whole number, got 2.0"),
        (True, "n must be a whole number"),
        ("5", "n must be a whole number, got '5'"),
        (None, "n must be a whole number"),
    ],
)
def test_n(n, words):
    refused(words, "margin", n, probs=PROBS)


def test_n_counts_what_is_left():
    refused(r"n must be in 1\.\.17", "margin", 18, probs=PROBS, labeled=[0, 1, 2])
    refused(r"n must be in 1\.\.2 ", "margin", 3, probs=PROBS, candidates=[4, 5, 6], labeled=[6])
    refused("nothing to pick", "margin", 1, probs=PROBS, labeled=range(20))


@pytest.mark.parametrize(
    ("labeled", "words"),
    [
        ([20], r"labeled must be rows of the pool in 0\.\.19, but entry 0 is 20"),
        ([3, -1], "entry 1 is -1"),
        ([3, 5, 3], "row 3 is there twice"),
        ([0.5], "float64 values"),
        (np.zeros(20, bool), "flatnonzero"),
        ([[1, 2]], "shape"),
    ],
)
def test_labeled(labeled, words):
    refused(words, "margin", 2, probs=PROBS, labeled=labeled)
    refused(words, "k_center", 2, embeddings=H, labeled=labeled)


def test_labels():
    refused("3 labels for 2 rows", "k_center", 2, embeddings=H, labeled=[0, 1], labels=[0, 1, 2])
    refused("pass labeled= too", "k_center", 2, embeddings=H, labels=[0])
    refused("entry 0 is -1", "probcover", 2, embeddings=H, labeled=[0], labels=[-1])


@pytest.mark.parametrize("candidates", [[20], [-1], [1, 1], [0.5]])
def test_candidates(candidates):
    refused("candidates must", "margin", 1, probs=PROBS, candidates=candidates)


def test_row_numbers_that_are_names():
    refused("but one is 10,000,000,000,000; .* ids=", "random", 1, candidates=[10**13, 2])


@pytest.mark.parametrize("more", [{"candidates": []}, {"exclude": range(20)}])
def test_no_candidate_is_left(more):
    words = "nothing to pick: no candidate is left that is not labeled or excluded"
    refused(words, "margin", 1, probs=PROBS, **more)


def test_lists_that_are_none():
    refused("labels must be a list, got 3", "margin", 1, probs=PROBS, labels=3)
    refused("ids must be a list, got 3", "margin", 1, probs=PROBS, ids=3)
    refused("labeled must have", "margin", 1, probs=PROBS, labeled=3)


def test_numbers_of_numpy_are_numbers():
    power = {"probs": PROBS, "picker": "power"}
    one = select("margin", np.int64(4), **power, beta=np.float32(2), seed=np.int8(3))
    assert one.rows.tolist() == select("margin", 4, **power, beta=2, seed=3).rows.tolist()
    assert one.options["beta"] == 2
    some = select(
        "ceal", np.int32(4), probs=PROBS, embeddings=H, round=np.int64(1), threshold=np.float64(0.1)
    )
    assert some.rows.tolist() == select("entropy", 4, probs=PROBS).rows.tolist()
    clusters = {"picker": "per_cluster", "clusters": np.int64(3)}
    assert len(select("margin", 4, probs=PROBS, embeddings=H, **clusters)) == 4


def test_strategy_names():
    refused(r"no strategy 'margn'; did you mean margin\?", "margn", 2, probs=PROBS)
    refused("known: .*typiclust", "qqq", 2, probs=PROBS)
    refused("expected a function, got 3", 3, 2, probs=PROBS)


def test_evidence_names():
    refused(r"'prob' is neither .* did you mean probs", "margin", 2, prob=PROBS)
    refused("'embedings'.*did you mean embeddings", "badge", 2, probs=PROBS, embedings=H)
    refused("'frist' is neither .* badge; did you mean first", "badge", 2, frist="uniform")
    refused("'first' is neither evidence nor an option of margin", "margin", 2, first="largest")


def test_evidence_that_is_known_but_not_needed_is_ignored():
    picks = select("margin", 3, probs=PROBS, embeddings=np.full((20, 2), np.nan), round=2)
    assert picks.rows.tolist() == select("margin", 3, probs=PROBS).rows.tolist()
    refused("pool rows", "margin", 3, probs=PROBS, embeddings=H[:5])


def test_missing_evidence():
    refused(
        "badge needs probs and embeddings and was given logits. Missing: pass embeddings=",
        "badge",
        2,
        logits=PROBS,
    )
    refused("margin needs probs and was given nothing", "margin", 2)
    refused("bald needs draws", "bald", 2, probs=PROBS)
    refused("base needs logits and head_weight and was given logits", "base", 2, logits=PROBS)


def test_evidence_values():
    bad = PROBS.copy()
    bad[6, 1] = np.nan
    refused("probs must be finite, but row 6 holds nan", "margin", 2, probs=bad)
    refused("if these are logits, pass them as logits=", "entropy", 2, probs=PROBS * 3)
    refused(r"probs must be \(N, C\)", "entropy", 2, probs=PROBS[:, 0])
    refused("embeddings must hold numbers", "k_center", 2, embeddings=[["a"]] * 20)
    refused("probs must be of 64 bits at most", "margin", 2, probs=PROBS.astype(np.longdouble))
    refused("cannot read .*nowhere.npy", "margin", 2, probs="nowhere.npy")
    refused("pool rows is 19", "badge", 2, probs=PROBS, embeddings=H[:19])
    refused("number of classes is 2", "base", 2, logits=PROBS, head_weight=np.zeros((2, 4)))


def test_a_zero_vector_has_no_direction():
    h = H.copy()
    h[5] = 0
    refused("row 5", "k_center", 2, embeddings=h, metric="cosine")
    refused("row 5 is a zero vector", "typiclust", 2, embeddings=h)
    refused("row 5 is a zero vector", "probcover", 2, embeddings=h)


def test_ids():
    refused("ids must be distinct, but .*a.* occurs again", "random", 1, ids=["a", "b", "a"])
    refused(
        "says the number of pool rows is 20, but ids says 3",
        "margin",
        1,
        probs=PROBS,
        ids=[1, 2, 3],
    )


def test_other_arguments():
    refused("seed must be a whole number, got 0.5", "margin", 1, probs=PROBS, seed=0.5)
    refused(
        "device must be one this torch can use, got 'gpu'", "margin", 1, probs=PROBS, device="gpu"
    )
    refused(
        'memory must be bytes or text such as "4GB", got', "margin", 1, probs=PROBS, memory="lots"
    )
    refused("memory", "k_center", 1, embeddings=H, memory=10, error=ResourceError)
    refused("no picker 'powr'; did you mean power", "margin", 1, probs=PROBS, picker="powr")
    refused(
        "beta must be a positive number, got -1", "margin", 1, probs=PROBS, picker="power", beta=-1
    )
    refused("'beta' is neither", "margin", 1, probs=PROBS, beta=1.0)
    refused('first must be "largest"', "badge", 1, probs=PROBS, embeddings=H, first="random")
    refused("metric must be known, got 'l1'", "k_center", 1, embeddings=H, metric="l1")
    refused("delta must be a positive", "probcover", 1, embeddings=H, delta=0)
    refused("classes must be a whole number >= 2", "probcover", 1, embeddings=H, classes=1)
    refused("neighbors must be a whole number >= 1", "typiclust", 1, embeddings=H, neighbors=0)
    refused('distance must be "squared"', "typiclust", 1, embeddings=H, distance="cubed")
    refused(
        "clusters must be a whole number >= 1",
        "margin",
        1,
        probs=PROBS,
        embeddings=H,
        picker="per_cluster",
        clusters=0,
    )


def test_options_of_another_kind():
    """On a command line ``normalize=no`` is text, and text is true."""
    for value in ("no", "", 0, 1.0, None, [], H):
        refused("normalize must be true or false, got", "cal", 1, **CAL, normalize=value)
    for value in ("ten", "", None, [10], {}, H):
        refused("neighbors must be a number, got", "cal", 1, **CAL, neighbors=value)
        refused("beta must be a number, got", "cal", 1, **CAL, picker="power", beta=value)
    for value in ("half", [0.5]):
        refused("threshold must be a number", "cluster_margin", 1, **CAL, threshold=value)
    assert len(select("cluster_margin", 1, **CAL, threshold=None)) == 1


def test_a_picker_asks_for_its_own_evidence():
    refused("margin needs probs and embeddings", "margin", 1, probs=PROBS, picker="per_cluster")


@pytest.mark.parametrize("name", ["balanced_random", "margin"])
def test_the_pool_s_labels_cannot_be_passed(name):
    refused("oracle_labels cannot be passed", name, 2, probs=PROBS, oracle_labels=[0] * 20)


def test_balanced_random_is_refused_outside_a_simulation():
    refused("only a simulation can run it", "balanced_random", 2, ids=range(9))


@pytest.mark.parametrize("memory", [0, -1, 1.5, True, "4 bananas", "", "GB"])
def test_bad_amounts_of_memory(memory):
    with pytest.raises(InputError, match="memory must be bytes"):
        parse_memory(memory)
