"""The training loop for objectives that need more than labels: looks, players, no labels at all."""

import pytest
import torch
from torch import nn

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import (
    MLP,
    CrossEntropy,
    Looks,
    Network,
    Objective,
    Player,
    Recipe,
    list_objectives,
    load_model,
    make_objective,
    model_evidence,
    save_model,
    train,
)
from labelwise.learners.average import Average
from labelwise.learners.objectives import NETWORK, parse_objectives


def blobs(count=120, classes=3, width=4):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centers = 3 * torch.randn(classes, width, generator=generator)
    return Rows(centers[labels] + torch.randn(count, width, generator=generator)), labels


def run(objectives, *, labeled=30, recipe=None, looks=None, network=None, moved=0.0):
    inputs, labels = blobs()
    rows = torch.arange(labeled)
    inputs = Rows(inputs.tensor() + moved * (torch.arange(120) >= labeled)[:, None])
    network = network or nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    recipe = recipe or Recipe(epochs=2, minibatch=16, unlabeled_minibatch=20)
    return train(
        network,
        inputs,
        rows,
        labels[rows],
        classes=3,
        seed=0,
        recipe=recipe,
        objectives=objectives,
        looks=looks,
    )


class Spy(Objective):
    """Keeps what it was shown."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def signature(self):
        return {"name": "spy"}


class Looking(Spy):
    def forward(self, unlabeled):
        self.body(unlabeled)
        return unlabeled.logits.square().mean()


def shift(amount):
    return lambda inputs, generator: inputs + amount + torch.rand(1, generator=generator)


def test_looks_at_the_same_rows_are_made_once_and_differ():
    seen = []

    def body(view):
        assert view.strong() is view.strong(1)
        assert view.strong(2) is not view.strong(1)
        assert torch.equal(view.strong(2).rows, view.rows)
        first, second = view.strong(1).inputs, view.strong(2).inputs
        apart = (first - second).flatten()
        assert apart.std() < 1e-5 < apart.abs().mean() < 1
        strength = (view.distorted().inputs - view.strong().inputs).mean()
        assert 8 < strength < 12
        weak = (view.strong().inputs - view.inputs).mean()
        assert 8 < weak < 12
        assert not torch.equal(view.weak(1).inputs, view.inputs)
        seen.append(len(view))

    run([Looking(body)], looks=Looks(shift(0.0), shift(10.0), shift(20.0)))
    assert len(seen) == 4
    assert set(seen) == {20}


def test_a_look_nobody_can_take_is_refused():
    with pytest.raises(InputError, match=r"wants strong rows.*looks=Looks\(strong=...\)"):
        run([Looking(lambda view: view.strong())])
    assert run([Looking(lambda view: view.weak())])  # unchanged inputs are always to be had


def test_a_guess_has_no_gradient_and_is_the_prediction():
    def body(view):
        assert not view.guess.requires_grad
        assert view.guess is view.guess
        torch.testing.assert_close(view.guess, view.logits.softmax(1))

    run([Looking(body)])
    run([Looking(lambda view: (view.logits, body(view)))])


def test_without_labels_an_epoch_is_a_pass_over_the_unlabeled_rows():
    rows = []
    trained = run([Looking(lambda view: rows.append(view.rows))], labeled=0)
    assert trained.history.steps == 2 * 6
    assert sorted(torch.cat(rows[:6]).tolist()) == list(range(120))
    with pytest.raises(InputError, match="CrossEntropy learns from labels, and there are none"):
        run([CrossEntropy()], labeled=0)


class Duel(Objective):
    """A critic learns to tell labeled from unlabeled embeddings; the network may hide it."""

    def __init__(self, hide=0.0, rate=1e-2):
        super().__init__()
        self.hide, self.rate = hide, rate

    def prepare(self, setting):
        self.critic = nn.Linear(setting.embedding_width, 1)

    def players(self):
        return {"critic": Player(self.critic, {"learning_rate": self.rate})}

    def forward(self, labeled, unlabeled):
        def apart(one, other):
            return self.critic(other).mean() - self.critic(one).mean()

        mine = apart(labeled.embeddings, unlabeled.embeddings)
        theirs = apart(labeled.embeddings.detach(), unlabeled.embeddings.detach())
        return {NETWORK: self.hide * mine, "critic": -theirs}

    def signature(self):
        return {"name": "duel"}


def test_players_minimize_their_own_losses():
    torch.manual_seed(0)
    before = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    after = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    after.load_state_dict(before.state_dict())
    longer = Recipe(epochs=60, minibatch=16, unlabeled_minibatch=20)
    trained = run([Duel()], network=after, recipe=longer, moved=2.0)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters()))
    losses = trained.history.player_losses["0 Duel critic"]
    assert len(losses) == 60
    still = run([Duel(rate=1e-30)], network=after, recipe=longer, moved=2.0)
    assert losses[-1] < still.history.player_losses["0 Duel critic"][-1] - 0.5
    hidden = run([Duel(hide=1.0)], network=after)
    assert hidden.history.steps == 4
    assert not all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters()))


def test_a_player_without_a_loss_is_refused():
    class Mute(Duel):
        def forward(self, labeled):
            return labeled.logits.mean()

    with pytest.raises(InputError, match="a loss for each of their players"):
        run([Mute()])


def test_trained_objectives_are_given_back_and_those_given_are_as_they_were():
    duel = Duel()
    trained = run([CrossEntropy(), duel])
    assert not hasattr(duel, "critic")
    assert isinstance(trained.objectives[1].critic, nn.Linear)
    model = MLP(hidden=(4,), epochs=1, objectives=[CrossEntropy(), Duel()]).fit(
        blobs()[0], torch.arange(9), torch.arange(9) % 3, classes=3, seed=0
    )
    assert isinstance(model.objectives[1], Duel)


def test_an_average_is_that_of_the_weights_and_is_kept():
    layer = nn.Linear(2, 1, bias=False)
    average = Average(layer, 0.5)
    values = [1.0, 2.0, 5.0, 7.0]
    expected = None
    for turn, value in enumerate(values):
        layer.weight.data.fill_(value)
        average.update(layer)
        keep = min(0.5, 1 - 1 / (turn + 1))
        expected = value if expected is None else keep * expected + (1 - keep) * value
    assert average.module.weight[0, 0].item() == pytest.approx(expected)
    with average.inside(layer):
        assert layer.weight[0, 0].item() == pytest.approx(expected)
    assert layer.weight[0, 0].item() == 7.0

    def weight(decay):
        network = nn.Linear(4, 3)
        nn.init.zeros_(network.weight)
        recipe = Recipe(epochs=3, minibatch=16, average=decay, optimizer="sgd", learning_rate=0.1)
        run([CrossEntropy()], network=network, recipe=recipe)
        return network.weight.norm()

    assert weight(0.99) < weight(None)  # the mean of a path that leaves zero


def test_objectives_by_name():
    assert "cross_entropy" in list_objectives()
    made = parse_objectives("cross_entropy:smoothing=0.1:class_weights=balanced")
    assert made[0].signature()["smoothing"] == 0.1
    assert MLP(objectives="cross_entropy:smoothing=0.2").signature() == (
        MLP(objectives=[CrossEntropy(smoothing=0.2)]).signature()
    )
    own = Duel()
    assert parse_objectives(["cross_entropy", own])[1] is own
    assert make_objective(own) is own
    with pytest.raises(InputError, match="no objective is called 'cross_entropi'; did you mean"):
        make_objective("cross_entropi")
    with pytest.raises(InputError, match="objective 'cross_entropy' has no option 'smooth'"):
        parse_objectives("cross_entropy:smooth=1")
    with pytest.raises(InputError, match="must be name=value, got 'smoothing'"):
        parse_objectives("cross_entropy:smoothing")


def test_looks_of_a_network_of_your_own():
    def linear(shape, classes):
        return nn.Linear(shape[0], classes)

    inputs, labels = blobs()
    rows = torch.arange(12)
    seen = []
    learner = Network(
        linear,
        name="linear",
        epochs=1,
        min_steps=0,
        looks=Looks(strong=shift(10.0)),
        objectives=[CrossEntropy(), Looking(lambda view: seen.append(view.strong().inputs.mean()))],
    )
    learner.fit(inputs, rows, labels[rows], classes=3, seed=0)
    assert seen[0] > 5


class Told(Duel):
    """A duel whose critic is evidence."""

    def evidence(self, model, inputs):
        def critic():
            return model.per_row(inputs, lambda raw, logits, h: self.critic(h)[:, 0])

        return {"critic": critic}


def told(*objectives):
    inputs, _ = blobs()
    learner = MLP(hidden=(4,), epochs=3, objectives=objectives or ("cross_entropy", Told()))
    rows = torch.arange(9)
    return inputs, learner, learner.fit(inputs, rows, rows % 3, classes=3, seed=0)


def test_what_an_objective_learned_is_evidence():
    inputs, _, model = told()
    given = {provider.__name__: provider for provider in model_evidence(model, inputs, seed=0)}
    critic = model.objectives[1].critic
    expected = critic(model.predict(inputs).embeddings)[:, 0]
    torch.testing.assert_close(given["critic"](), expected)
    assert not given["critic"]().requires_grad
    _, _, twice = told(CrossEntropy(), Told(), Told())
    with pytest.raises(InputError, match="two objectives of this model give 'critic': keep one"):
        model_evidence(twice, inputs, seed=0)


def test_a_saved_model_keeps_what_its_objectives_learned(tmp_path):
    inputs, learner, model = told()
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", learner=learner)
    before, after = model.objective_evidence(inputs)[0](), loaded.objective_evidence(inputs)[0]()
    assert torch.equal(before, after)
    balanced = MLP(hidden=(4,), epochs=3, objectives="cross_entropy:class_weights=balanced")
    rows = torch.arange(9)
    save_model(balanced.fit(inputs, rows, rows % 3, classes=3, seed=0), tmp_path / "balanced")
    assert load_model(tmp_path / "balanced").objectives[0].class_weights == "balanced"


def normalized():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def test_views_seen_together_are_one_minibatch_to_batch_normalization():
    seen = []

    class Joint(Spy):
        def forward(self, labeled, unlabeled):
            labeled.together(unlabeled, unlabeled.strong())
            seen.append((labeled.logits, unlabeled.guess, unlabeled.strong().logits))
            views = (labeled, unlabeled, unlabeled.strong())
            inputs = torch.cat([view.inputs for view in views])
            again = labeled.through(inputs, still=True)[0]
            torch.testing.assert_close(torch.cat([view.logits for view in views]), again)
            return unlabeled.logits.square().mean()

    class Later(Spy):
        def forward(self, labeled):
            assert labeled.logits is seen[-1][0]  # though it comes first in the list
            return labeled.logits.square().mean()

    network = normalized()
    run([Later(None), Joint(None)], network=network, looks=Looks(strong=shift(5.0)))
    assert network[1].num_batches_tracked == len(seen) == 4
    run([Joint(None)], looks=Looks(strong=shift(5.0)))  # nothing to normalize: nothing to join


def test_a_guess_leaves_running_statistics_be():
    moments = []

    class Guessing(Spy):
        def forward(self, unlabeled, network):
            norm = network[1]
            before = [norm.running_mean.clone(), norm.running_var.clone()]
            batches = norm.num_batches_tracked.clone()
            guess = unlabeled.guess
            assert all(
                torch.equal(a, b) for a, b in zip(before, [norm.running_mean, norm.running_var])
            )
            assert norm.num_batches_tracked == batches
            torch.testing.assert_close(guess, unlabeled.logits.softmax(1).detach())
            assert not torch.equal(before[0], norm.running_mean)
            moments.append(norm.momentum)
            return unlabeled.logits.square().mean()

    run([Guessing(None)], network=normalized())
    assert set(moments) == {0.1}


def test_one_unlabeled_row_takes_the_running_variance():
    class Square(Spy):
        def forward(self, unlabeled):
            return unlabeled.logits.square().mean()

    recipe = Recipe(epochs=2, minibatch=16, unlabeled_minibatch=1)
    trained = run([Square(None)], network=normalized(), recipe=recipe)
    assert trained.history.steps == 4
