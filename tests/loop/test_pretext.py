"""PT4AL in the loop: a pretext trained once serves every round, or the learner's own does."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from labelwise.kernels import Rows
from labelwise.learners import Network
from labelwise.loop import Loop, Oracle, SingleLabel

SIZE = 120
IDS = [f"item {row}" for row in range(SIZE)]


def convolutional(shape, classes):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))


def world(objectives):
    x, y = load_digits(return_X_y=True)
    inputs = Rows(torch.from_numpy(x[:SIZE].astype(np.float32) / 16).reshape(-1, 1, 8, 8))
    learner = Network(convolutional, name="small", objectives=objectives, epochs=2, min_steps=10)
    loop = Loop(IDS, inputs, learner, SingleLabel(10), seed=1, rounds=3)
    return loop, Oracle(dict(zip(IDS, y[:SIZE].tolist())))


def rows(ids):
    return [IDS.index(each) for each in ids]


def test_from_a_cold_start_by_a_loss_known_beforehand():
    loop, oracle = world("cross_entropy")
    loss = np.random.default_rng(0).permutation(SIZE) / SIZE

    def pretext_loss():
        return loss

    current, order = loop.start((), oracle), np.argsort(-loss)
    for turn in range(3):
        before = set(current.state.ids)
        current = loop.run_round(
            current.state, oracle, strategy="pt4al", n=10, fitted=current.fitted,
            providers=[pretext_loss],
        )  # fmt: skip
        asked = rows(set(current.state.ids) - before)
        assert set(asked) <= set(order[40 * turn : 40 * turn + 40])
        if turn == 0:
            assert set(asked) == set(order[0:40:4])


def test_by_what_the_learner_says_itself():
    loop, oracle = world("cross_entropy+rotation")
    current = loop.start(IDS[:20], oracle)
    providers = {each.__name__: each for each in current.fitted.evidence.providers}
    loss = Rows(providers["pretext_loss"]()).tensor().numpy()
    assert loss.shape == (SIZE,)
    after = loop.run_round(current.state, oracle, strategy="pt4al", n=8, fitted=current.fitted)
    asked = rows(set(after.state.ids) - set(current.state.ids))
    assert set(asked) <= set(np.argsort(-loss)[:40])
