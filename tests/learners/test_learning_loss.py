"""Learning loss: the loss of pairs by hand, which layers it sees, and that it predicts losses."""

from types import SimpleNamespace

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import (
    MLP,
    Network,
    Setting,
    Step,
    load_model,
    model_evidence,
    save_model,
)
from labelwise.learners.networks import Perceptron, SmallImageResNet, build_empty
from labelwise.learners.objectives import Tapped
from labelwise.learners.objectives.learning_loss import LearningLoss, LossModule, ranking_loss


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("count", [2, 5, 8])
def test_pairs_are_ranked(count):
    predicted = torch.randn(count, generator=generator(1)).requires_grad_()
    losses = torch.rand(count, generator=generator(2)).requires_grad_()
    costs = []
    for i in range(count // 2):
        j = count - 1 - i
        sign = 1 if losses[i] > losses[j] else -1
        costs.append(max(0.0, 0.7 - sign * (predicted[i] - predicted[j]).item()))
    found = ranking_loss(predicted, losses, 0.7)
    assert found.item() == pytest.approx(sum(costs) / len(costs))
    found.backward()
    assert losses.grad is None
    assert ranking_loss(predicted[:1], losses[:1]).item() == 0


def setting(network, shape):
    cpu = torch.device("cpu")
    return Setting(3, torch.arange(3), 8, cpu, generator(), network, shape, 10, 7)


def resnet():
    return build_empty(lambda: SmallImageResNet(3, 10, width=4), generator())


def test_of_a_resnet_it_sees_the_four_stages():
    network = resnet()
    objective = LearningLoss()
    objective.prepare(setting(network, (32, 32, 3)))
    pixels = torch.rand(2, 32, 32, 3)
    with Tapped(network.eval(), network.head, layers=objective.layers()) as forward:
        _, seen, made = forward.look(pixels)
        assert torch.equal(forward(pixels)[1], seen)
    widths = [made[layer].shape[1] for layer in objective.layers()]
    assert widths == [4, 8, 16, 32]
    assert [stage.in_features for stage in objective.module.stages] == widths
    x = network.standardize(pixels.permute(0, 3, 1, 2))
    x = torch.relu(network.stem_norm(network.stem(x)))
    for stage, layer in enumerate(objective.layers()):
        x = network.stages[2 * stage : 2 * stage + 2](x)
        torch.testing.assert_close(made[layer], x.mean((2, 3)))


def test_of_a_perceptron_it_sees_the_hidden_layers_and_others_by_name():
    network = build_empty(lambda: Perceptron(5, (7, 8), 3, 0.1), generator())
    objective = LearningLoss()
    objective.prepare(setting(network, (5,)))
    assert [stage.in_features for stage in objective.module.stages] == [7, 8]
    named = LearningLoss(layers=["body.0"])
    named.prepare(setting(network, (5,)))
    assert named.layers() == [network.body[0]] or named.layers() == (network.body[0],)
    assert not any(p is q for p in network.parameters() for q in named.parameters())
    with pytest.raises(InputError, match=r"the network has no layer 'body.9'; did you mean"):
        LearningLoss(layers=["body.9"]).prepare(setting(network, (5,)))
    with pytest.raises(InputError, match="finds neither feature maps nor hidden layers"):
        LearningLoss().prepare(setting(nn.Linear(5, 3), (5,)))


@torch.no_grad()
def test_the_module_by_hand_with_weight_and_margin():
    module = build_empty(lambda: LossModule([2, 3], 4), generator(5))
    seen = [torch.randn(6, width, generator=generator(width)) for width in (2, 3)]
    expected = []
    for row in range(6):
        hidden = []
        for stage, each in zip(module.stages, seen):
            hidden += [max(0.0, float(v)) for v in stage.weight @ each[row] + stage.bias]
        expected.append(float(module.last.weight[0] @ torch.tensor(hidden) + module.last.bias[0]))
    torch.testing.assert_close(module(seen), torch.tensor(expected))
    layers = nn.ReLU(), nn.ReLU()
    objective = LearningLoss(weight=3.0, margin=0.4)
    objective._layers, objective.module = layers, module
    logits = torch.randn(6, 3, generator=generator(1))
    view = SimpleNamespace(
        averages=dict(zip(layers, seen)), logits=logits, labels=torch.arange(6) % 3
    )
    losses = -logits.log_softmax(1)[torch.arange(6), view.labels]
    found = objective(view, Step(0, 10, 0, 0.1))
    torch.testing.assert_close(found, 3 * ranking_loss(torch.tensor(expected), losses, 0.4))


def test_of_five_resolutions_it_sees_the_four_deepest():
    network = nn.Sequential(
        *(nn.Conv2d(1 + place, 2 + place, 3, 2, 1) for place in range(5)),
        nn.Flatten(),
        nn.Linear(6, 3),
    )
    objective = LearningLoss()
    objective.prepare(setting(network, (1, 32, 32)))
    assert list(objective.layers()) == [network[place] for place in (1, 2, 3, 4)]


def test_after_its_share_of_steps_the_network_is_left_alone():
    layer = nn.ReLU()
    objective = LearningLoss(detach=0.5)
    objective._layers = (layer,)
    objective.module = nn.Sequential()
    objective.module.forward = lambda seen: seen[0].sum(1)
    reached = []
    for number in (0, 4, 5, 9):
        seen = torch.randn(6, 2, generator=generator()).requires_grad_()
        logits = torch.randn(6, 3, generator=generator(1)).requires_grad_()
        view = SimpleNamespace(averages={layer: seen}, logits=logits, labels=torch.arange(6) % 3)
        loss = objective(view, Step(number, 10, 0, 0.1))
        if loss.requires_grad:
            loss.backward()
        reached.append(seen.grad is not None)
        assert logits.grad is None  # the losses are targets
    assert reached == [True, True, False, False]


def test_options_out_of_range_are_refused():
    for options, words in (
        ({"weight": -1.0}, "weight must be a number >= 0"),
        ({"detach": 1.5}, r"detach must be in \[0, 1\]"),
        ({"width": 0}, "width must be a whole number >= 1"),
    ):
        with pytest.raises(InputError, match=words):
            LearningLoss(**options)


def noisy(count=500):
    """Two classes; on one side of the first axis the label is a coin."""
    x = torch.randn(count, 5, generator=generator(3))
    coin = torch.rand(count, generator=generator(4)) < 0.5
    labels = torch.where(x[:, 0] > 0, coin, x[:, 1] > 0).long()
    return Rows(x), labels


def test_predicted_losses_go_with_true_ones_on_held_out_rows(tmp_path):
    inputs, labels = noisy()
    rows = torch.arange(200)
    learner = MLP(
        hidden=(32, 32), epochs=1, min_steps=150, objectives="cross_entropy+learning_loss"
    )
    model = learner.fit(inputs, rows, labels[rows], classes=2, seed=0)
    predicted = {p.__name__: p for p in model_evidence(model, inputs, seed=0)}["predicted_loss"]()
    truth = -model.predict(inputs).probs[torch.arange(500), labels].log()
    assert spearmanr(predicted[200:], truth[200:]).statistic >= 0.3
    save_model(model, tmp_path)
    again = model_evidence(load_model(tmp_path), inputs, seed=0)
    loaded = {p.__name__: p for p in again}["predicted_loss"]()
    assert torch.equal(loaded, predicted)


def test_beside_batch_normalization_and_objectives_that_take_views_together():
    learner = Network(
        lambda shape, classes: resnet(),
        name="tiny",
        epochs=1,
        min_steps=3,
        minibatch=5,
        objectives="cross_entropy+learning_loss+tod",
    )
    pixels = torch.randint(0, 255, (20, 8, 8, 3), dtype=torch.uint8, generator=generator())
    model = learner.fit(Rows(pixels), torch.arange(6), torch.arange(6), classes=10, seed=0)
    found = {p.__name__: p for p in model_evidence(model, Rows(pixels), seed=0)}
    assert found["predicted_loss"]().shape == (20,)
    assert all(len(m._forward_hooks) == 0 for m in model.network.modules())
