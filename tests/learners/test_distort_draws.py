"""What `Distort` draws, by its ranges, and what solarizing does of it."""

import pytest
import torch

from labelwise.learners.augment import Distort
from labelwise.learners.augment.distort import BRIGHTNESS, CONTRAST, HUE, SATURATION


@pytest.fixture(scope="module")
def draws():
    change = Distort(brightness=0.8, contrast=0.4, saturation=1.5, hue=0.2, sigma=(0.5, 1.5))
    return change.draw(20_000, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [(BRIGHTNESS, 0.2, 1.8), (CONTRAST, 0.6, 1.4), (SATURATION, 0.0, 2.5), (HUE, -0.2, 0.2)],
)
def test_factors_are_uniform_within_their_strength(draws, kind, low, high):
    found = draws.factor[:, kind]
    assert low <= found.min() < low + 0.01
    assert high - 0.01 < found.max() <= high
    assert found.mean().item() == pytest.approx((low + high) / 2, abs=0.02)


def test_every_order_of_the_jitter_is_as_likely(draws):
    places = torch.tensor([64, 16, 4, 1])
    _, counts = (draws.order * places).sum(1).unique(return_counts=True)
    assert len(counts) == 24
    assert (counts / 20_000 - 1 / 24).abs().max() < 0.008


def test_blurs_are_uniform_within_their_range(draws):
    assert 0.5 <= draws.sigma.min() < 0.51
    assert 1.49 < draws.sigma.max() <= 1.5
    assert draws.sigma.mean().item() == pytest.approx(1, abs=0.01)


def test_solarizing_turns_levels_from_128_on():
    change = Distort(crop=(1, 1), ratio=(1, 1), jitter=0, gray=0, flip=0, solarize=1)
    levels = torch.arange(256.0).reshape(1, 1, 16, 16).expand(1, 3, 16, 16).contiguous()
    found = change.apply(levels, change.draw(1, torch.Generator().manual_seed(0)))
    expected = torch.where(levels < 128, levels, 255 - levels)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
