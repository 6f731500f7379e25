"""BIM and DeepFool: one image at a time by definition, straight boundaries by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from labelwise.errors import InputError
from labelwise.evidence import Rows
from labelwise.kernels import Rows as Array
from labelwise.learners import MLP, Network, ResNet18, make_learner, model_evidence
from labelwise.loop import Loop, Oracle, SingleLabel
from labelwise.strategies import select
from labelwise.strategies.bim import bim_scores
from labelwise.strategies.deep_fool import deep_fool_scores


def network(seed=0, width=6, classes=4):
    layers = [nn.Linear(width, 12), nn.Tanh(), nn.Linear(12, classes)]
    made = nn.Sequential(*layers).eval()
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 1, generator=stream)
    return made


def inputs(seed=0, size=40, width=6):
    return torch.randn(size, width, generator=torch.Generator().manual_seed(seed))


def one_bim(x, model, eps, most, unit):
    """The authors' loop on one row, with a bound."""
    eta = torch.zeros_like(x)
    first = model(x[None]).argmax()
    for _ in range(most):
        moved = (x + eta * unit).requires_grad_()
        logits = model(moved[None])
        if logits.argmax() != first:
            break
        loss = nn.functional.cross_entropy(logits, first[None])
        eta = eta + eps * torch.autograd.grad(loss, moved)[0].sign()
    if model((x + eta * unit)[None]).argmax() == first:
        return -np.inf
    return -float(eta.double().square().sum())


def one_deep_fool(x, model, most, unit, overshoot=0.0, classes=None):
    """The published loop on one row, with the class that is nearest."""
    eta = torch.zeros_like(x)
    first = int(model(x[None]).argmax())
    others = [int(k) for k in model(x[None])[0].argsort(descending=True)[1:]][:classes]
    for _ in range(most):
        moved = (x + (1 + overshoot) * eta * unit).requires_grad_()
        z = model(moved[None])[0]
        if int(z.argmax()) != first:
            break
        slopes = [torch.autograd.grad(z[k], moved, retain_graph=True)[0] * unit for k in range(4)]
        best = None
        for k in others:
            w, f = slopes[k] - slopes[first], float((z[k] - z[first]).detach().abs())
            if best is None or f / float(w.norm()) < best[0]:
                best = f / float(w.norm()), f / float(w.norm()) ** 2 * w
        eta = eta + best[1]
    return -float(((1 + overshoot) * eta).double().square().sum())


@pytest.mark.parametrize("units", ["input", "deviation"])
def test_bim_is_its_definition(units):
    x, model = inputs() * torch.tensor([1.0, 5.0, 0.2, 1.0, 1.0, 3.0]), network()
    unit = x.double().std(0, correction=0).float() if units == "deviation" else torch.ones(6)
    expected = [one_bim(row, model, 0.05, 100, unit) for row in x]
    found = bim_scores(x, model, units=units, minibatch=7)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
    assert np.isfinite(expected).sum() > 20
    few = [one_bim(row, model, 0.2, 3, unit) for row in x]
    found = bim_scores(x, model, units=units, eps=0.2, steps=3)
    np.testing.assert_allclose(found.numpy(), few, rtol=1e-5)
    assert np.isinf(few).any()
    assert np.isfinite(few).any()


@pytest.mark.parametrize("more", [{}, {"overshoot": 0.02}, {"classes": 1}, {"steps": 1}])
@pytest.mark.parametrize("units", ["input", "deviation"])
def test_deep_fool_is_its_definition(units, more):
    x, model = inputs(1) * torch.tensor([1.0, 5.0, 0.2, 1.0, 1.0, 3.0]), network(1)
    unit = x.double().std(0, correction=0).float() if units == "deviation" else torch.ones(6)
    options = {"most": more.get("steps", 50)} | {k: v for k, v in more.items() if k != "steps"}
    expected = [one_deep_fool(row, model, unit=unit, **options) for row in x]
    found = deep_fool_scores(x, model, units=units, minibatch=7, **more)
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-3)


def test_deep_fool_on_straight_boundaries_goes_to_the_nearest():
    weight = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0]])
    x = torch.tensor([[1.0, 0.5], [1.0, 1.9]])

    def model(rows):
        return rows @ weight.T

    # From (1, 0.5), class 0: to class 1 (2x - y = 0) 1.5 / sqrt 5, to class 2 (x = 0) 1.
    expected = [-((1.5 / 5**0.5) ** 2), -((0.1 / 5**0.5) ** 2)]
    found = deep_fool_scores(x, model, units="input")
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)
    # The last class is farther: going there, as widely used codes do, is not what is asked.
    assert abs(float(found[0])) < 1


def test_a_row_on_the_boundary_needs_no_move():
    def model(rows):
        return torch.cat([rows, rows], 1)

    assert deep_fool_scores(torch.tensor([[3.0]]), model).tolist() == [0.0]


def test_rows_that_nothing_moves_come_last_and_are_told_of():
    def model(rows):
        return torch.stack([rows.clamp(min=0).sum(1), 0.1 - rows.sum(1) * 0], 1)

    x = torch.tensor([[-5.0, -5.0], [1.0, 0.3], [-1.0, -9.0], [0.1, 0.2]])
    for name in ("bim", "deep_fool"):
        picks = select(name, 4, inputs=x, model=model, units="input")
        assert picks.rows[:2].tolist() == [3, 1]
        assert picks.scores[2:].tolist() == [-np.inf, -np.inf]
        assert picks.notes == ("2 of 4 rows keep their class however far they were moved",)


def test_only_candidates_are_moved_and_nothing_is_left_behind():
    x, model, seen = inputs(), network(), []

    def watched(rows):
        seen.append(len(rows))
        return model(rows)

    for name in ("bim", "deep_fool"):
        seen.clear()
        whole = select(name, 5, inputs=x, model=model)
        some = select(name, 2, inputs=x, model=watched, candidates=whole.rows[:3])
        assert some.rows.tolist() == whole.rows[:2].tolist()
        assert max(seen) == 3
    assert all(parameter.grad is None for parameter in model.parameters())


def test_images_of_bytes_are_moved_in_their_own_unit():
    pixels = torch.randint(0, 256, (20, 4, 4, 3), generator=torch.Generator().manual_seed(0))

    def model(rows):
        flat = rows.flatten(1) / 255
        return torch.stack([flat[:, :24].sum(1), flat[:, 24:].sum(1)], 1)

    far = deep_fool_scores(pixels.to(torch.uint8), model, units="input")
    gap = pixels.flatten(1)[:, :24].sum(1) - pixels.flatten(1)[:, 24:].sum(1)
    np.testing.assert_allclose(far.numpy(), -(gap.double() ** 2 / 48).numpy(), rtol=1e-3)
    with pytest.raises(InputError, match="inputs must be fractions or bytes"):
        deep_fool_scores(pixels, model)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("bim", {"eps": 0}, "eps must be"),
        ("bim", {"steps": 0}, "steps must be"),
        ("bim", {"units": "pixels"}, "units must be"),
        ("deep_fool", {"overshoot": -1}, "overshoot must be"),
        ("deep_fool", {"classes": 0}, "classes must be"),
        ("deep_fool", {"minibatch": 0}, "minibatch must be"),
        ("bim", {"model": network().train()}, "model must be in evaluation mode"),
        ("bim", {"model": 3}, "model must be a function"),
        ("bim", {"model": lambda x: x[:, :1]}, "one column"),
        ("bim", {"model": lambda x: x.sum()}, r"model must give logits \(40, C\)"),
        ("bim", {"model": lambda x: x.detach()}, "carry no gradient"),
        ("bim", {"model": lambda x: x / 0}, "finite logits"),
        ("bim", {"inputs": torch.ones(40)}, r"inputs must be \(N, \.\.\.\)"),
    ],
)
def test_what_they_refuse(name, options, match):
    with pytest.raises(InputError, match=match):
        select(name, 3, **({"inputs": inputs(), "model": network()} | options))


def test_without_a_model_it_says_what_to_pass():
    with pytest.raises(InputError, match="pass model= a function from a block of inputs"):
        select("bim", 3, inputs=inputs())


@pytest.mark.parametrize(
    "learner",
    [
        MLP(hidden=(8,), epochs=3, min_steps=0),
        make_learner("logistic"),
        make_learner("ridge"),
        Network(lambda shape, classes: nn.Linear(shape[0], classes), name="line", min_steps=20),
    ],
    ids=["mlp", "logistic", "ridge", "network"],
)
@pytest.mark.parametrize("name", ["bim", "deep_fool"])
def test_learners_offer_what_they_ask_for(name, learner):
    x, rows = Array(inputs(size=60)), torch.arange(30)
    model = learner.fit(x, rows, (x.tensor()[:30, 0] > 0).long(), classes=2, seed=0)
    picks = select(name, 5, providers=model_evidence(model, x, seed=0), labeled=rows.numpy())
    near = model.predict(x).logits.diff(dim=1)[:, 0].abs()
    assert near[picks.rows].mean() < near[30:].mean()
    assert isinstance(x, Rows)


@pytest.mark.parametrize("name", ["bim", "deep_fool", "dami"])
def test_a_loop_asks_the_network_of_its_round(name):
    x, ids = inputs(size=60), [f"item {row}" for row in range(60)]
    oracle = Oracle({item: int(value > 0) for item, value in zip(ids, x[:, 0])})
    learner = MLP(hidden=(8, 5), epochs=3, min_steps=0)
    loop = Loop(ids, Array(x), learner, SingleLabel(2))
    current = loop.start(ids[:10], oracle)
    for _ in range(2):
        fitted = current.fitted
        current = loop.run_round(current.state, oracle, strategy=name, n=7, fitted=fitted)
    assert len(set(current.state.ids)) == 24


@pytest.mark.parametrize("name", ["bim", "deep_fool"])
def test_a_network_of_images_is_asked_in_pixels(name):
    pixels = torch.randint(0, 256, (12, 8, 8, 3), generator=torch.Generator().manual_seed(0))
    x, rows = Array(pixels.to(torch.uint8)), torch.arange(6)
    learner = ResNet18(width=4, epochs=1, min_steps=1)
    model = learner.fit(x, rows, rows % 2, classes=2, seed=0)
    given = model_evidence(model, x, seed=0)
    trained = [parameter.grad.clone() for parameter in model.network.parameters()]
    alone = select(name, 4, providers=given, minibatch=1)
    assert alone.rows.tolist() == select(name, 4, providers=given).rows.tolist()
    left = [parameter.grad for parameter in model.network.parameters()]
    assert all(map(torch.equal, trained, left))
