"""Fits of learners that are broken off, and fits that diverge: what is kept, and what it says."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from labelwise.errors import DataError, InputError
from labelwise.kernels import Rows
from labelwise.learners import MLP, Checkpoint, Objective, Player, ResNet18, fit_many
from labelwise.learners.many import Job
from labelwise.learners.objectives import NETWORK


class Stopped(Exception):
    """The process is gone."""


LIMITS = {}  # outside of what is restored


class Ending(Objective):
    """Cross-entropy that ends the process, or is not finite, from a step on."""

    def forward(self, labeled, step):
        if step.number >= LIMITS["stop"]:
            raise Stopped
        loss = torch.nn.functional.cross_entropy(labeled.logits, labeled.labels)
        return loss * (math.nan if step.number >= LIMITS["spoil"] else 1.0)

    def signature(self):
        return {"name": "ending"}


def table():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    centers = 2 * torch.randn(3, 5, generator=generator)
    return Rows(centers[labels] + torch.randn(60, 5, generator=generator)), labels


def pixels():
    generator = torch.Generator().manual_seed(0)
    return Rows(torch.randint(256, (24, 8, 8, 3), generator=generator).byte()), torch.arange(24) % 3


LEARNERS = {
    # 10 epochs of 2 steps, with dropout, an average and early stopping
    "mlp": (
        table,
        lambda: MLP(
            hidden=8,
            dropout=0.2,
            average=0.9,
            validation=0.2,
            min_steps=0,
            epochs=10,
            minibatch=24,
            objectives=[Ending()],
        ),
    ),
    "resnet18": (
        pixels,
        lambda: ResNet18(
            width=2, pad=1, min_steps=0, epochs=10, minibatch=12, objectives=[Ending()]
        ),
    ),
}


def fit(name, checkpoint=None, *, stop=math.inf, spoil=math.inf, **changes):
    data, make = LEARNERS[name]
    inputs, labels = data()
    learner = make()
    LIMITS.update(stop=stop, spoil=spoil)
    for key, value in changes.items():
        setattr(learner, key, value)
    rows = torch.arange(len(inputs))
    return learner.fit(inputs, rows, labels, classes=3, seed=4, checkpoint=checkpoint)


def same(one, other):
    mine, theirs = one.network.state_dict(), other.network.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine | theirs)
    assert one.history._replace(seconds=0) == other.history._replace(seconds=0)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_fit_broken_off_ends_as_an_unbroken_one(name, tmp_path):
    whole = fit(name)
    with pytest.raises(Stopped):
        fit(name, Checkpoint(tmp_path, every=2), stop=9)
    assert json.loads((tmp_path / "checkpoint.json").read_text())["epoch"] == 4
    same(fit(name, Checkpoint(tmp_path, every=2)), whole)
    # what is complete is read: it would stop at once
    same(fit(name, Checkpoint(tmp_path, every=2), stop=0), whole)


def test_a_learner_with_other_options_is_refused(tmp_path):
    """Crops and flips are no part of recipe, data or architecture, and decide the fit."""
    with pytest.raises(Stopped):
        fit("resnet18", Checkpoint(tmp_path), stop=9)
    with pytest.raises(DataError, match=r"of another learner \(pad 1 there, 2 here\)"):
        fit("resnet18", Checkpoint(tmp_path), pad=2)
    with pytest.raises(DataError, match="of another architecture"):
        fit("mlp", Checkpoint(tmp_path))


@pytest.mark.parametrize("name", LEARNERS)
def test_a_fit_that_diverges_says_where_and_keeps_the_last_good_checkpoint(name, tmp_path):
    said = r"the loss is nan at step 9 of 20 with learning rate [\d.e-]+: lower learning_rate"
    with pytest.raises(InputError, match=said) as ended:
        fit(name, Checkpoint(tmp_path), spoil=9)
    assert "\n" not in str(ended.value)
    assert json.loads((tmp_path / "checkpoint.json").read_text())["epoch"] == 4
    (kept,) = tmp_path.glob("*.safetensors")
    assert all(bool(each.isfinite().all()) for each in load_file(kept).values())
    # and it is good: from it the fit goes on to where it would have come
    same(fit(name, Checkpoint(tmp_path)), fit(name))


class Late(Objective):
    """The last step's gradient is not finite, and no loss ever shows it."""

    def __init__(self, player=False):
        super().__init__()
        self.player = player

    def prepare(self, setting):
        self.critic = torch.nn.Linear(setting.embedding_width, 1)
        torch.nn.init.ones_(self.critic.weight)

    def players(self):
        return {"critic": Player(self.critic)} if self.player else {}

    def forward(self, labeled, step):
        loss = labeled.logits.square().mean()
        theirs = self.critic(labeled.embeddings.detach()).square().mean()
        if step.number == step.total - 1:
            spoiled = theirs if self.player else loss
            # a gradient of NaN, a value of 0
            spoiled = (spoiled * math.nan - (spoiled * math.nan).detach()).nan_to_num()
            loss, theirs = (loss, theirs + spoiled) if self.player else (loss + spoiled, theirs)
        return {NETWORK: loss, "critic": theirs} if self.player else loss

    def signature(self):
        return {"name": "late", "player": self.player}


@pytest.mark.parametrize("player", [False, True])
def test_weights_that_no_loss_has_seen_are_never_given_back(player, tmp_path):
    inputs, labels = table()
    learner = MLP(hidden=4, epochs=3, min_steps=0, minibatch=30, objectives=[Late(player)])
    said = "the loss is nan at step 5 of 6"
    with pytest.raises(InputError, match=said):
        learner.fit(inputs, torch.arange(60), labels, classes=3, seed=0)
    with pytest.raises(InputError, match=said):
        learner.fit(
            inputs, torch.arange(60), labels, classes=3, seed=0, checkpoint=Checkpoint(tmp_path)
        )
    assert json.loads((tmp_path / "checkpoint.json").read_text())["epoch"] == 2


def test_fits_of_a_group_diverge_with_a_word_too():
    """Many at once are no loophole."""
    inputs, labels = table()
    spoiled = inputs.tensor().clone()
    spoiled[3] = math.nan
    rows = torch.arange(60)
    with pytest.raises(InputError, match="the loss is nan at step 0 of "):
        fit_many(MLP(hidden=4), Rows(spoiled), [Job(rows, labels, 0)] * 2, classes=3)
