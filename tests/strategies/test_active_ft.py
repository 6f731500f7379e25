"""ActiveFT against its loss written out, differentiated by torch."""

import numpy as np
import pytest
import torch

from labelwise.errors import InputError
from labelwise.kernels import Cosine
from labelwise.strategies import get_strategy, select
from labelwise.strategies.active_ft import Pull, unit


def written_out(raw, f, temperature, balance, loss):
    """The loss at points that need not have length one, as published."""
    t = raw / raw.norm(dim=1, keepdim=True)
    alike = f @ t.T / temperature
    best, c = alike.max(1)
    if loss == "code":
        between = (t.detach() @ t.T / temperature).exp().sum(0)
        pull = best.exp()
        return -(pull.log() - (pull + balance * between[c]).log()).mean()
    others = t @ t.T / temperature - torch.diag(torch.full((len(t),), torch.inf).double())
    repel = others.logsumexp(1).mean() if len(t) > 1 else 0.0
    return -best.mean() + balance * repel


def pool(seed, size=90, width=5):
    rng = np.random.default_rng(seed)
    centers = 3 * rng.normal(size=(6, width))
    return (rng.normal(size=(size, width)) + centers[rng.integers(0, 6, size)]).astype(np.float32)


@pytest.mark.parametrize("loss", ["code", "paper"])
@pytest.mark.parametrize("balance", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("n", [1, 7])
def test_loss_and_gradient_are_the_published_ones(loss, balance, n):
    x = pool(0)
    f = torch.from_numpy(x).double()
    f = f / f.norm(dim=1, keepdim=True)
    raw = torch.randn(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    raw.requires_grad_(True)
    value = written_out(raw, f, 0.07, balance, loss)
    value.backward()
    pull = Pull(Cosine(x, shift=False), 0.07, balance, loss)
    found = pull.gradient(raw.detach())
    assert pull.value == pytest.approx(value.item(), rel=1e-5)
    torch.testing.assert_close(found, raw.grad, rtol=1e-4, atol=1e-6)


def by_definition(x, start, candidates, steps, lr):
    """Adam on the loss written out; then the nearest candidate of each point in turn."""
    f = torch.from_numpy(x).double()
    f = f / f.norm(dim=1, keepdim=True)
    raw = f[start].clone().requires_grad_(True)
    optimizer = torch.optim.Adam([raw], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        written_out(raw, f, 0.07, 1.0, "code").backward()
        optimizer.step()
    picks = []
    for point in unit(raw.detach()):
        order = (f @ point).argsort(descending=True).tolist()
        picks.append(next(row for row in order if row in candidates and row not in picks))
    return picks


@pytest.mark.parametrize("seed", range(4))
def test_active_ft_is_its_definition(seed):
    x = pool(seed)
    candidates = set(range(0, 90, 2))
    more = {"embeddings": x, "candidates": sorted(candidates), "seed": seed}
    # With no step taken every point picks the row it starts at.
    start = select("active_ft", 12, iterations=0, **more)
    np.testing.assert_allclose(start.scores, 1.0, atol=1e-6)
    picks = select("active_ft", 12, iterations=60, lr=0.02, **more)
    assert picks.rows.tolist() == by_definition(x, start.rows, candidates, 60, 0.02)
    assert picks.rows.tolist() != start.rows.tolist()


def test_points_that_want_the_same_row_take_the_next_ones():
    angle = np.concatenate([np.linspace(-0.01, 0.01, 21), [2.0, 2.1, 2.2]])
    x = np.stack([np.cos(angle), np.sin(angle)], 1)
    picks = select("active_ft", 20, embeddings=x, candidates=range(21), balance=0.0, lr=0.05)
    assert len(set(picks)) == 20


def test_it_covers_clusters_better_than_its_random_start():
    x = pool(3, size=600, width=16)
    f = x / np.linalg.norm(x, axis=1, keepdims=True)

    def cover(rows):
        return (f @ f[rows].T).max(1).mean()

    start = [cover(select("active_ft", 8, embeddings=x, seed=s, iterations=0).rows) for s in (1, 2)]
    end = [cover(select("active_ft", 8, embeddings=x, seed=s).rows) for s in (1, 2)]
    assert np.mean(end) > np.mean(start)


def test_farthest_rows_to_start_from():
    x = pool(1)
    start = select("active_ft", 5, embeddings=x, init="farthest", iterations=0)
    core = select("k_center", 5, embeddings=x, metric="cosine")
    assert start.rows.tolist() == core.rows.tolist()


def test_the_defaults_are_those_of_the_authors():
    assert get_strategy("active_ft").options == {
        "loss": "code",
        "temperature": 0.07,
        "balance": 1.0,
        "lr": 1e-3,
        "iterations": 300,
        "init": "random",
    }


def test_bad_options():
    x = np.eye(3)
    for option, match in (
        ({"loss": "mean"}, "loss must be"),
        ({"init": "fps"}, "init must be"),
        ({"temperature": 0}, "temperature must be a positive number"),
        ({"balance": -1}, "balance must be a number >= 0"),
        ({"iterations": 1.5}, "iterations must be a whole number"),
    ):
        with pytest.raises(InputError, match=match):
            select("active_ft", 1, embeddings=x, **option)
    with pytest.raises(InputError, match="row 1 is all zeros"):
        select("active_ft", 1, embeddings=[[1.0, 0.0], [0.0, 0.0]])
