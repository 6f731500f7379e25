"""BAIT against its definition, with (C D) x (C D) matrices built in full."""

import numpy as np
import pytest

from labelwise import select
from labelwise.errors import InputError


def informations(probs, embeddings):
    """(N, CD, CD): ``sum_c p_c g_c g_c'`` with ``g_c = (e_c - p) x h``."""
    out = []
    for p, h in zip(probs, embeddings, strict=True):
        g = np.stack([np.kron(e - p, h) for e in np.eye(len(p))])
        out.append((g.T * p) @ g)
    return np.array(out)


def by_definition(probs, embeddings, labeled, n, lam, oversample):
    info = informations(probs, embeddings)
    whole, share = info.mean(0), n / (len(labeled) + n)
    start = lam * np.eye(len(whole)) + (1 - share) * info[labeled].mean(0)

    def trace(rows):
        return np.trace(np.linalg.inv(start + share * info[list(rows)].sum(0)) @ whole)

    picked, gains = [], []
    while len(picked) < oversample * n:
        left = [j for j in range(len(info)) if j not in picked and j not in labeled]
        best = min(left, key=lambda j: trace([*picked, j]))
        gains.append(trace(picked) - trace([*picked, best]))
        picked.append(best)
    kept = list(picked)
    while len(kept) > n:
        kept.remove(min(kept, key=lambda j: trace([i for i in kept if i != j])))
    return kept, [gains[picked.index(j)] for j in kept]


@pytest.mark.parametrize("seed", range(5))
def test_it_is_its_definition(seed):
    rng = np.random.default_rng(seed)
    probs, h = rng.dirichlet(np.ones(3), 20), rng.normal(size=(20, 3))
    labeled = [4, 11, 17]
    picks = select("bait", 4, probs=probs, embeddings=h, labeled=labeled, lam=0.3)
    rows, gains = by_definition(probs, h, labeled, 4, 0.3, 2)
    assert picks.rows.tolist() == rows
    assert picks.scores == pytest.approx(gains, rel=1e-5)


def test_removal_matters_somewhere():
    differs = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        case = {"probs": rng.dirichlet(np.ones(3), 20), "embeddings": rng.normal(size=(20, 3))}
        one = select("bait", 4, **case, lam=0.01)
        differs += set(one) != set(select("bait", 4, **case, lam=0.01, oversample=1))
    assert differs


def test_rows_that_are_certain_come_in_no_order_of_the_data():
    """Sorted by class, as data often are: the first class must not be all that is picked."""
    probs = np.repeat(np.eye(4), 50, axis=0)
    h = np.random.default_rng(0).normal(size=(200, 3))
    picks = select("bait", 40, probs=probs, embeddings=h)
    assert np.bincount(picks.rows // 50, minlength=4).min() >= 4
    assert picks.scores.tolist() == [0] * 40


def test_what_is_refused():
    case = {"probs": [[0.5, 0.5]] * 3, "embeddings": np.eye(3)}
    with pytest.raises(InputError, match="lam must be"):
        select("bait", 1, **case, lam=0)
    with pytest.raises(InputError, match="oversample must be"):
        select("bait", 1, **case, oversample=0.5)
    with pytest.raises(InputError, match="one column"):
        select("bait", 1, probs=[[1.0]] * 3, embeddings=np.eye(3))
