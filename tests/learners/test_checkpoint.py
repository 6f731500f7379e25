"""Fits that are broken off: what is kept, what goes on from it, and what is refused."""

import collections
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from labelwise.errors import DataError, InputError, ResourceError
from labelwise.kernels import Rows
from labelwise.learners import Checkpoint, CrossEntropy, Looks, Objective, Player, Recipe, train
from labelwise.learners.average import Average
from labelwise.learners.networks import Dropout
from labelwise.learners.objectives import NETWORK
from labelwise.learners.state import capture, restore

CPU = torch.device("cpu")


class Stopped(Exception):
    """The process is gone."""


STOP = []  # outside of what is restored


def stop_at(step):
    if [step.number] == STOP:
        raise Stopped


class Everything(Objective):
    """State of every kind: a module, a critic, a teacher, a queue, counters, its own randomness."""

    def prepare(self, setting):
        width = setting.embedding_width
        self.projector = nn.Linear(width, 3)
        self.critic = nn.Linear(width, 1)
        for layer in (self.projector, self.critic):
            for each in layer.parameters():
                each.data.uniform_(-0.5, 0.5, generator=setting.generator)
        self.teacher = Average(setting.network, 0.9)
        self.generator = setting.generator
        self.recent = collections.deque(maxlen=3)
        self.seen = {"rows": 0}
        self.last = None
        self.known = list(setting.network.parameters())
        self.register_buffer("score", torch.zeros(setting.pool), persistent=False)

    def players(self):
        return {"critic": Player(self.critic, {"learning_rate": 0.01})}

    def forward(self, labeled, unlabeled, step):
        stop_at(step)
        self.seen["rows"] += len(labeled) + len(unlabeled)
        noise = torch.rand(len(unlabeled), 3, generator=self.generator) + torch.rand(1)
        theirs = self.teacher.module.parameters()
        drift = sum((a - b).square().sum() for a, b in zip(theirs, self.known))
        made = self.projector(unlabeled.embeddings)
        loss = (made - noise).square().mean() + 1e-3 * drift * (1 + sum(self.recent))
        if self.last is not None:
            loss = loss + 1e-3 * (made.mean(0) - self.last).square().sum()
        self.last = made.detach().mean(0)
        self.recent.append(float(loss.detach()))
        self.score[unlabeled.rows] += loss.detach()
        return {NETWORK: loss, "critic": self.critic(unlabeled.embeddings.detach()).square().mean()}

    def after_step(self, network):
        self.teacher.update(network)

    def signature(self):
        return {"name": "everything"}


def jitter(inputs, generator):
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


def network():
    generator = torch.Generator().manual_seed(5)
    layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), Dropout(0.2), nn.Linear(8, 3)]
    made = nn.Sequential(*layers)
    for each in made.parameters():
        each.data.uniform_(-0.5, 0.5, generator=generator)
    return made


RECIPE = {"epochs": 6, "minibatch": 16, "unlabeled_minibatch": 20}


def run(
    folder=None,
    *,
    stop=-1,
    listener=None,
    labeled=40,
    every=1,
    seed=3,
    objectives=None,
    made=None,
    **recipe,
):
    generator = torch.Generator().manual_seed(0)
    inputs = Rows(torch.randn(130, 4, generator=generator))
    labels = torch.randint(3, (130,), generator=generator)
    rows = torch.arange(labeled)
    made = made or network()
    STOP[:] = [stop]
    trained = train(
        made,
        inputs,
        rows,
        labels[rows],
        classes=3,
        seed=seed,
        recipe=Recipe(**{**RECIPE, **recipe}),
        objectives=objectives or [CrossEntropy(), Everything()],
        looks=Looks(jitter),
        checkpoint=None if folder is None else Checkpoint(folder, every=every),
        listener=listener,
    )
    return made, trained


def same(one, other):
    """Whether two fits ended with the same bits."""
    (network_a, trained_a), (network_b, trained_b) = one, other
    assert trained_a.history._replace(seconds=0.0) == trained_b.history._replace(seconds=0.0)
    for a, b in ((network_a, network_b), *zip(trained_a.objectives, trained_b.objectives)):
        node_a, tensors_a = capture(a)
        node_b, tensors_b = capture(b)
        assert node_a == node_b
        assert all(torch.equal(tensors_a[name], tensors_b[name]) for name in tensors_a)


VARIANTS = {
    "adam": {"average": 0.9, "validation": 0.2, "clip": 1.0},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05, "weight_decay": 1e-3, "precision": "bf16"},
    "lars": {"optimizer": "lars", "learning_rate": 0.5, "weight_decay": 1e-3},
    "target": {"target_accuracy": 0.3, "schedule": "one_cycle"},
    "patience": {"validation": 0.2, "patience": 1, "optimizer": "adamw"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fit_broken_off_anywhere_ends_as_an_unbroken_one(variant, tmp_path):
    recipe = VARIANTS[variant]
    whole = run(**recipe)
    steps = whole[1].history.steps
    for stop in {0, min(4, steps - 1), steps // 2}:
        folder = tmp_path / str(stop)
        with pytest.raises(Stopped):
            run(folder, stop=stop, **recipe)
        same(whole, run(folder, **recipe))
    # what is complete is read, not trained again
    told = []
    same(whole, run(folder, listener=told.append, **recipe))
    assert told == []


def test_broken_off_many_times_with_checkpoints_now_and_then(tmp_path):
    whole = run()
    for stop in (2, 5, 9, 10, 17):
        with pytest.raises(Stopped):
            run(tmp_path, stop=stop, every=2)
    assert json.loads((tmp_path / "checkpoint.json").read_text())["epoch"] == 4
    same(whole, run(tmp_path, every=2))
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "checkpoint-6.safetensors",
        "checkpoint.json",
    ]


def test_without_labels_it_goes_on_too(tmp_path):
    class Spread(Objective):
        def forward(self, unlabeled, step):
            stop_at(step)
            return (unlabeled.weak().embeddings - unlabeled.embeddings).square().mean()

        def signature(self):
            return {"name": "spread"}

    whole = run(labeled=0, objectives=[Spread()])
    with pytest.raises(Stopped):
        run(tmp_path, labeled=0, objectives=[Spread()], stop=17)
    resumed = run(tmp_path, labeled=0, objectives=[Spread()])
    assert whole[1].history.losses == resumed[1].history.losses
    assert torch.equal(whole[0][0].weight, resumed[0][0].weight)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from test_checkpoint import run
def listener(passed):
    if passed.epoch == 4:
        os.kill(os.getpid(), signal.SIGKILL)
run(sys.argv[1], listener=listener)
"""


def test_a_killed_process_leaves_a_checkpoint_to_go_on_from(tmp_path):
    here = os.path.dirname(__file__)
    ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path, here], timeout=120)
    assert ended.returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "checkpoint.json").read_text())["epoch"] == 3
    same(run(), run(tmp_path))


def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    from labelwise.learners import checkpoint as module

    real = module.write_in_place

    def full(path, content):
        if path.name in ("checkpoint-3.safetensors", "checkpoint.json") and "3" in full.now:
            raise OSError(28, "No space left on device")
        real(path, content)

    def listener(passed):
        full.now = str(passed.epoch)

    full.now = ""
    monkeypatch.setattr(module, "write_in_place", full)
    with pytest.raises(ResourceError, match=r"cannot be written to .*: No space left"):
        run(tmp_path, listener=listener)
    monkeypatch.undo()
    same(run(), run(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 7}, r"of another recipe \(epochs 6 there, 7 here\): go on as it began"),
        ({"seed": 4}, r"of another seed \(3 there, 4 here\)"),
        ({"labeled": 41}, r"of another data \(labeled 40 there, 41 here\)"),
        ({"objectives": [CrossEntropy()]}, "of another objectives"),
        ({"made": nn.Sequential(nn.Linear(4, 9), nn.Linear(9, 3))}, r"another architecture \("),
    ],
)
def test_another_fit_is_refused(change, message, tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path, stop=6)
    with pytest.raises(DataError, match=message) as refused:
        run(tmp_path, **change)
    assert "\n" not in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_another_version_and_damage_are_refused(tmp_path):
    run(tmp_path)
    card = json.loads((tmp_path / "checkpoint.json").read_text())
    card["made_by"]["version"]["labelwise"] = "0.0.1"
    text = json.dumps(card)
    good = (tmp_path / "checkpoint.json").read_text()
    (tmp_path / "checkpoint.json").write_text(text)
    with pytest.raises(DataError, match=r'another version \(labelwise "0.0.1" there'):
        run(tmp_path)
    (tmp_path / "checkpoint.json").write_text(good[:500])
    with pytest.raises(DataError, match=r"cannot be read .*: delete that folder"):
        run(tmp_path)
    (tmp_path / "checkpoint.json").write_text(good)
    tensors = next(tmp_path.glob("*.safetensors"))
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(DataError, match="its tensors are not those that were written"):
        run(tmp_path)


class Diverging(Objective):
    """Not finite from a step on; or so in its gradient alone."""

    def __init__(self, step, gradient=False):
        super().__init__()
        self.step, self.gradient = step, gradient

    def forward(self, labeled, step):
        loss = labeled.logits.square().mean()
        if step.number < self.step:
            return loss
        spoiled = loss * float("nan")
        if not self.gradient:
            return spoiled
        return loss.detach() + (spoiled - spoiled.detach()).nan_to_num()

    def signature(self):
        return {"name": "diverging"}


def test_a_loss_that_diverges_leaves_the_last_good_checkpoint(tmp_path):
    with pytest.raises(InputError, match=r"loss is nan at step 7 of 18 with learning rate 0\.0"):
        run(tmp_path, objectives=[Diverging(7)])
    assert json.loads((tmp_path / "checkpoint.json").read_text())["epoch"] == 2


def test_weights_that_no_loss_has_seen_are_looked_at_before_they_are_kept(tmp_path):
    with pytest.raises(InputError, match="the loss is nan at step 8 of 18"):
        run(tmp_path, objectives=[Diverging(8, gradient=True)])
    assert json.loads((tmp_path / "checkpoint.json").read_text())["epoch"] == 2


def test_state_is_put_back_in_place():
    weight = torch.arange(6.0).reshape(2, 3).t()
    shared = [1, torch.zeros(2)]
    value = {"w": weight, "list": shared, "again": shared, "text": "a", 3: (1.5, None)}
    node, tensors = capture(value)
    node = json.loads(json.dumps(node))
    expected = weight.clone()
    weight.zero_()
    shared[0], value["text"], value[3] = 7, "b", None
    restored = restore(value, node, tensors, CPU)
    assert restored is value
    assert restored["w"] is weight
    assert torch.equal(weight, expected)
    assert weight.stride() == (1, 3)
    assert restored["list"] is shared is restored["again"]
    assert (shared[0], restored["text"], restored[3]) == (1, "a", (1.5, None))
    with pytest.raises(DataError, match=r"another architecture: parameter \.weight has shape"):
        restore(nn.Linear(2, 3), *capture(nn.Linear(2, 4)), CPU)


class Sizes(list):
    """No plain list, so none of the network's state."""


class Small(nn.Module):
    """A network for which more rows than some are too many."""

    def __init__(self, most, uses=torch.OutOfMemoryError):
        super().__init__()
        self.body = network()
        self.most, self.uses = most, uses
        self.__dict__["sizes"] = Sizes()

    def forward(self, x):
        if self.training:
            self.sizes.append(len(x))
            if len(x) > self.most:
                raise self.uses("DefaultCPUAllocator: can't allocate memory")
        return self.body(x)


class Both(Objective):
    """Looks at labeled and unlabeled rows, and notes which."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def forward(self, unlabeled):
        loss = unlabeled.logits.square().mean()
        self.rows += unlabeled.rows.tolist()
        return loss

    def signature(self):
        return {"name": "both"}


@pytest.mark.parametrize("uses", [torch.OutOfMemoryError, RuntimeError])
def test_out_of_memory_halves_the_minibatch_and_says_so_once(uses, tmp_path):
    small = Small(5, uses)
    with pytest.warns(UserWarning, match="labeled from 16 to 8 and unlabeled from 0 to 0") as said:
        _, trained = run(tmp_path, objectives=[CrossEntropy()], made=small)
    assert len(said) == 1
    history = trained.history
    assert history.minibatch == 4
    good = [size for size in small.sizes if size <= 5]
    assert sum(good) == 6 * 40  # every labeled row once an epoch, none lost
    assert history.steps == len(good) == 60
    assert len([size for size in small.sizes if size > 5]) == 2
    # a fit that goes on knows it already
    again = Small(5, uses)
    _, resumed = run(tmp_path, objectives=[CrossEntropy()], made=again)
    assert resumed.history.minibatch == 4
    assert again.sizes == []


def test_out_of_memory_of_unlabeled_rows_loses_none():
    small = Small(6)
    with pytest.warns(UserWarning, match="unlabeled from 20 to 10"):
        _, trained = run(objectives=[Both()], labeled=0, made=small, epochs=2)
    rows = trained.objectives[0].rows
    assert trained.history.unlabeled_minibatch == 5
    assert sorted(rows[:130]) == list(range(130))
    assert len(rows) == 260
    assert sorted(rows[130:]) == list(range(130))


def test_the_schedule_goes_on_where_it_was():
    rates = []
    small = Small(8)
    with pytest.warns(UserWarning, match="out of memory"):
        run(
            objectives=[CrossEntropy()],
            made=small,
            epochs=4,
            learning_rate=1.0,
            listener=lambda passed: rates.append(passed.learning_rate),
        )
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(0.87, abs=0.04)  # 1/4 of a cosine less one of its 20 steps
    assert rates[-1] < 0.01


def test_out_of_memory_with_the_smallest_minibatch_is_an_error():
    with (
        pytest.warns(UserWarning, match="out of memory"),
        pytest.raises(ResourceError, match="the smallest minibatch \\(1 labeled and 0 unlabeled"),
    ):
        run(objectives=[CrossEntropy()], made=Small(0))


def test_other_errors_of_a_network_are_its_own():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run(objectives=[CrossEntropy()], made=nn.Linear(5, 3))


def test_listeners_hear_of_every_epoch():
    heard = []
    _, trained = run(listener=heard.append)
    assert [each.epoch for each in heard] == [1, 2, 3, 4, 5, 6]
    assert [each.loss for each in heard] == trained.history.losses
    assert [each.steps for each in heard] == [3, 6, 9, 12, 15, 18]
    assert all(each.epochs == 6 for each in heard)
