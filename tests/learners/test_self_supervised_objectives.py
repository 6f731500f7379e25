"""Each self-supervised objective is its loss of what its modules make of two views, by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labelwise.kernels import Rows
from labelwise.learners import Looks, Player, Recipe, Setting, Step, make_objective, train
from labelwise.learners.objectives.barlow_twins import barlow_loss
from labelwise.learners.objectives.byol import byol_loss
from labelwise.learners.objectives.dino import Prototypes, dino_loss
from labelwise.learners.objectives.moco import info_nce
from labelwise.learners.objectives.simclr import nt_xent
from labelwise.learners.objectives.simsiam import simsiam_loss
from labelwise.learners.objectives.vicreg import vicreg_loss
from labelwise.learners.opponents import Opponent
from labelwise.learners.parallel import Ranks

OPTIONS = {
    "simclr": {"hidden": 7, "width": 4, "temperature": 0.3},
    "moco": {"hidden": 7, "width": 4, "temperature": 0.3, "queue": 9},
    "simsiam": {"hidden": 7, "width": 5, "predictor": 3},
    "byol": {"hidden": 7, "width": 4},
    "barlow_twins": {"hidden": 7, "width": 4, "off_diagonal": 0.3},
    "vicreg": {"hidden": 7, "width": 4, "invariance": 3.0, "variance": 5.0, "covariance": 2.0},
    "dino": {
        "hidden": 7,
        "prototypes": 6,
        "temperature": 0.5,
        "teacher_temperature": 0.2,
        "first_temperature": 0.4,
        "warmup": 0.5,
        "center_momentum": 0.8,
        "frozen_epochs": 0,
    },
}
STEP = Step(5, 20, 0, 0.1)  # half of DINO's warm-up


class Seen:
    """A minibatch of which two views are known."""

    def __init__(self, inputs, embeddings):
        self.inputs, self.embeddings, self.views = inputs, embeddings, {}

    def __len__(self):
        return len(self.inputs)

    def distorted(self, number):
        return self.views[number]

    def together(self, *others):
        assert not others


def moved(module, seed):
    """Other parameters in place, as after some steps."""
    draw = torch.Generator().manual_seed(seed)
    for each in module.parameters():
        each.data += 0.3 * torch.randn(each.shape, generator=draw)


class Case:
    """An objective that has been prepared, of whose network and head the weights then moved."""

    def __init__(self, name, weight=1.0):
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5), nn.Linear(5, 2)
        )
        self.objective = make_objective(name, **OPTIONS[name], weight=weight)
        draw = torch.Generator().manual_seed(1)
        cpu = torch.device("cpu")
        self.objective.prepare(
            Setting(2, torch.arange(2), 5, cpu, draw, self.network, (6,), 40, 40)
        )
        self.objective.train()
        self.head = getattr(self.objective, "projector", None) or self.objective.head
        self.before = copy.deepcopy(self.network), copy.deepcopy(self.head)
        moved(self.network, 2)
        moved(self.head, 3)
        self.x = [torch.randn(8, 6, generator=draw) for _ in range(2)]
        self.e = [self.network[:-1](x).detach().requires_grad_() for x in self.x]
        self.seen = Seen(None, None)
        self.seen.inputs = self.x[0]
        self.seen.views = {k + 1: Seen(self.x[k], self.e[k]) for k in range(2)}

    def __call__(self):
        names = type(self.objective).forward.__code__.co_varnames
        return self.objective(self.seen, **({"step": STEP} if "step" in names else {}))

    @property
    def targets(self):
        """Of the copies made before anything moved, normalizing by the minibatch."""
        network, head = self.before
        with torch.no_grad():
            return [head(network[:-1](x)) for x in self.x]


def expected(name, case):
    objective, options = case.objective, OPTIONS[name]
    if name == "dino":
        center = torch.linspace(-0.2, 0.3, 6)
        objective.center.copy_(center)
        seen = [case.head(e) for e in case.e]
        return dino_loss(*seen, *case.targets, center, 0.5, 0.3)
    z = [case.head(e) for e in case.e]
    if name == "simclr":
        return nt_xent(*z, 0.3)
    if name == "moco":
        first, second = (queue.keys.clone() for queue in objective.queues)
        keys = case.targets
        return (info_nce(z[0], keys[1], first, 0.3) + info_nce(z[1], keys[0], second, 0.3)) / 2
    if name == "barlow_twins":
        return barlow_loss(*z, options["off_diagonal"])
    if name == "vicreg":
        return vicreg_loss(*z, 3.0, 5.0, 2.0)
    predicted = [objective.predict(each) for each in z]
    if name == "byol":
        return byol_loss(*predicted, *case.targets)
    return simsiam_loss(*predicted, *z)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_loss_and_gradients_are_those_of_its_parts(name, weight):
    case = Case(name, weight)
    by_hand = weight * expected(name, case)
    found = case()
    losses = [found] if isinstance(found, torch.Tensor) else list(found.values())
    for loss in losses:
        torch.testing.assert_close(loss, by_hand, rtol=1e-4, atol=1e-5)
    wanted = torch.autograd.grad(by_hand, case.e)
    for mine, theirs in zip(torch.autograd.grad(losses[0], case.e), wanted):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    assert all(each.abs().sum() > 0 for each in wanted)


def test_the_two_losses_of_simsiam_reach_one_player_each():
    case = Case("simsiam")
    found = case()
    predictor = list(case.objective.predict.parameters())
    given = torch.autograd.grad(found["predictor"], [*case.e, *predictor], allow_unused=True)
    assert [each is None for each in given] == [True, True] + [False] * len(predictor)


def test_the_predictor_of_simsiam_has_the_largest_rate_to_the_end():
    recipe = Recipe(learning_rate=0.25, schedule="cosine")
    player = Case("simsiam").objective.players()["predictor"]
    assert isinstance(player, Player)
    opponent = Opponent(player, recipe, Ranks())
    rates = []
    for number in (0, 10, 19):
        opponent.step(sum(p.sum() for p in opponent.parameters), number, 20)
        rates.append(opponent.optimizer.param_groups[0]["lr"])
    assert rates == [0.25] * 3


def test_moco_queues_what_answers():
    case = Case("moco")
    case()
    keys = case.targets
    case.objective.after_step(case.network)
    for queue, answered in zip(case.objective.queues, reversed(keys)):
        torch.testing.assert_close(queue.keys[:8], F.normalize(answered, dim=1))


def test_the_center_of_dino_follows_the_mean_of_both_of_the_teachers_views():
    case = Case("dino")
    before = torch.linspace(-0.2, 0.3, 6)
    case.objective.center.copy_(before)
    mean = torch.cat(case.targets).mean(0)
    case()
    torch.testing.assert_close(case.objective.center, 0.8 * before + 0.2 * mean)


def test_prototypes_are_compared_by_cosine():
    torch.manual_seed(0)
    head = Prototypes(5, 7, 6)
    given = torch.randn(4, 5)
    by_hand = [
        [F.cosine_similarity(one, other, dim=0).item() for other in head.last.weight]
        for one in head.body(given)
    ]
    torch.testing.assert_close(head(given), torch.tensor(by_hand))
    head.last.weight.data *= 3
    torch.testing.assert_close(head(given), torch.tensor(by_hand))


@pytest.mark.parametrize("name", ["simclr", "byol", "rotation"])
def test_rows_with_and_without_labels_are_normalized_together(name):
    """Each view of all rows is one minibatch of the network, and of a moving average of it."""
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)
    )
    sizes = []
    network[1].register_forward_hook(lambda layer, given, made: sizes.append(len(made)))
    train(
        network,
        Rows(torch.randn(30, 4, 4, 1)),
        torch.arange(6),
        torch.arange(6) % 2,
        classes=2,
        seed=0,
        recipe=Recipe(epochs=1, unlabeled_minibatch=10),
        objectives=[make_objective(name)],
        looks=Looks(distorted=lambda rows, generator: rows + 1),
    )
    assert sizes == {"simclr": [16] * 2, "byol": [16] * 4, "rotation": [64]}[name]


@pytest.mark.parametrize("labeled", [0, 6])
def test_beside_a_classifier_distorted_views_leave_running_statistics_be(labeled):
    """In pretraining nothing else makes them; a classifier sees no distorted rows in the end."""
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    inputs = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    names = ["cross_entropy", "simclr"] if labeled else ["simclr"]
    train(
        network,
        Rows(inputs),
        torch.arange(labeled),
        torch.arange(labeled) % 2,
        classes=2,
        seed=0,
        recipe=Recipe(epochs=200, unlabeled_minibatch=30, learning_rate=1e-3),
        objectives=[make_objective(name) for name in names],
        looks=Looks(distorted=lambda rows, generator: 2 * rows + 50),
    )
    expected = inputs[:labeled].mean(0) if labeled else 2 * inputs.mean(0) + 50
    torch.testing.assert_close(network[0].running_mean, expected, atol=1e-3, rtol=1e-3)


def test_a_weight_multiplies_the_loss_of_rotation():
    losses = []
    for weight in (1.0, 3.0):
        torch.manual_seed(0)
        done = train(
            nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Linear(4, 2)),
            Rows(torch.randn(8, 4, 4, 1, generator=torch.Generator().manual_seed(0))),
            torch.arange(0),
            torch.arange(0),
            classes=2,
            seed=0,
            recipe=Recipe(epochs=1, learning_rate=1e-12),
            objectives=[make_objective("rotation", weight=weight)],
        )
        losses.append(done.history.losses[0])
    assert losses[1] == pytest.approx(3 * losses[0], rel=1e-5)
