"""Scaled points are those of a scaled matrix."""

import numpy as np
import pytest
import torch

from labelwise.errors import InputError
from labelwise.kernels import Euclidean, GradientEmbedding
from labelwise.kernels.scaled import Scaled


def test_it_is_a_scaled_matrix():
    rng = np.random.default_rng(0)
    x, scale = rng.normal(size=(30, 4)), torch.from_numpy(rng.uniform(0, 2, 30))
    mine = Scaled(Euclidean(x, shift=False), scale)
    plain = Euclidean(x * scale.numpy()[:, None], shift=False)
    rows, others = torch.arange(0, 10), torch.arange(10, 20)
    torch.testing.assert_close(mine.exact(rows, others), plain.exact(rows, others))
    torch.testing.assert_close(mine.squared_norms(), plain.squared_norms(), rtol=1e-5, atol=1e-6)
    found = mine.squared_distances(mine.block(0, 30), mine.take(others))
    wanted = plain.squared_distances(plain.block(0, 30), plain.take(others))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_gradients_in_blocks():
    rng = np.random.default_rng(0)
    p, h = rng.dirichlet(np.ones(3), 30), rng.normal(size=(30, 4))
    scale = torch.from_numpy(rng.uniform(0, 2, 30))
    whole = GradientEmbedding(p, h)
    mine = Scaled(whole, scale)
    assert len(mine) == 30
    for start, points in mine.blocks():
        some = whole.block(start, start + len(points))
        wanted = (
            whole.inner(some, whole.take(torch.tensor([4]))) * scale[start:][: len(points), None]
        )
        found = mine.inner(points, whole.take(torch.tensor([4])))
        torch.testing.assert_close(found, wanted.float())


def test_what_is_refused():
    far = Euclidean(torch.randn(20, 2) + 1e4)
    assert far.shifted
    with pytest.raises(InputError, match="moved"):
        Scaled(far, torch.ones(20))
    near = Euclidean(torch.ones(2, 1), shift=False)
    with pytest.raises(InputError, match="2 finite numbers"):
        Scaled(near, torch.ones(3))
    with pytest.raises(InputError, match="2 finite numbers"):
        Scaled(near, torch.tensor([1.0, torch.inf]))
