"""Minibatches whose outputs are known, and images that a few labels do not settle."""

import copy

import pytest
import torch
from torch import nn

from labelwise.kernels import Rows
from labelwise.learners import Looks, Network, Recipe, train
from labelwise.learners.objectives import Setting, Sight, Step, View, parse_objectives

SIDE, NOISE = 8, 1.15


class _Itself:
    """A network that gives its inputs back, as logits and as embeddings."""

    norms = ()

    def __call__(self, inputs):
        return inputs.float(), inputs.float()

    def look(self, inputs):
        return (*self(inputs), {})


def _view(logits, *, rows=None, labels=(), strong=None, weak=None):
    """A `View` of rows that are their own logits; ``strong`` and ``weak`` are those of looks."""

    def look(given):
        return None if given is None else lambda inputs, generator: torch.as_tensor(given)

    logits = torch.as_tensor(logits)
    rows = torch.arange(len(logits)) if rows is None else torch.as_tensor(rows)
    labels = torch.as_tensor(labels, dtype=torch.int64)
    sight = Sight(_Itself(), Looks(None, look(strong)), torch.Generator())
    view = View(logits, rows, labels, sight)
    if weak is not None:
        view._seen["weak", 1] = View(torch.as_tensor(weak), rows, labels, sight)
    return view


def _setting(classes=3, labels=(0, 1, 2), *, item_shape=(3,), pool=10, unlabeled=10, seed=0):
    return Setting(
        classes,
        torch.tensor(labels, dtype=torch.int64),
        item_shape[0],
        torch.device("cpu"),
        torch.Generator().manual_seed(seed),
        nn.Identity(),
        item_shape,
        pool,
        unlabeled,
    )


def _step(number, total=100):
    return Step(number, total, 0, 0.1)


@pytest.fixture
def view():
    return _view


@pytest.fixture
def setting():
    return _setting


@pytest.fixture
def step():
    return _step


def _waves(count, seed, noise=NOISE, last=1.0):
    """Waves of four directions and any phase in noise, equally hard to tell but for the last."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    down, right = torch.tensor([[2.0, 1], [1, 2], [2, -1], [1, -2]])[labels].T[:, :, None, None]
    phase = torch.rand(count, 1, 1, generator=generator)
    at = torch.arange(SIDE) / SIDE
    clean = torch.cos(2 * torch.pi * (down * at[:, None] + right * at + phase))
    clean = clean * torch.tensor([1.0, 1.0, 1.0, last])[labels][:, None, None]
    return (clean + noise * torch.randn(clean.shape, generator=generator))[:, None], labels


def _strong(images, generator):
    """Shift round the border, change the contrast, add noise."""
    down, right = torch.randint(SIDE, (2, len(images), 1), generator=generator)
    rows, at = torch.arange(len(images))[:, None, None], torch.arange(SIDE)
    images = images[rows, 0, ((at - down) % SIDE)[:, :, None], ((at - right) % SIDE)[:, None]]
    contrast = 0.6 + 0.8 * torch.rand(len(images), 1, 1, generator=generator)
    noise = 0.5 * torch.randn(images.shape, generator=generator)
    return (contrast * images + noise)[:, None]


class _Mean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def _convolutional(shape, classes):
    return nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        _Mean(),
        nn.Linear(32, classes),
    )


def _fit(objectives, seed, min_steps):
    """A model of 20 labels of 600 rows, five a class, and its accuracy on others in percent."""
    (images, labels), (others, truth) = _waves(600, 0), _waves(600, 1)
    rows = torch.arange(20 * seed, 20 * (seed + 1))
    learner = Network(
        _convolutional,
        name="small",
        objectives=objectives,
        looks=Looks(strong=_strong),
        epochs=1,
        min_steps=min_steps,
        unlabeled_minibatch=64,
        learning_rate=3e-3,
        average=0.95,
    )
    model = learner.fit(Rows(images), rows, labels[rows], classes=4, seed=seed)
    probs = model.predict(Rows(others)).probs
    return probs, 100 * (probs.argmax(1) == truth).double().mean().item()


def _train(network, objectives, seed, min_steps, pool):
    """Train a network in place by 20 labels of a pool of waves; the objectives afterwards."""
    (images, labels), rows = pool, torch.arange(20 * seed, 20 * (seed + 1))
    recipe = Recipe(
        epochs=1, min_steps=min_steps, unlabeled_minibatch=64, learning_rate=3e-3, average=0.95
    )
    return train(
        network,
        Rows(images),
        rows,
        labels[rows],
        classes=4,
        seed=seed,
        recipe=recipe,
        objectives=parse_objectives(objectives),
        looks=Looks(strong=_strong),
    ).objectives


@pytest.fixture(scope="session")
def slow_class():
    """Called as ``slow_class(objectives, seed, noise, warm, steps)``: accuracy and objectives.

    Waves of the last class are weaker, so it is learned more slowly. The network has been
    trained by the labels alone for ``warm`` steps before the objectives begin: labels by a
    network that knows nothing teach it nothing. Accuracies in percent, of all others and of
    those of the last class.
    """
    made, begun = {}, {}

    def fit(objectives, seed, noise, warm, steps):
        key = (str(objectives), seed, noise, warm, steps)
        if key not in made:
            pool = _waves(600, 0, noise, 0.6)
            if (start := (seed, noise, warm)) not in begun:
                torch.manual_seed(seed)
                begun[start] = _convolutional((1, 8, 8), 4)
                _train(begun[start], "cross_entropy", seed, warm, pool)
            network = copy.deepcopy(begun[start])
            left = _train(network, objectives, seed, steps, pool)
            others, truth = _waves(1000, 1, noise, 0.6)
            with torch.no_grad():
                right = 100 * (network(others).argmax(1) == truth).double()
            made[key] = right.mean().item(), right[truth == 3].mean().item(), left
        return made[key]

    return fit


@pytest.fixture(scope="session")
def waves():
    """Called as ``waves(objectives, seed)``: probabilities of test rows, and the accuracy."""
    made = {}

    def fit(objectives, seed, min_steps=120):
        key = (objectives, seed, min_steps)
        if key not in made:
            made[key] = _fit(objectives, seed, min_steps)
        return made[key]

    return fit


@pytest.fixture(scope="session")
def gain(waves):
    """Points of accuracy over supervision alone, the mean of some seeds."""

    def mean(objectives, seeds=2):
        gains = [waves(objectives, s)[1] - waves("cross_entropy", s)[1] for s in range(seeds)]
        return sum(gains) / seeds

    return mean
