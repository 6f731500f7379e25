"""The one training loop: streams, stopping, splits, objectives, and what it refuses."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import MLP, CrossEntropy, Network, Objective, Recipe, ResNet18, train
from labelwise.learners.objectives import Looks, Sight, Tapped, View, wanted_inputs
from labelwise.learners.recipe import learning_rate, make_optimizer, validation_split


def blobs(count=200, classes=3, width=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centers = 3 * torch.randn(classes, width, generator=generator)
    return Rows(centers[labels] + torch.randn(count, width, generator=generator)), labels


def fit(learner, inputs, labels, rows=None, *, classes=3, seed=0, **extra):
    rows = torch.arange(len(inputs)) if rows is None else rows
    return learner.fit(inputs, rows, labels[rows], classes=classes, seed=seed, **extra)


def sight(forward):
    return Sight(forward, Looks(), torch.Generator())


def weights(model):
    return {name: value.clone() for name, value in model.network.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


# --- what a fit is ------------------------------------------------------------------------------


def test_a_fit_learns():
    inputs, labels = blobs()
    model = fit(MLP(hidden=(16,), epochs=10), inputs, labels)
    assert (model.predict(inputs).probs.argmax(1) == labels).float().mean() > 0.95


def test_the_loop_is_the_plain_loop_it_replaces():
    """Same weights, order and steps, written out by hand in float32."""
    inputs, labels = blobs(50)
    learner = Network(
        lambda shape, classes: nn.Linear(shape[0], classes),
        name="linear",
        optimizer="sgd",
        momentum=0.5,
        learning_rate=0.1,
        schedule="cosine",
        epochs=3,
        min_steps=0,
        minibatch=20,
    )
    from labelwise.kernels import derive, torch_stream

    plain = learner.build(inputs, 3, derive(7, "weights"))
    w, b = plain.weight.detach().clone(), plain.bias.detach().clone()
    velocity = [torch.zeros_like(w), torch.zeros_like(b)]
    order, x, number = torch_stream(7, "order"), inputs.tensor(), 0
    for _ in range(3):
        for at in torch.randperm(50, generator=order).tensor_split(3):
            w.requires_grad_(), b.requires_grad_()
            grads = torch.autograd.grad(F.cross_entropy(x[at] @ w.T + b, labels[at]), [w, b])
            rate = 0.1 * 0.5 * (1 + math.cos(math.pi * number / 9))
            number += 1
            with torch.no_grad():
                velocity = [0.5 * v + g for v, g in zip(velocity, grads)]
                w, b = (p - rate * (g + 0.5 * v) for p, g, v in zip([w, b], grads, velocity))
    model = fit(learner, inputs, labels, seed=7)
    torch.testing.assert_close(model.head_weight, w.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.head_bias, b.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_seed_decides_everything(dropout):
    inputs, labels = blobs()
    learner = MLP(hidden=(8,), dropout=dropout, epochs=3)
    one, two, other = (weights(fit(learner, inputs, labels, seed=s)) for s in (5, 5, 6))
    assert same(one, two)
    assert not same(one, other)


def test_global_generators_play_no_part_and_are_left_alone():
    inputs, labels = blobs(60)

    def factory(shape, classes):
        return nn.Sequential(
            nn.Linear(shape[0], 8), nn.Dropout(0.2), _Careless(), nn.Linear(8, classes)
        )

    for learner in (MLP(hidden=(8,), dropout=0.2), Network(factory, name="careless")):
        found = []
        for global_seed in (1, 2):
            torch.manual_seed(global_seed)
            np.random.seed(global_seed)  # noqa: NPY002
            before = torch.get_rng_state()
            state = np.random.get_state()[1].copy()  # noqa: NPY002
            model = fit(learner, inputs, labels, seed=3)
            model.draws(inputs, samples=2, seed=0)
            assert torch.equal(torch.get_rng_state(), before)
            assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
            found.append(weights(model))
        assert same(*found)


class _Careless(nn.Module):
    """A module that draws from torch's global generator."""

    def forward(self, x):
        return F.dropout(x, 0.2, self.training)


def test_what_a_fit_is_given_is_not_changed():
    inputs, labels = blobs(40)
    before, objective = inputs.tensor().clone(), CrossEntropy(class_weights="balanced")
    learner = MLP(hidden=(4,), epochs=2, objectives=[objective])
    first = weights(fit(learner, inputs, labels))
    assert torch.equal(inputs.tensor(), before)
    assert objective._weights is None
    assert same(first, weights(fit(learner, inputs, labels)))


# --- how many steps -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "minibatch", "sizes"),
    [(5, 64, [5]), (65, 64, [33, 32]), (128, 64, [64, 64]), (7, 3, [3, 2, 2]), (1, 1, [1])],
)
def test_an_epoch_is_equal_parts_and_every_row_once(count, minibatch, sizes):
    inputs, labels = blobs(count)
    spy = _Spy()
    history = _train(inputs, labels, Recipe(epochs=2, minibatch=minibatch), [spy])
    assert [len(rows) for rows in _Spy.seen[: len(sizes)]] == sizes
    assert sorted(torch.cat(_Spy.seen[: len(sizes)]).tolist()) == list(range(count))
    assert history.steps == 2 * len(sizes) == len(_Spy.seen)


class _Spy(CrossEntropy):
    """Cross-entropy that notes the rows of each minibatch."""

    seen: list = []  # noqa: RUF012

    def prepare(self, setting):
        _Spy.seen = []

    def forward(self, labeled):
        _Spy.seen.append(labeled.rows)
        return super().forward(labeled)


def _train(inputs, labels, recipe, objectives, network=None, classes=3, **extra):
    network = network or nn.Linear(inputs.shape[1], classes, dtype=torch.float32)
    return train(
        network,
        inputs,
        torch.arange(len(inputs)),
        labels,
        classes=classes,
        seed=0,
        recipe=recipe,
        objectives=objectives,
        **extra,
    ).history


def test_few_labels_still_get_their_steps():
    inputs, labels = blobs(3)
    assert fit(MLP(hidden=(4,), epochs=2, min_steps=50), inputs, labels).history.steps == 50
    plain = Network(lambda shape, classes: nn.Linear(shape[0], classes), name="linear")
    assert fit(plain, inputs, labels).history.steps == 300


@pytest.mark.parametrize("count", [1, 2, 3])
def test_batch_normalization_survives_a_single_row(count):
    inputs, labels = blobs(count)

    def factory(shape, classes):
        return nn.Sequential(nn.Linear(shape[0], 6), nn.BatchNorm1d(6), nn.Linear(6, classes))

    learner = Network(factory, name="norm", minibatch=2, epochs=3, min_steps=0)
    model = fit(learner, inputs, labels)
    assert model.predict(inputs).probs.isfinite().all()
    assert not any(module.training for module in model.network.modules())


# --- stopping -----------------------------------------------------------------------------------


def test_the_target_accuracy_stops_the_fit():
    inputs, labels = blobs()
    history = fit(MLP(epochs=100, target_accuracy=0.9), inputs, labels).history
    assert history.stopped == "target"
    assert len(history.losses) < 50


def test_patience_stops_and_the_best_weights_are_kept():
    inputs, _ = blobs(120)
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randint(3, (120,), generator=generator)  # nothing to learn but noise
    learner = MLP(hidden=(64,), epochs=200, validation=0.25, patience=5, learning_rate=0.01)
    model = fit(learner, inputs, noisy)
    history = model.history
    assert history.stopped == "patience"
    assert len(history.validation) == history.best_epoch + 6
    held = torch.tensor(history.validation_rows)
    predicted = model.predict(inputs, held).probs.argmax(1)
    accuracy = (predicted == noisy[held]).float().mean().item()
    assert accuracy == pytest.approx(max(history.validation))


def test_validation_rows_are_labeled_rows_and_never_trained_on():
    inputs, labels = blobs(60)
    rows = torch.arange(0, 60, 2)
    spy = _Spy()
    learner = MLP(hidden=(4,), epochs=2, validation=0.2, objectives=[spy])
    history = fit(learner, inputs, labels, rows).history
    seen = set(torch.cat(_Spy.seen).tolist())
    held = set(history.validation_rows)
    assert len(held) == 6
    assert seen | held == set(rows.tolist())
    assert not seen & held


@pytest.mark.parametrize("seed", range(20))
def test_the_validation_split_is_stratified(seed):
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 30, size=generator.integers(2, 6))
    labels = torch.from_numpy(generator.permutation(np.repeat(np.arange(len(counts)), counts)))
    share = float(generator.uniform(0.05, 0.5))
    kept, held = validation_split(labels, share, seed)
    assert sorted(torch.cat([kept, held]).tolist()) == list(range(len(labels)))
    assert len(held) <= max(1, round(share * len(labels)))
    for label, count in enumerate(counts):
        taken = int((labels[held] == label).sum())
        assert taken <= count - 1
        # Within one of its share, unless others are too small to give theirs.
        assert taken >= min(math.floor(share * count), count - 1)
    again = validation_split(labels, share, seed)[1]
    assert torch.equal(held, again)


def test_the_validation_split_by_hand():
    labels = torch.tensor([0] * 10 + [1] * 5 + [2])
    _, held = validation_split(labels, 0.2, 0)
    assert torch.bincount(labels[held], minlength=3).tolist() == [2, 1, 0]


def test_a_validation_split_of_single_labels_is_refused():
    with pytest.raises(InputError, match=r"needs a class with two labels: 3 labels of 3 classes"):
        validation_split(torch.arange(3), 0.5, 0)


# --- recipe -------------------------------------------------------------------------------------


def test_schedules_by_hand():
    cosine = [learning_rate(Recipe(learning_rate=2.0), step, 4) for step in range(4)]
    assert cosine == pytest.approx([2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5)])
    cycle = Recipe(learning_rate=25.0, schedule="one_cycle", warmup=0.5)
    rates = [learning_rate(cycle, step, 8) for step in (0, 2, 4, 6)]
    assert rates == pytest.approx([1.0, 13.0, 25.0, 12.5])
    constant = Recipe(schedule="constant", learning_rate=0.3)
    assert learning_rate(constant, 9, 10) == 0.3


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_every_optimizer_learns_and_decays_matrices_only(optimizer):
    layer = nn.Linear(3, 2)
    made = make_optimizer(Recipe(optimizer=optimizer, weight_decay=0.1), list(layer.parameters()))
    assert [group["weight_decay"] for group in made.param_groups] == [0.1, 0.0]
    assert made.param_groups[0]["params"][0] is layer.weight
    assert made.param_groups[1]["params"][0] is layer.bias
    inputs, labels = blobs()
    model = fit(MLP(hidden=(16,), optimizer=optimizer, learning_rate=0.02), inputs, labels)
    assert (model.predict(inputs).probs.argmax(1) == labels).float().mean() > 0.95


def test_clipping_bounds_the_step():
    inputs, labels = blobs(30)
    network = nn.Linear(4, 3)
    before = [p.detach().clone() for p in network.parameters()]
    recipe = Recipe(
        optimizer="sgd", momentum=0, schedule="constant", learning_rate=1.0, epochs=1, clip=1e-3
    )
    _train(inputs, labels, recipe, [CrossEntropy()], network)
    moved = torch.cat([(p - q).detach().flatten() for p, q in zip(network.parameters(), before)])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_mixed_precision_learns_the_same_thing():
    inputs, labels = blobs()
    model = fit(MLP(hidden=(16,), precision="bf16", epochs=20), inputs, labels)
    out = model.predict(inputs)
    assert (out.probs.argmax(1) == labels).float().mean() > 0.95
    assert out.logits.dtype == out.probs.dtype == out.embeddings.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"epochs": 2.5}, "epochs must be a whole number, got 2.5"),
        ({"minibatch": 6.5}, "minibatch must be a whole number, got 6.5"),
        ({"min_steps": True}, "min_steps must be a whole number, got True"),
        ({"patience": "3"}, "patience must be a whole number, got '3'"),
        ({"optimizer": "adma"}, "optimizer must be one of sgd, adam, adamw, lars, got 'adma'"),
        ({"schedule": "step"}, "schedule must be one of"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"validation": 1.0}, r"validation must be in \[0, 1\)"),
        ({"warmup": 0.0}, r"warmup must be in \(0, 1\)"),
        ({"learnig_rate": 1.0}, "did you mean learning_rate"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"hidden": (0,)}, "hidden must be widths of at least 1"),
        ({"device": "gpu"}, "device 'gpu' is not known"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    inputs, labels = blobs(20)
    with pytest.raises(InputError, match=message):
        fit(MLP(**options), inputs, labels)


# --- objectives ---------------------------------------------------------------------------------


class _Entropy(Objective):
    """Mean entropy of the unlabeled rows, with a module of its own that must be trained."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def prepare(self, setting):
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, unlabeled, step):
        assert len(unlabeled.labels) == 0
        assert step.learning_rate > 0
        logs = unlabeled.logits.log_softmax(1)
        return -self.weight * (logs.exp() * logs).sum(1).mean() + 0 * self.scale

    def signature(self):
        return {"name": "entropy", "weight": self.weight}


def test_objectives_add_up():
    """Joint entropy lowers the entropy of the rows that no label tells about."""
    inputs, labels = blobs(300)
    inputs = Rows(inputs.tensor() * 0.15)
    rows = torch.arange(12)

    def entropy(objectives):
        model = fit(MLP(hidden=(16,), objectives=objectives), inputs, labels, rows)
        probs = model.predict(inputs).probs[12:]
        return torch.special.entr(probs).sum(1).mean().item()

    assert entropy([CrossEntropy(), _Entropy(1.0)]) < 0.8 * entropy([CrossEntropy()])


def test_what_an_objective_owns_is_trained_along():
    """The network is frozen, so only the objective's own temperature can lower the loss."""
    trained = []

    class Tempered(CrossEntropy):
        def prepare(self, setting):
            assert setting.embedding_width == 4
            self.temperature = nn.Parameter(torch.full((), 5.0))
            trained.append(self)

        def forward(self, labeled):
            return F.cross_entropy(labeled.logits.detach() / self.temperature, labeled.labels)

    inputs, labels = blobs()
    network = nn.Linear(4, 3)
    before = network.weight.detach().clone()
    history = _train(inputs, labels, Recipe(epochs=5, learning_rate=0.1), [Tempered()], network)
    assert trained[0].temperature.item() != 5.0
    assert history.losses[-1] < history.losses[0]
    assert torch.equal(network.weight, before)


def test_after_step_is_called_once_a_step():
    calls = []

    class Counting(CrossEntropy):
        def after_step(self, network):
            calls.append(network)

    inputs, labels = blobs(10)
    history = _train(inputs, labels, Recipe(epochs=3, minibatch=5), [Counting()])
    assert len(calls) == history.steps == 6


def test_unlabeled_rows_are_those_given_or_those_left():
    inputs, labels = blobs(20)
    rows = torch.arange(5)

    class Watch(_Entropy):
        seen: list = []  # noqa: RUF012

        def forward(self, unlabeled, step):
            Watch.seen.append(unlabeled.rows)
            return super().forward(unlabeled, step)

    learner = MLP(hidden=(4,), epochs=4, objectives=[CrossEntropy(), Watch(0.1)])
    fit(learner, inputs, labels, rows)
    assert set(torch.cat(Watch.seen).tolist()) == set(range(5, 20))
    Watch.seen.clear()
    fit(learner, inputs, labels, rows, unlabeled=torch.tensor([7, 9]))
    assert set(torch.cat(Watch.seen).tolist()) == {7, 9}
    with pytest.raises(InputError, match="every row is labeled"):
        fit(learner, inputs, labels)


def test_a_view_is_computed_once_and_gives_embeddings():
    calls = []

    class Body(nn.Sequential):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    network = Body(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with Tapped(network, network[2]) as forward:
        view = View(torch.ones(4, 2), torch.arange(4), torch.zeros(4), sight(forward))
        torch.testing.assert_close(network[2](view.embeddings), view.logits)
    assert calls == [4]
    assert not network[2]._forward_pre_hooks


def test_cross_entropy_by_hand():
    network = nn.Linear(2, 2, bias=False)
    nn.init.eye_(network.weight)
    inputs, labels = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]), torch.tensor([0, 1])
    with Tapped(network, network) as forward:
        view = View(inputs, torch.arange(2), labels, sight(forward))
        plain = CrossEntropy()(view).item()
        smooth = CrossEntropy(smoothing=0.5)(view).item()
        weighted = CrossEntropy(class_weights=[1, 3])
        weighted.prepare(_setting(labels))
        heavier = weighted(view).item()
    assert plain == pytest.approx((math.log(2) + math.log(4)) / 2)
    second = 0.25 * math.log(4 / 3) + 0.75 * math.log(4)
    assert smooth == pytest.approx((math.log(2) + second) / 2)
    assert heavier == pytest.approx((math.log(2) + 3 * math.log(4)) / 4)


def _setting(labels, classes=2):
    from labelwise.learners import Setting

    network = nn.Linear(2, classes)
    cpu = torch.device("cpu")
    return Setting(classes, labels, 2, cpu, torch.Generator(), network, (2,), len(labels), 0)


def test_balanced_class_weights_by_hand():
    objective = CrossEntropy(class_weights="balanced")
    objective.prepare(_setting(torch.tensor([0, 0, 0, 1]), classes=3))
    assert objective._weights[:2].tolist() == pytest.approx([4 / 6, 2.0])


def test_an_objective_is_refused_by_name():
    class Wrong(Objective):
        def forward(self, labelled):
            return labelled

    with pytest.raises(InputError, match=r"asks the loop for 'labelled'; did you mean labeled"):
        wanted_inputs(Wrong())
    for options, message in [
        ({"smoothing": 1.0}, "smoothing must be in"),
        ({"class_weights": "even"}, "'balanced', got 'even'"),
        ({"class_weights": [1.0, 0.0]}, "class_weights must be positive"),
    ]:
        with pytest.raises(InputError, match=message):
            CrossEntropy(**options)
    with pytest.raises(InputError, match="one a class: 3 classes, got 2"):
        fit(MLP(objectives=[CrossEntropy(class_weights=[1, 2])]), *blobs(20))


def test_a_diverging_loss_names_step_and_learning_rate():
    values, labels = blobs(40)
    values = values.tensor().clone()
    values[7] = float("nan")
    recipe = Recipe(epochs=2, learning_rate=0.5, schedule="constant", minibatch=64)
    with pytest.raises(InputError, match=r"loss is nan at step 0 of 2 with learning rate 0\.5"):
        _train(Rows(values), labels, recipe, [CrossEntropy()])


# --- real data ----------------------------------------------------------------------------------


def test_mlp_on_letter():
    """1,000 labels of 26 classes; scikit-learn's MLPClassifier(256) gives about 80 %."""
    folder = os.environ.get("LABELWISE_DATA")
    if not folder:
        pytest.skip("LABELWISE_DATA is not set")
    import pyarrow.parquet as pq

    table = pq.read_table(Path(folder) / "tabular" / "letter.parquet").to_pandas()
    _, labels = np.unique(table.pop("label"), return_inverse=True)
    values = table.drop(columns="split").to_numpy(np.float32)
    order = np.random.default_rng(0).permutation(len(values))
    inputs, labels = Rows(values[order]), torch.from_numpy(labels[order])
    model = fit(MLP(), inputs, labels, torch.arange(1000), classes=26)
    test = torch.arange(10_000, 20_000)
    accuracy = (model.predict(inputs, test).probs.argmax(1) == labels[test]).float().mean()
    assert accuracy > 0.8


def test_resnet_on_real_images():
    """A few steps of a narrow network: shapes and layout, not accuracy."""
    folder = os.environ.get("LABELWISE_DATA")
    if not folder:
        pytest.skip("LABELWISE_DATA is not set")
    from labelwise.learners import make_encoder
    from labelwise.pools import open_data

    pool = open_data(Path(folder) / "fashion_mnist").pool.subset(np.arange(64))
    pixels = make_encoder("pixels").fit(pool, seed=0).encode(pool)
    labels = torch.arange(64) % 10
    learner = ResNet18(width=8, epochs=2, min_steps=0, minibatch=32, flip=False)
    model = fit(learner, Rows(pixels), labels, classes=10)
    out = model.predict(Rows(pixels))
    assert pixels.shape == (64, 28, 28, 3)
    assert out.embeddings.shape == (64, 64)
    assert out.probs.shape == (64, 10)
