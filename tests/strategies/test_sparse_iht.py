"""Proximal thresholding against its definition, on vectors built in full."""

import numpy as np
import pytest
import torch
from tests.strategies.test_sparse_greedy import case, gradients, losses, within

from labelwise import select
from labelwise.errors import InputError
from labelwise.kernels import Euclidean, Generator, Similarity
from labelwise.kernels.sums import LinearSums
from labelwise.strategies.sparse_iht import ProximalIHT
from labelwise.strategies.sparse_problem import SparseProblem

LABELED = [3, 17, 8]


class ByDefinition:
    """All weights as one vector, all vectors as one matrix."""

    def __init__(self, phi, spread, n, alpha, beta, labeled=LABELED):
        pool = np.setdiff1d(np.arange(len(phi)), labeled)
        self.pool, self.phi, self.n = pool, phi[pool], n
        self.bonus = alpha * spread[pool]
        self.beta = beta * np.square(self.phi).sum(1).mean()
        self.target = self.phi.sum(0)

    def value(self, w, used):
        left = self.target - w @ self.phi
        return left @ left - self.bonus[used].sum() + self.beta * np.square(w - 1).sum()

    def slope(self, w):
        return -2 * self.phi @ (self.target - w @ self.phi) + 2 * self.beta * (w - 1)

    def exact(self, slope):
        """The minimum of a parabola along the slope."""
        bend = np.square(slope @ self.phi).sum() + self.beta * slope @ slope
        return slope @ slope / (2 * bend) if bend else 0.0

    def within(self, w, used):
        slope = np.where(used, self.slope(w), 0.0)
        slope[(w == 0) & (slope > 0)] = 0.0
        moved = np.maximum(w - self.exact(slope) * slope, 0)
        return moved if self.value(moved, used) < self.value(w, used) else w

    def step(self, w, used, now):
        slope = self.slope(w)
        rise = np.where(used, 0.0, np.maximum(-slope, 0))
        some = used | (rise >= np.sort(rise)[-self.n]) & (rise > 0)
        mu = self.exact(np.where(some, slope, 0.0))
        for _ in range(30):
            u = np.maximum(w - mu * slope, 0)
            score = u**2 / (2 * mu) + self.bonus
            kept = np.zeros(len(w), dtype=bool)
            kept[np.argsort(-score)[: self.n]] = True
            found = self.within(np.where(kept, u, 0.0), kept)
            if self.value(found, kept) < now:
                return found, kept, score
            mu /= 2
        return None

    def run(self, tol=1e-5, steps=300):
        w, used, now = np.zeros(len(self.phi)), np.zeros(len(self.phi), dtype=bool), np.inf
        self.values = []
        # A constant is left out of the value that the tolerance is relative to.
        constant = self.beta * len(self.phi)
        for step in range(steps):
            found = self.step(w, used, now)
            if found is None:
                break
            w, used, self.score = found
            before, now = now, self.value(w, used)
            self.values.append(now)
            if step and before - now <= tol * max(abs(before - constant), abs(now - constant)):
                break
        order = np.flatnonzero(used)
        order = order[np.argsort(-self.score[order])]
        return self.pool[order].tolist(), np.where(w[order] > 0, w[order], 1.0), self.score[order]


@pytest.mark.parametrize(
    ("name", "space"), [("sparse_iht", "gradient"), ("sparse_iht_draws", "draws")]
)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.1), (3.0, 0.1), (0.0, 0.0), (150.0, 2.0)])
def test_it_is_its_definition(name, space, alpha, beta):
    for seed in range(3):
        probs, h, draws = case(seed)
        phi, spread = gradients(probs, h) if space == "gradient" else losses(draws)
        twin = ByDefinition(phi, spread, 7, alpha, beta)
        rows, weights, scores = twin.run()
        _, given = within(space, probs, h, draws)
        picks = select(name, 7, **given, labeled=LABELED, alpha=alpha, beta=beta)
        assert sorted(picks) == sorted(rows)
        mine = dict(zip(picks.rows.tolist(), picks.weights, strict=True))
        assert [mine[row] for row in rows] == pytest.approx(weights, rel=1e-3, abs=1e-3)
        assert picks.scores == pytest.approx(scores, rel=1e-3)
        assert (np.diff(twin.values) <= 0).all()
        assert f"what {len(twin.values)} steps left" in picks.notes[0]


def apart(lengths, spread, alpha, n):
    """Vectors at right angles: every row can only stand for itself."""
    geometry = Euclidean(np.diag(lengths), shift=False)
    linear = LinearSums.of(Similarity(geometry, "dot"))
    norms = torch.as_tensor(lengths).square()
    problem = SparseProblem(
        geometry, linear, linear.total(), norms, torch.as_tensor(spread), alpha, 0.01
    )
    candidates = torch.arange(len(lengths))
    found, _, _ = ProximalIHT(problem, n, candidates, Generator(0)).run(1e-12, 300)
    return found


def test_candidates_that_all_point_away_from_the_sum_are_taken_by_uncertainty():
    given = {"probs": [[0.9, 0.1]] * 4, "embeddings": [[5.0], [5.0], [-1.0], [-1.1]]}
    for n, rows in ((1, [3]), (2, [3, 2])):
        picks = select("sparse_iht", n, **given, candidates=[2, 3], beta=0)
        assert picks.rows.tolist() == rows
        assert picks.weights.tolist() == [1.0] * n
        assert "left of the sum of losses is 1 of its length" in picks.notes[0]


def test_rows_at_right_angles_stand_for_themselves():
    lengths = np.array([3.0, 1.0, 2.5, 2.0, 2.8])
    found = apart(lengths, np.zeros(5), 0.0, 3)
    assert sorted(found.places.tolist()) == [0, 2, 4]  # the longest
    torch.testing.assert_close(found.weights, torch.ones(3).double(), rtol=1e-3, atol=1e-3)
    uncertain = apart(np.full(5, 2.0), np.array([0.0, 3.0, 1.0, 2.0, 0.0]), 1.0, 2)
    assert sorted(uncertain.places.tolist()) == [1, 3]  # of equal length, the most uncertain


def test_more_steps_leave_less_of_the_objective():
    probs, h, _ = case(1, 200)
    problem = ByDefinition(*gradients(probs, h), 10, 0.0, 0.1, [])
    values = []
    for steps in (1, 3, 10, 100):
        picks = select("sparse_iht", 10, probs=probs, embeddings=h, steps=steps, alpha=0)
        w, used = np.zeros(200), np.zeros(200, dtype=bool)
        w[picks.rows], used[picks.rows] = picks.weights, True
        values.append(problem.value(w, used))
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]


def test_nothing_to_represent_is_said():
    sure = {"probs": [[1.0, 0.0]] * 20, "embeddings": np.random.default_rng(0).normal(size=(20, 3))}
    picks = [select("sparse_iht", 5, **sure, seed=seed) for seed in range(2)]
    assert picks[0].rows.tolist() != picks[1].rows.tolist()
    assert "nothing to represent" in picks[0].notes[0]


def test_gradients_from_files_in_small_blocks_and_another_order(tmp_path, monkeypatch):
    probs, h, _ = case(2, 200)
    whole = select("sparse_iht", 20, probs=probs, embeddings=h)
    for name, array in {"probs": probs, "embeddings": h}.items():
        np.save(tmp_path / f"{name}.npy", array)
    order = np.random.default_rng(0).permutation(200)
    moved = select("sparse_iht", 20, probs=probs[order], embeddings=h[order])
    assert order[moved.rows].tolist() == whole.rows.tolist()
    monkeypatch.setattr("labelwise.kernels.rows.BLOCK_BYTES", 4 * 7 * 4)
    paths = {name: tmp_path / f"{name}.npy" for name in ("probs", "embeddings")}
    assert select("sparse_iht", 20, **paths).rows.tolist() == whole.rows.tolist()


def test_what_is_refused():
    probs, h, _ = case(0)
    with pytest.raises(InputError, match="tol must be"):
        select("sparse_iht", 1, probs=probs, embeddings=h, tol=0)
    with pytest.raises(InputError, match="steps must be"):
        select("sparse_iht", 1, probs=probs, embeddings=h, steps=0)
