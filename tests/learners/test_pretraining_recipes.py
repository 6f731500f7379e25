"""Recipes of pretraining: what each method is trained with where nobody says otherwise."""

import numpy as np
import pytest

from labelwise.learners.pretraining_recipes import one_objective, pretraining_learner
from labelwise.pools import Data, ImagePool, PixelImages


@pytest.mark.parametrize(
    ("method", "optimizer", "rate", "decay"),
    [
        ("simclr", "lars", 0.4, 1e-4),
        ("moco", "sgd", 0.3, 1e-4),
        ("simsiam", "sgd", 0.5, 1e-5),
        ("byol", "lars", 1.0, 1e-5),
        ("barlow_twins", "lars", 0.3, 1e-4),
        ("vicreg", "lars", 0.3, 1e-4),
        ("dino", "lars", 0.3, 1e-6),
        ("rotation", "sgd", 0.1, 5e-4),
    ],
)
def test_recipes_of_a_resnet_are_the_published_ones(method, optimizer, rate, decay):
    """solo-learn's for CIFAR-10, at 256 rows a minibatch; of a small pool it is 64."""
    pixels = ImagePool(PixelImages(np.zeros((48, 8, 8, 3), np.uint8)))
    data = Data(pixels, np.full(48, -1), None, None, ["a", "b"], "images")
    recipe = pretraining_learner(data, one_objective(method), None, {}, {}).recipe
    assert recipe.unlabeled_minibatch == 64
    assert recipe.optimizer == optimizer
    assert recipe.learning_rate == pytest.approx(rate * 64 / 256)
    assert recipe.weight_decay == decay
    assert recipe.schedule == "one_cycle"
