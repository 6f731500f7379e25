"""Data parallel: two gloo processes on this machine end where one process does.

Run as a program this file is one of the two.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from labelwise.errors import InputError, LabelwiseError
from labelwise.kernels import Rows
from labelwise.learners import CrossEntropy, Looks, Objective, Player, Recipe, train
from labelwise.learners.average import Average
from labelwise.learners.networks import Dropout
from labelwise.learners.objectives import NETWORK
from labelwise.learners.objectives.byol import BYOL
from labelwise.learners.parallel import Ranks, joined, lent

WAIT = 400
"""Seconds for all of it, on a machine that does other things too."""

LOST = 9
"""The exit code of the rank that is lost."""


class Contrast(Objective):
    """Needs every row at once: features uncorrelated, near a teacher's, and a layer's average."""

    def prepare(self, setting):
        self.ranks = setting.ranks
        self.teacher = Average(setting.network, 0.9)
        self.project = nn.Sequential(nn.Linear(setting.embedding_width, 6), nn.BatchNorm1d(6))
        with torch.no_grad():
            for each in self.project.parameters():
                if each.ndim == 2:
                    each.copy_(torch.randn(each.shape, generator=setting.generator))
        self.register_buffer("queue", torch.zeros(8, 6))
        setting.network[1].register_forward_hook(self.see)

    def see(self, layer, given, made):
        self.seen = made

    def after_step(self, network):
        self.teacher.update(network)

    def forward(self, unlabeled, network):
        first, other = unlabeled.embeddings, unlabeled.distorted().embeddings
        layer = self.ranks.gather(self.seen, len(unlabeled))
        z, y = self.project(first), self.project(other)
        correlation = z.T @ y / len(z)
        with torch.no_grad():
            aim = self.ranks.spread(self.teacher.module, unlabeled.inputs)
            self.queue = torch.cat([self.queue, z.detach()])[-8:]
        near = (unlabeled.logits - aim).square().mean()
        off = (correlation - torch.eye(6)).square().sum() + (z @ self.queue.T).logsumexp(1).mean()
        small = 0.01 * network[0].weight.square().sum()
        return 0.1 * off + near + 0.01 * layer.var(0).mean() + small

    def signature(self):
        return {"name": "contrast"}


class Duel(Objective):
    """A critic tells labeled from unlabeled embeddings, the network hides it."""

    def prepare(self, setting):
        self.critic = nn.Linear(setting.embedding_width, 1)
        nn.init.ones_(self.critic.weight)

    def players(self):
        return {"critic": Player(self.critic, {"learning_rate": 0.02, "clip": 0.5})}

    def forward(self, labeled, unlabeled):
        def apart(one, other):
            return self.critic(other).mean() - self.critic(one).mean()

        one, other = labeled.embeddings, unlabeled.embeddings
        mixed = torch.rand(())  # from the global generator, as a careless objective might
        mine = mixed * apart(one, other) + nn.functional.cross_entropy(
            labeled.logits, labeled.labels, weight=torch.tensor([1.0, 5.0, 1.0])
        )
        return {NETWORK: mine, "critic": -apart(one.detach(), other.detach())}

    def signature(self):
        return {"name": "duel"}


def noise(inputs, generator):
    return inputs + 0.3 * torch.randn(inputs.shape, generator=generator)


def mlp():
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), Dropout(0.3), nn.Linear(16, 3))


def convolutional():
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.BatchNorm1d(8, momentum=None)),
        *(nn.ReLU(), nn.Linear(8, 3)),
    )


def flat():
    return nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))


def channels_last():
    return nn.Sequential(
        *(nn.Unflatten(1, (4, 4, 4)), nn.Conv2d(4, 6, 3), Dropout(0.4), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(24, 3)),
    ).to(memory_format=torch.channels_last)


SGD = {"optimizer": "sgd", "learning_rate": 0.02, "epochs": 6}
CASES = {
    # 27 rows after validation make parts of 9: shares of 5 and 4.
    "mlp": (
        mlp,
        [CrossEntropy(class_weights="balanced", smoothing=0.1)],
        Recipe(**SGD, minibatch=10, clip=0.5, weight_decay=0.01, validation=0.1, patience=2),
        {},
    ),
    "cnn": (
        convolutional,
        [CrossEntropy()],
        Recipe(**SGD, minibatch=7, average=0.9),
        {"looks": Looks(weak=noise)},
    ),
    "adam": (mlp, [CrossEntropy()], Recipe(epochs=4, minibatch=8, target_accuracy=0.9), {}),
    "player": (flat, [Duel()], Recipe(**SGD, minibatch=9, unlabeled_minibatch=21), {}),
    "whole": (
        flat,
        [Contrast(), CrossEntropy()],
        Recipe(**SGD, minibatch=10, unlabeled_minibatch=15),
        {"looks": Looks(distorted=noise)},
    ),
    "teacher": (
        flat,
        [BYOL(hidden=8, width=4)],
        Recipe(**SGD, minibatch=9, unlabeled_minibatch=21),
        {"looks": Looks(distorted=noise)},
    ),
    # Masks are drawn in the order of memory.
    "channels last": (channels_last, [CrossEntropy()], Recipe(**SGD, minibatch=7), {}),
    # Fewer rows in a step than there are ranks.
    "single rows": (flat, [CrossEntropy()], Recipe(epochs=1, minibatch=1, learning_rate=1e-3), {}),
}


def fit(case, seed=0, network=None):
    """The weights, history and objectives of a case."""
    make, objectives, recipe, others = CASES[case]
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    centers = torch.randn(3, 64, generator=generator)
    inputs = Rows(centers[labels] + 2 * torch.randn(120, 64, generator=generator))
    rows = torch.arange(30)
    torch.manual_seed(0)
    network = network or make()
    before = torch.get_rng_state()
    trained = train(
        network,
        inputs,
        rows,
        labels[rows],
        classes=3,
        seed=seed,
        recipe=recipe,
        objectives=objectives,
        **others,
    )
    assert torch.equal(torch.get_rng_state(), before)
    for module in (network, *trained.objectives):
        assert not any("forward" in part.__dict__ for part in module.modules())
    learned = {
        f"{n}.{k}": v for n, o in enumerate(trained.objectives) for k, v in o.state_dict().items()
    }
    history = trained.history
    told = {
        "losses": history.losses,
        "validation": history.validation,
        "end": [history.steps, history.best_epoch, history.stopped, history.validation_rows],
        "players": list(history.player_losses.values()),
    }
    return {**network.state_dict(), **learned}, told


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two ranks found, and how they ended; they start once, which takes longer than all else.

    Rank 1 is lost at the end, so its exit code is that of no error.
    """
    folder = tmp_path_factory.mktemp("ranks")
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    shared["PYTHONPATH"] = os.pathsep.join(each for each in sys.path if each)
    ports = ",".join(free_port() for _ in range(3))
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), ports],
            env={**os.environ, **shared, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [rank.communicate(timeout=WAIT)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, LOST], errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_where_one_does(two, case):
    weights, told = fit(case)
    for there, said in (rank[case] for rank in two):
        assert there.keys() == weights.keys()
        for name, value in weights.items():
            torch.testing.assert_close(
                there[name], value, rtol=2e-3, atol=2e-4, msg=f"{case} {name}"
            )
        assert said["end"] == told["end"]
        for name in ("losses", "validation", "players"):
            torch.testing.assert_close(said[name], told[name], rtol=1e-3, atol=1e-4)
    (mine, said), (theirs, heard) = (rank[case] for rank in two)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert said == heard


def test_each_rank_passes_its_share(two):
    assert [rank["rows seen"] for rank in two] == [[5, 5, 5], [4, 4, 4]]


def test_a_network_that_differs_becomes_that_of_rank_0(two):
    weights, _ = fit("mlp")
    for rank in two:
        for name, value in rank["other weights"][0].items():
            torch.testing.assert_close(value, weights[name], rtol=2e-3, atol=2e-4)


def test_normalization_over_ranks_is_that_of_all_rows_twice_differentiated(two):
    torch.manual_seed(1)
    x, norm = torch.randn(7, 3, 5, dtype=torch.float64) + 4, nn.BatchNorm1d(3).double()
    expected = normalization(x, norm, Ranks())
    for rank in two:
        for got, value in zip(rank["normalization"], expected, strict=True):
            torch.testing.assert_close(got, value, rtol=1e-9, atol=1e-9)


def normalization(x, norm, ranks):
    """Outputs, gradients by rows, the gradient of their square, running statistics."""
    nn.init.constant_(norm.weight, 1.5)
    x = x.clone().requires_grad_()
    y = ranks.spread(norm, x)
    aim = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y).sin()
    loss = (y * aim).sin().sum() / ranks.size
    (first,) = torch.autograd.grad(loss, x, create_graph=True)  # each rank's are of its rows
    (second,) = torch.autograd.grad(first.square().sum(), x)
    whole = [ranks.total(each.detach().clone()) for each in (first, second)]
    return [y.detach(), *whole, norm.running_mean, norm.running_var]


def test_what_differs_between_ranks_is_refused_by_all(two):
    for rank in two:
        assert "ranks of a fit must be given the same labels and seed" in rank["differ"]


def test_a_rank_that_does_not_answer_ends_the_others(two):
    for number, rank in enumerate(two):
        assert f"rank {number} of 2 lost the others: one has ended, or did not" in rank["hang"]
        assert "\n" not in rank["hang"]
    assert 3 < two[0]["hang seconds"] < 60


def test_a_rank_that_dies_ends_the_others(two):
    assert "rank 0 of 2 lost the others: one has ended, or did not" in two[0]["die"]
    assert two[0]["die seconds"] < 30  # not the time it would wait for an answer


def test_alone_nothing_is_sent():
    ranks = Ranks.here()
    assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)
    x = torch.ones(3, 2)
    assert ranks.gather(x, 3) is x
    assert ranks.total(x) is x
    assert ranks.send(b"x") == b"x"
    with lent(ranks, [norm := nn.BatchNorm1d(2)]):
        assert "forward" not in norm.__dict__


def test_shares_are_rows_in_order():
    for count in range(2, 9):
        for size in range(1, 4):
            places = [Ranks(rank, size).share(count) for rank in range(size)]
            rows = [row for place in places for row in range(place.first, place.stop)]
            assert rows == list(range(count))
            sizes = [place.stop - place.first for place in places]
            assert max(sizes) - min(sizes) <= 1


def test_rows_that_are_no_share_are_refused():
    with pytest.raises(InputError, match=r"needs the rows 0 up to 3 of 5.*got 2 rows"):
        Ranks(0, 2).gather(torch.ones(2, 1), 5)


# One of the two processes.


def all_cases(ranks):
    found = {case: fit(case) for case in CASES}
    rows, network = [], mlp()
    network[0].register_forward_hook(
        lambda layer, given, made: rows.append(len(made)) if layer.training else None
    )
    fit("mlp", network=network)
    found["rows seen"] = rows[:3]
    torch.manual_seed(0)
    other = mlp()
    if ranks.rank:
        nn.init.ones_(other[0].weight)
    found["other weights"] = fit("mlp", network=other)
    torch.manual_seed(1)
    x, norm = torch.randn(7, 3, 5, dtype=torch.float64) + 4, nn.BatchNorm1d(3).double()
    with lent(ranks, [norm]):
        found["normalization"] = normalization(x, norm, ranks)
    assert ranks.send(b"rank 0" if ranks.first else b"") == b"rank 0"
    assert ranks.send(b"" if ranks.first else b"x") == b""
    with pytest.raises(InputError) as refused:
        differ(ranks)
    return found | {"differ": str(refused.value)}


def differ(ranks):
    train(
        nn.Linear(2, 2),
        Rows(torch.zeros(6, 2)),
        torch.arange(6),
        torch.tensor([0, 1, 0, 1, 0, ranks.rank]),
        classes=2,
        seed=ranks.rank,
        recipe=Recipe(),
        objectives=[CrossEntropy()],
    )


class Lost(CrossEntropy):
    """Rank 1 does not come back from the third step, or late."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, labeled, step):
        if step.number == 2 and os.environ["RANK"] == "1":
            if self.how == "die":
                os._exit(LOST)
            time.sleep(8)
        return super().forward(labeled)


def lose(how):
    """The message that the loss of a rank ends in, and after how long."""
    make, _, recipe, others = CASES["mlp"]
    CASES[how] = (make, [Lost(how)], recipe, others)
    start = time.monotonic()
    with pytest.raises(LabelwiseError) as ended:
        fit(how)
    return {how: str(ended.value), f"{how} seconds": time.monotonic() - start}


def program(folder, ports):
    ports = iter(ports.split(","))
    os.environ["MASTER_PORT"] = next(ports)
    with joined() as ranks:
        found = all_cases(ranks)
        path = Path(folder) / f"{ranks.rank}.pt"
    os.environ["MASTER_PORT"] = next(ports)
    with joined(timeout=4):
        found |= lose("hang")
    torch.save(found, path)
    os.environ["MASTER_PORT"] = next(ports)
    with joined():
        found |= lose("die")
    torch.save(found, path)


if __name__ == "__main__":
    program(*sys.argv[1:])
