"""Sparse approximation by greedy against its definition, on vectors built in full."""

import sys

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from labelwise import select
from labelwise.errors import InputError
from labelwise.evidence import Rows
from labelwise.strategies.sparse_problem import gradient_spread, loss_vectors

LABELED = [3, 17, 8]


def gradients(probs, h):
    """phi at predicted labels, and sigma^2 over labels from the model."""
    one, h = np.eye(probs.shape[1]), np.c_[h, np.ones(len(h))]

    def at(label):
        return ((probs - one[label])[:, :, None] * h[:, None]).reshape(len(h), -1)

    labels = range(probs.shape[1])
    every = np.stack([at(np.full(len(h), c)) for c in labels], 1)
    mean = (probs[:, :, None] * every).sum(1)
    spread = (probs * np.square(every - mean[:, None]).sum(2)).sum(1)
    return at(probs.argmax(1)), spread


def losses(draws):
    """phi over draws of the model, and sigma^2 over labels from the mean prediction."""
    loss = -np.log(draws)
    loss = (loss - loss.mean(0)) / np.sqrt(len(draws))
    mean = draws.mean(0)
    phi = (mean * loss).sum(2).T
    spread = (mean * np.square(loss - phi.T[:, :, None]).sum(0)).sum(1)
    return phi, spread


def by_definition(phi, spread, n, alpha, beta, refit, labeled=LABELED):
    """The row that lowers the objective most when its own weight is the best, n times."""
    pool = np.setdiff1d(np.arange(len(phi)), labeled)
    beta = beta * np.square(phi[pool]).sum(1).mean()
    target = phi[pool].sum(0)
    picked, weights, scores = [], np.zeros(0), []

    def value(rows, w):
        left = target - w @ phi[rows]
        regular = beta * (np.square(w - 1).sum() + len(pool) - len(rows))
        return left @ left - alpha * spread[rows].sum() + regular

    for _ in range(n):
        left = target - weights @ phi[picked]
        now, best = value(picked, weights), None
        for row in np.setdiff1d(pool, picked):
            w = max(0.0, (phi[row] @ left + beta) / (phi[row] @ phi[row] + beta))
            fall = now - value([*picked, row], np.r_[weights, w])
            if best is None or fall > best[0]:
                best = fall, row, w
        picked.append(best[1])
        scores.append(best[0])
        weights = np.r_[weights, best[2]]
        if refit:
            some = np.r_[phi[picked].T, np.sqrt(beta) * np.eye(len(picked))]
            weights = nnls(some, np.r_[target, np.full(len(picked), np.sqrt(beta))])[0]
    return picked, np.where(weights > 0, weights, 1.0), scores


def case(seed, size=40, classes=3, samples=12):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(classes), size)
    draws = rng.dirichlet(np.ones(classes), (samples, size))
    return probs, rng.normal(size=(size, 4)), draws


def within(space, probs, h, draws):
    """The strategy that works in a space, and its evidence."""
    if space == "gradient":
        return "sparse_greedy", {"probs": probs, "embeddings": h}
    return "sparse_greedy_draws", {"draws": draws}


@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("space", ["gradient", "draws"])
@pytest.mark.parametrize(("alpha", "beta"), [(30.0, 0.1), (0.0, 0.0), (1.0, 0.1), (500.0, 2.0)])
def test_it_is_its_definition(space, alpha, beta, refit):
    for seed in range(3):
        probs, h, draws = case(seed)
        phi, spread = gradients(probs, h) if space == "gradient" else losses(draws)
        rows, weights, scores = by_definition(phi, spread, 7, alpha, beta, refit)
        name, given = within(space, probs, h, draws)
        picks = select(
            name,
            7,
            **given,
            labeled=LABELED,
            alpha=alpha,
            beta=beta,
            refit=refit,
        )
        assert picks.rows.tolist() == rows
        assert picks.weights == pytest.approx(weights, rel=1e-3, abs=1e-4)
        assert picks.scores == pytest.approx(scores, rel=1e-3, abs=1e-6 * scores[0])
        left = phi[np.setdiff1d(np.arange(40), LABELED)].sum(0)
        used = np.where(weights == 1, 0, weights)
        share = np.linalg.norm(left - used @ phi[rows]) / np.linalg.norm(left)
        said = float(picks.notes[0].split("losses is ")[1].split()[0])
        assert said == pytest.approx(share, rel=1e-2, abs=1e-5)


def test_what_a_row_is_compared_by():
    probs, h, draws = case(0)
    found = gradient_spread(Rows(probs, "probs"), Rows(h, "h"))
    np.testing.assert_allclose(found, gradients(probs, h)[1])
    phi, spread = loss_vectors(draws)
    np.testing.assert_allclose(phi, losses(draws)[0], atol=1e-12)
    np.testing.assert_allclose(spread, losses(draws)[1])


def test_a_pool_of_many_rows_and_copies(monkeypatch):
    """Columns and bounds, then all in float64: the same picks but for copies."""
    probs, h, _ = case(4, 1500)
    probs, h = np.r_[probs, probs], np.r_[h, h]
    phi, spread = gradients(probs, h)
    rows, _, _ = by_definition(phi, spread, 10, 1.0, 0.1, True, [])
    for close in (1024, 1):
        monkeypatch.setattr(sys.modules["labelwise.kernels.matching_pursuit"], "_CLOSE", close)
        picks = select("sparse_greedy", 10, probs=probs, embeddings=h)
        assert (picks.rows % 1500).tolist() == [row % 1500 for row in rows]


def test_zero_probabilities_are_no_infinite_loss():
    draws = np.stack([np.tile([[1.0, 0.0]], (9, 1)), np.tile([[0.0, 1.0]], (9, 1))])
    draws[:, 4:] = 0.5
    phi, spread = loss_vectors(torch.from_numpy(draws))
    assert bool(phi.isfinite().all())
    assert bool(spread.isfinite().all())
    assert set(select("sparse_greedy_draws", 4, draws=draws)) == {0, 1, 2, 3}


def test_nothing_to_represent_is_said():
    sure = {"probs": [[1.0, 0.0]] * 20, "embeddings": np.random.default_rng(0).normal(size=(20, 3))}
    picks = [select("sparse_greedy", 5, **sure, seed=seed) for seed in range(2)]
    assert picks[0].rows.tolist() != picks[1].rows.tolist()
    assert picks[0].weights.tolist() == [1.0] * 5
    assert "nothing to represent" in picks[0].notes[0]
    one = select("sparse_greedy_draws", 2, draws=[[[0.5, 0.5], [0.9, 0.1], [0.6, 0.4]]])
    assert "nothing to represent" in one.notes[0]


def test_gradients_from_files_in_small_blocks(tmp_path, monkeypatch):
    probs, h, _ = case(2, 200)
    whole = select("sparse_greedy", 20, probs=probs, embeddings=h)
    for name, array in {"probs": probs, "embeddings": h}.items():
        np.save(tmp_path / f"{name}.npy", array)
    monkeypatch.setattr("labelwise.kernels.rows.BLOCK_BYTES", 4 * 7 * 4)
    paths = {name: tmp_path / f"{name}.npy" for name in ("probs", "embeddings")}
    assert select("sparse_greedy", 20, **paths).rows.tolist() == whole.rows.tolist()


def test_a_pick_with_nothing_left_to_represent_stands_for_itself():
    """Two draws have one direction, which a single weight uses up, but for rounding."""
    for seed in range(20):
        draws = np.random.default_rng(seed).dirichlet(np.ones(3), (2, 8))
        picks = select("sparse_greedy_draws", 5, draws=draws, beta=0, refit=False)
        assert np.count_nonzero(picks.weights != 1) == 1


def test_what_is_refused():
    probs, h, _ = case(0)
    with pytest.raises(InputError, match="alpha must be"):
        select("sparse_greedy", 1, probs=probs, embeddings=h, alpha=-1)
    with pytest.raises(InputError, match="beta must be"):
        select("sparse_greedy", 1, probs=probs, embeddings=h, beta=float("inf"))
