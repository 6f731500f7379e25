"""Compiled fits: they end where others do, see what others see, and say so where they cannot be.

Most go through torch's tracer alone (``aot_eager``), which is what could see wrongly; the
compiler that makes code out of what was traced takes much longer and is asked twice.
"""

import copy
import functools
import warnings

import pytest
import torch
from torch import nn

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import Rows
from labelwise.learners import (
    MLP,
    Checkpoint,
    CrossEntropy,
    Looks,
    Network,
    Objective,
    Recipe,
    compiling,
    train,
)
from labelwise.learners.average import Average
from labelwise.learners.compiling import PAYS_FROM, training_pass
from labelwise.learners.networks import Dropout
from labelwise.learners.objectives.learning_loss import LearningLoss

# torch's compiler uses what torch deprecates, and looks at gradients that nobody asked it for.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without making code; gives the number of graphs that were traced."""
    from torch._dynamo.backends.debugging import aot_eager

    graphs = []

    def counted(graph, inputs):
        graphs.append(graph)
        return aot_eager(graph, inputs)

    compile = functools.partial(torch.compile, backend=counted)
    monkeypatch.setattr(compiling.torch, "compile", compile)
    yield graphs
    torch.compiler.reset()


class Views(Objective):
    """Looks at rows in every way: together, by a guess, mixed, by a teacher, beside the labels."""

    def prepare(self, setting):
        self.teacher = Average(setting.network, 0.9)

    def forward(self, labeled, unlabeled, network):
        strong, weak = unlabeled.strong(), unlabeled.weak()
        labeled.together(strong, weak)
        guess = unlabeled.guess
        mixed = unlabeled.through((unlabeled.inputs + strong.inputs) / 2, still=True)[0]
        with torch.no_grad():
            aim = self.teacher.module(unlabeled.inputs)
        loss = (strong.logits.softmax(1) - guess).square().mean()
        loss = loss + (mixed - aim).square().mean() + weak.embeddings.square().mean()
        return loss + 1e-3 * network[0].weight.square().sum()

    def after_step(self, network):
        self.teacher.update(network)

    def signature(self):
        return {"name": "views"}


def noise(inputs, generator):
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


def network():
    generator = torch.Generator().manual_seed(5)
    layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), Dropout(0.2), nn.Linear(8, 6)]
    made = nn.Sequential(*layers, nn.ReLU(), nn.Linear(6, 3))
    for each in made.parameters():
        each.data.uniform_(-0.5, 0.5, generator=generator)
    return made


def run(objectives, *, made=None, checkpoint=None, listener=None, **recipe):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    centers = torch.randn(3, 4, generator=generator)
    inputs = Rows(centers[labels] + torch.randn(90, 4, generator=generator))
    made = made or network()
    rows = torch.arange(40)
    trained = train(
        made,
        inputs,
        rows,
        labels[rows],
        classes=3,
        seed=1,
        recipe=Recipe(**{"epochs": 4, "minibatch": 16, "unlabeled_minibatch": 20} | recipe),
        objectives=objectives,
        looks=Looks(weak=noise, strong=noise),
        checkpoint=checkpoint,
        listener=listener,
    )
    return made, trained


def close(one, other):
    (made, trained), (again, expected) = one, other
    assert made.state_dict().keys() == again.state_dict().keys()
    for name, value in made.state_dict().items():
        torch.testing.assert_close(value, again.state_dict()[name], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(trained.history.losses, expected.history.losses)


CASES = {
    "views": ([CrossEntropy(), Views()], {"average": 0.9, "validation": 0.2}),
    "layers": ([CrossEntropy(), LearningLoss(layers="2,5", width=4)], {"clip": 1.0}),
    "bf16": ([CrossEntropy()], {"precision": "bf16", "optimizer": "sgd"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_compiled_fit_ends_where_another_does(case, traced):
    objectives, recipe = CASES[case]
    plain = run(objectives, **recipe)
    assert traced == []
    compiled = run(objectives, compile=True, **recipe)
    assert traced
    close(compiled, plain)


def test_each_fit_is_seen_by_its_own_objectives(traced):
    """torch would take the code of another fit, or of the user, which taps no layers."""
    with_layers = CASES["layers"][0]
    expected = run(with_layers)
    theirs = compiling.torch.compile(network())
    for count in (14, 13):  # rows of the minibatches
        theirs(torch.zeros(count, 4))
    run([CrossEntropy()], compile=True)
    close(run(with_layers, compile=True), expected)
    before = len(traced)
    run([CrossEntropy()], compile=True)
    assert len(traced) > before


def test_a_compiled_fit_goes_on_from_a_checkpoint(traced, tmp_path):
    objectives, recipe = CASES["views"]
    recipe = {**recipe, "compile": True}
    whole = run(objectives, **recipe)

    def stop(passed):
        if passed.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(objectives, checkpoint=Checkpoint(tmp_path), listener=stop, **recipe)
    close(run(objectives, checkpoint=Checkpoint(tmp_path), **recipe), whole)


def test_a_learner_compiles_and_its_model_is_as_any_other(traced):
    x, rows = Rows(torch.randn(40, 4, generator=torch.Generator().manual_seed(0))), torch.arange(40)
    options = {"hidden": 6, "dropout": 0.3, "epochs": 2, "min_steps": 4}
    plain, compiled = (
        MLP(compile=how, **options).fit(x, rows, rows % 2, classes=2, seed=0)
        for how in (False, True)
    )
    assert traced
    torch.testing.assert_close(plain.predict(x).logits, compiled.predict(x).logits)
    torch.testing.assert_close(
        plain.draws(x, samples=3, seed=1), compiled.draws(x, samples=3, seed=1)
    )
    assert "compile" not in plain.signature["recipe"]
    assert compiled.signature["recipe"]["compile"] is True


def test_made_code_ends_where_another_does():
    """The compiler itself, once: a pass and its gradient as C++."""
    plain = run([CrossEntropy()], epochs=2, minibatch=40)
    compiled = run([CrossEntropy()], epochs=2, minibatch=40, compile=True)
    close(compiled, plain)
    assert copy.deepcopy(compiled[0]).state_dict().keys() == plain[0].state_dict().keys()


def test_without_a_compiler_it_is_one_line(monkeypatch, tmp_path):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, str(tmp_path / "none")))
    monkeypatch.setattr(config, "force_disable_caches", True)
    made = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3))  # code of no other test
    with pytest.raises(ResourceError) as ended:
        run([CrossEntropy()], made=made, compile=True)
    line = str(ended.value)
    assert line.startswith("compile found no C++ compiler (")
    assert line.endswith("install one, such as g++, or set CXX, or leave compile off")
    assert "\n" not in line


class Failing:
    """What torch.compile gives where the compiler fails."""

    def __init__(self, network):
        pass

    def __call__(self, inputs):
        from torch._dynamo.exc import BackendCompilerFailed

        raise BackendCompilerFailed("inductor", RuntimeError("no such thing\nand more"), None)


def test_where_it_may_go_on_uncompiled_it_says_so_once(monkeypatch):
    monkeypatch.setattr(compiling.torch, "compile", Failing)
    made, x = network(), torch.zeros(2, 4)
    with training_pass(made, Recipe(compile="auto"), CUDA, steps=PAYS_FROM) as forward:
        with pytest.warns(UserWarning, match="cannot be compiled .*; going on uncompiled") as said:
            forward(x)
        assert len(said) == 1
        assert "\n" not in str(said[0].message)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made.eval()
            assert torch.equal(forward(x), made(x))
    with (
        training_pass(made, Recipe(compile=True), CPU, steps=1) as forward,
        pytest.raises(ResourceError, match="the network cannot be compiled"),
    ):
        forward(x)


def test_it_compiles_by_itself_only_where_it_pays():
    made, auto = network(), Recipe(compile="auto")

    def compiles(recipe, device, **fit):
        with training_pass(made, recipe, device, **fit) as forward:
            return forward is not made

    assert not compiles(Recipe(), CUDA, steps=10**6)
    assert not compiles(auto, CPU, steps=10**6)
    assert not compiles(auto, CUDA, steps=PAYS_FROM - 1)
    assert not compiles(auto, CUDA, steps=PAYS_FROM, ranks=2)
    assert compiles(auto, CUDA, steps=PAYS_FROM)
    assert compiles(Recipe(compile=True), CPU, steps=1)
    with pytest.raises(InputError, match=r"compile=True is of fits on one process, and the 2"):
        compiles(Recipe(compile=True), CPU, steps=1, ranks=2)


@pytest.mark.parametrize("how", ["yes", 1, None, "Auto"])
def test_other_words_are_refused(how):
    with pytest.raises(InputError, match="compile must be True, False or 'auto', got"):
        Recipe(compile=how)
    with pytest.raises(InputError, match="compile must be"):
        Network(lambda shape, classes: network(), name="any", compile=how)
