"""Temporal output discrepancy: both forms by hand, and what they and the score do."""

from types import SimpleNamespace

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import nn

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import MLP, CrossEntropy, Looks, Network, Recipe, Setting, train
from labelwise.learners.objectives.tod import TemporalDiscrepancy
from labelwise.strategies.tod import tod_scores


def setting(network):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3)
    return Setting(3, labels, 4, torch.device("cpu"), generator, network, (4,), 20, 17)


def view(network, count, seed):
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    found = SimpleNamespace(inputs=inputs, embeddings=inputs, logits=network(inputs))
    found.together = lambda *others: None
    return type("Seen", (SimpleNamespace,), {"__len__": lambda self: count})(**vars(found))


def linear(value):
    network = nn.Linear(4, 3, bias=False)
    nn.init.constant_(network.weight, value)
    return network


def test_the_default_is_the_second_head_between_network_and_average():
    network = linear(0.5)
    objective = TemporalDiscrepancy(weight=0.1)
    objective.prepare(setting(linear(0.5)))
    nn.init.constant_(network.weight, 2.0)
    labeled, unlabeled = view(network, 2, 0), view(network, 5, 1)
    expected = 0.0
    for seen in (labeled, unlabeled):
        second = seen.inputs @ objective.second.weight.T + objective.second.bias
        average = 0.5 * seen.inputs.sum(1, keepdim=True).expand(-1, 3)
        expected += ((seen.logits - second) ** 2).mean() + ((second - average) ** 2).mean()
    loss = objective(labeled, unlabeled, network)
    torch.testing.assert_close(loss, 0.1 * expected)
    loss.backward()
    assert network.weight.grad.norm() > 0
    assert objective.second.weight.grad.norm() > 0


def test_the_paper_compares_unlabeled_outputs_with_the_average_alone():
    network = linear(2.0)
    objective = TemporalDiscrepancy(weight=0.1, form="paper")
    objective.prepare(setting(linear(0.5)))
    labeled, unlabeled = view(network, 2, 0), view(network, 5, 1)
    apart = 1.5 * unlabeled.inputs.sum(1)
    expected = 0.1 * sum(3 * float(each) ** 2 for each in apart) / 5
    assert objective(labeled, unlabeled, network).item() == pytest.approx(expected, rel=1e-5)
    assert not hasattr(objective, "second")


def test_the_average_follows_the_network():
    network = linear(0.0)
    objective = TemporalDiscrepancy(decay=0.75, form="paper")
    objective.prepare(setting(network))
    expected = None
    for turn, value in enumerate([1.0, 2.0, 5.0, 7.0, 1.0, 3.0]):
        nn.init.constant_(network.weight, value)
        objective.after_step(network)
        keep = min(0.75, 1 - 1 / (turn + 1))
        expected = value if expected is None else keep * expected + (1 - keep) * value
    one = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    (earlier,) = objective._earlier([one], network)
    assert earlier[0, 0].item() == pytest.approx(expected)


@pytest.mark.parametrize("form", ["second_head", "paper"])
@pytest.mark.parametrize("labeled", [1, 3])
def test_the_average_of_an_unmoved_network_says_the_same_under_batch_normalization(form, labeled):
    """Both see one minibatch of all rows; one labeled row puts norms of both in evaluation."""
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    found = []

    class Unmoved(TemporalDiscrepancy):
        def forward(self, labeled, unlabeled, network):
            loss = super().forward(labeled, unlabeled, network)
            if form == "second_head":  # but for its own head, which is another
                self.second.load_state_dict(network[3].state_dict())
                loss = super().forward(labeled, unlabeled, network)
            found.append(loss.item())
            return loss

    draw = torch.Generator().manual_seed(0)
    inputs = Rows(torch.randn(20, 4, generator=draw) + torch.arange(20.0)[:, None])
    train(
        network,
        inputs,
        torch.arange(labeled),
        torch.arange(labeled) % 3,
        classes=3,
        seed=0,
        recipe=Recipe(epochs=3, unlabeled_minibatch=8, optimizer="sgd", learning_rate=1e-12),
        objectives=[CrossEntropy(), Unmoved(weight=1.0, form=form, decay=0.5)],
    )
    assert found == pytest.approx([0, 0, 0], abs=1e-9)


@pytest.mark.parametrize("form", ["second_head", "paper"])
def test_texts_of_other_lengths_in_the_two_minibatches(form):
    class Mean(nn.Module):
        def forward(self, tokens):
            return tokens.float().mean(1, keepdim=True)

    learner = Network(
        lambda shape, classes: nn.Sequential(Mean(), nn.Linear(1, classes)),
        name="texts",
        objectives=f"cross_entropy+tod:form={form}",
        looks=Looks(lambda tokens, generator: tokens[:, : len(tokens)]),
        epochs=1,
        min_steps=3,
        unlabeled_minibatch=4,
    )
    tokens = torch.arange(70).reshape(10, 7)
    model = learner.fit(Rows(tokens), torch.arange(3), torch.arange(3), classes=3, seed=0)
    assert model.history.steps == 3


def test_options_out_of_range_are_refused():
    for options, words in (
        ({"weight": -1.0}, "weight must be a number >= 0"),
        ({"form": "both"}, "form must be one of second_head, paper"),
        ({"decay": 1.0}, r"decay must be in \[0, 1\)"),
    ):
        with pytest.raises(InputError, match=words):
            TemporalDiscrepancy(**options)


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return Rows(torch.tensor(x[:700]).float() / 16), torch.tensor(y[:700])


def fit(digits, labels, objectives=(), seed=0):
    inputs, truth = digits
    learner = MLP(hidden=(32,), epochs=1, min_steps=100, schedule="constant", objectives=objectives)
    return learner.fit(inputs, torch.arange(labels), truth[:labels], classes=10, seed=seed)


def test_the_loss_keeps_outputs_near_the_average(digits):
    def gap(weight, form):
        tod = f"cross_entropy+tod:weight={weight}:form={form}:decay=0.9"
        model = fit(digits, 60, tod)
        with torch.no_grad():
            earlier = model.objectives[1]._average.module.eval()(digits[0].tensor())
        return (model.predict(digits[0]).logits - earlier).square().mean()

    free = gap(0.0, "paper")
    assert gap(1.0, "second_head") < 0.8 * free
    assert gap(1.0, "paper") < 0.5 * free


def test_the_score_goes_with_the_true_loss(digits):
    inputs, truth = digits
    before, now = (fit(digits, n, seed=n).predict(inputs).probs for n in (30, 60))
    loss = -now[torch.arange(700), truth].log()
    assert spearmanr(tod_scores(now, before)[60:], loss[60:]).statistic > 0.4
