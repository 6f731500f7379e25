"""Posterior samples from ensembles and from last-layer Laplace."""

import math

import pytest
import torch
from torch.nn import functional

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import Rows, derive
from labelwise.learners import Learner, make_learner, model_evidence
from labelwise.learners.base import Outputs, PosteriorModel
from labelwise.learners.ensemble import Ensemble, EnsembleModel
from labelwise.learners.laplace import head_curvature, likeliest_precision
from labelwise.learners.network import NetworkLearner

QUICK = {"epochs": 5, "min_steps": 30, "hidden": 6}


def blobs(count=60, classes=3, width=4, apart=1.5):
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % classes
    centers = apart * torch.randn(classes, width, generator=generator)
    noise = torch.randn(count, width, generator=generator)
    scale = torch.tensor([1.0, 10.0, 0.1, 3.0])[:width]
    return Rows((centers[labels] + noise) * scale + 2), labels


def fit(name, labeled=30, seed=0, **options):
    inputs, labels = blobs()
    rows = torch.arange(labeled)
    return make_learner(name, **options).fit(inputs, rows, labels[rows], classes=3, seed=seed)


def test_members_are_lone_fits_and_the_ensemble_is_their_mean():
    inputs, labels = blobs()
    rows = torch.arange(30)
    model = fit("ensemble:mlp", members=3, seed=7, **QUICK)
    alone = [
        make_learner("mlp", **QUICK).fit(
            inputs, rows, labels[rows], classes=3, seed=derive(7, "member", number)
        )
        for number in range(3)
    ]
    found = [each.predict(inputs) for each in alone]
    mean = torch.stack([each.probs for each in found]).mean(0)
    out = model.predict(inputs)
    torch.testing.assert_close(out.probs, mean, atol=1e-4, rtol=0)  # they are fitted together
    torch.testing.assert_close(out.logits.softmax(1), out.probs)
    torch.testing.assert_close(out.logits.logsumexp(1), torch.zeros(60), atol=1e-6, rtol=0)
    assert isinstance(model, PosteriorModel)
    assert model.head_weight is None
    draws = model.draws(inputs, samples=3, seed=0)
    torch.testing.assert_close(
        draws, torch.stack([each.probs for each in found]), atol=1e-4, rtol=0
    )
    assert (draws[0] - draws[1]).abs().max() > 0.01
    squared = torch.stack([torch.cdist(each.embeddings, each.embeddings) ** 2 for each in found])
    assert out.embeddings.shape == (60, 18)
    torch.testing.assert_close(
        torch.cdist(out.embeddings, out.embeddings) ** 2, squared.mean(0), atol=1e-3, rtol=1e-3
    )


def test_members_are_fitted_in_one_pass_where_they_can(monkeypatch):
    fits = []
    real = NetworkLearner.fit
    monkeypatch.setattr(
        NetworkLearner, "fit", lambda self, *a, **k: fits.append(self) or real(self, *a, **k)
    )
    fit("ensemble:mlp", members=3, **QUICK)
    assert fits == []
    fit("ensemble:mlp", members=3, precision="bf16", **QUICK)
    assert len(fits) == 3


def test_every_member_has_its_say():
    inputs, _ = blobs()
    model = fit("ensemble:mlp", members=3, **QUICK)
    lone = [member.predict(inputs).probs for member in model.members]

    def counts(samples, seed):
        draws = model.draws(inputs, samples=samples, seed=seed)
        return [sum(torch.equal(draw, each) for draw in draws) for each in lone]

    assert counts(6, 0) == [2, 2, 2]
    assert sorted(counts(2, 0)) == [0, 1, 1]
    assert sorted(counts(4, 0)) == [1, 1, 2]
    assert len({tuple(counts(1, seed)) for seed in range(20)}) == 3
    assert torch.equal(
        model.draws(inputs, samples=2, seed=5), model.draws(inputs, samples=2, seed=5)
    )
    with pytest.raises(InputError, match="samples must be at least 1"):
        model.draws(inputs, samples=0, seed=0)


def test_shares_make_members_of_a_convex_learner_differ():
    inputs, _ = blobs()
    same = fit("ensemble:logistic", members=2, penalty=0.1).draws(inputs, samples=2, seed=0)
    assert torch.equal(same[0], same[1])
    model = fit("ensemble:logistic", members=2, penalty=0.1, share=0.5)
    parts = model.draws(inputs, samples=2, seed=0)
    assert (parts[0] - parts[1]).abs().max() > 0.05
    assert model.predict(inputs).embeddings is inputs
    rows = torch.tensor([4, 2])
    assert torch.equal(model.predict(inputs, rows).embeddings, inputs.take(rows))
    one_each = fit("ensemble:logistic", labeled=3, members=2, penalty=0.1, share=0.5)
    assert torch.equal(*one_each.draws(inputs, samples=2, seed=0))


def test_an_ensemble_of_a_forest_has_no_logits():
    inputs, _ = blobs()
    model = fit("ensemble:sklearn:sklearn.naive_bayes.GaussianNB", members=2)
    assert model.predict(inputs).logits is None
    names = {each.__name__ for each in model_evidence(model, inputs, seed=0)}
    assert {"probs", "embeddings", "draws"} <= names
    assert "logits" not in names


def test_a_saturated_ensemble_still_has_finite_logits():
    class Sure:
        classes, head_weight, head_bias = 2, None, None

        def predict(self, inputs, rows=None):
            logits = torch.tensor([[0.0, 300.0]]).expand(len(inputs), 2)
            return Outputs(logits, logits.softmax(1), inputs)

    logits = EnsembleModel([Sure(), Sure()]).predict(Rows(torch.zeros(2, 1))).logits
    torch.testing.assert_close(logits, torch.tensor([[-300.0, 0.0]]).expand(2, 2))


def naive_hessian(head, features):
    """The cross-entropy's by automatic differentiation; it needs no labels of its own."""

    def loss(flat):
        logits = features @ flat.reshape(head.shape).T
        return functional.cross_entropy(logits, torch.zeros(len(features), dtype=torch.int64)) * (
            len(features)
        )

    return torch.autograd.functional.hessian(loss, head.flatten())


def random_head(seed=0, rows=12, classes=3, width=4):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    features[:, -1] = 1
    head = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    return head, features, (features @ head.T).softmax(1)


def covariance(curvature, precision):
    """(K, K): what white noise becomes."""
    size = curvature.values.numel()
    white = torch.eye(size, dtype=torch.float64).reshape(size, *curvature.values.shape)
    root = curvature.spread(white, precision).flatten(1)
    return root.T @ root


def test_the_full_posterior_is_the_inverse_hessian():
    head, features, probs = random_head()
    wanted = naive_hessian(head, features) + 0.3 * torch.eye(12, dtype=torch.float64)
    found = covariance(head_curvature(probs, features, "full"), 0.3)
    torch.testing.assert_close(found, torch.linalg.inv(wanted), atol=1e-10, rtol=1e-8)


def test_the_kronecker_posterior_is_its_formula_and_exact_for_equal_rows():
    _, features, probs = random_head()
    mean = sum(torch.diag(p) - torch.outer(p, p) for p in probs) / len(probs)
    product = torch.kron(mean, sum(torch.outer(f, f) for f in features))
    found = covariance(head_curvature(probs, features, "kron"), 0.3)
    wanted = torch.linalg.inv(product + 0.3 * torch.eye(12, dtype=torch.float64))
    torch.testing.assert_close(found, wanted, atol=1e-10, rtol=1e-8)

    alike = probs[:1].expand(12, 3)
    pair = [covariance(head_curvature(alike, features, kind), 0.3) for kind in ("kron", "full")]
    torch.testing.assert_close(*pair, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("rows", [1, 2, 3, "alike"])
def test_few_rows_of_wide_features_have_the_same_posterior(rows):
    count = 3 if rows == "alike" else rows
    head, features, probs = random_head(rows=count, width=5)
    if rows == "alike":
        features = features[:1].expand(3, 5).clone()
    mean = sum(torch.diag(p) - torch.outer(p, p) for p in probs) / count
    product = torch.kron(mean, sum(torch.outer(f, f) for f in features))
    curvature = head_curvature(probs, features, "kron")
    assert curvature.right.shape == (5, count)
    white = torch.eye(15, dtype=torch.float64).reshape(15, 3, 5)
    root = curvature.spread(white, 0.3).flatten(1)
    wanted = torch.linalg.inv(product + 0.3 * torch.eye(15, dtype=torch.float64))
    torch.testing.assert_close(root.T @ root, wanted, atol=1e-10, rtol=1e-8)
    wide = curvature._replace(values=torch.cat([curvature.values, torch.zeros(3, 5 - count)], 1))
    assert likeliest_precision(head, curvature) == likeliest_precision(head, wide)


def test_the_precision_is_the_likeliest():
    head, features, probs = random_head()
    curvature = head_curvature(probs, features, "full")
    hessian = naive_hessian(head, features)

    def evidence(precision):
        posterior = hessian + precision * torch.eye(12, dtype=torch.float64)
        prior = torch.distributions.Normal(0, precision**-0.5).log_prob(head).sum()
        return float(prior + 12 / 2 * math.log(2 * math.pi) - torch.logdet(posterior) / 2)

    best = likeliest_precision(head, curvature)
    assert all(evidence(best) >= evidence(best * factor) for factor in (0.5, 0.9, 1.1, 2))


@pytest.mark.parametrize("kind", ["kron", "full"])
@pytest.mark.parametrize("name", ["mlp", "logistic"])
def test_draws_are_heads_of_the_posterior(name, kind):
    inputs, _ = blobs()
    options = QUICK if name == "mlp" else {"penalty": 0.1}
    model = fit(f"laplace:{name}", covariance=kind, prior_precision=2.0, **options)
    alone = fit(name, **options)
    assert torch.equal(model.predict(inputs).logits, alone.predict(inputs).logits)
    out = model.predict(inputs)
    weights, biases = model.head_noise(400, seed=3)
    x = Rows(out.embeddings).tensor().double()
    by_hand = (x @ (model.head_weight + weights[5]).T + model.head_bias + biases[5]).softmax(1)
    draws = model.draws(inputs, samples=6, seed=3)
    torch.testing.assert_close(draws[5], by_hand.float(), atol=1e-5, rtol=1e-4)
    # In the coordinates that the prior is in, the noise has the posterior's covariance.
    scale, mean = model._scale, model._mean
    flat = torch.cat([weights * scale, (biases + weights @ mean)[..., None]], 2).flatten(1)
    wanted = covariance(model.curvature, 2.0)
    assert (flat.T @ flat / 400 - wanted).norm() < 0.35 * wanted.norm()
    assert flat.mean(0).norm() < 0.2 * wanted.trace().sqrt()


def test_standardized_features_make_the_posterior_free_of_units():
    inputs, labels = blobs()
    rows = torch.arange(30)
    learner = make_learner("laplace:logistic", penalty=0.1, covariance="full")
    moved = Rows(inputs.tensor() * torch.tensor([2.0, 2.0, 2.0, 2.0]) - 7)
    first, second = (
        learner.fit(each, rows, labels[rows], classes=3, seed=0).draws(each, samples=300, seed=0)
        for each in (inputs, moved)
    )
    torch.testing.assert_close(first.mean(0), second.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(first.std(0), second.std(0), atol=0.05, rtol=0)


def test_a_posterior_is_wider_with_fewer_labels():
    inputs, labels = blobs(count=600)
    spread = []
    for count in (12, 600):
        learner = make_learner("laplace:logistic", penalty=0.1, prior_precision=0.1)
        model = learner.fit(inputs, torch.arange(count), labels[:count], classes=3, seed=0)
        spread.append(model.draws(inputs, samples=50, seed=0).std(0).mean())
    assert spread[0] > 2 * spread[1]


def test_what_a_network_offers_its_laplace_offers():
    inputs, _ = blobs()
    plain, wrapped = fit("mlp", **QUICK), fit("laplace:mlp", **QUICK)
    names = [
        {each.__name__ for each in model_evidence(m, inputs, seed=0)} for m in (plain, wrapped)
    ]
    assert names[0] == names[1]
    assert torch.equal(plain.activations(inputs), wrapped.activations(inputs))
    linear = fit("laplace:ridge")
    names = {each.__name__ for each in model_evidence(linear, inputs, seed=0)}
    assert "draws" in names
    assert "activations" not in names


def test_posteriors_refuse_what_they_cannot_do():
    with pytest.raises(InputError, match="members must be at least 2, got 1"):
        make_learner("ensemble:mlp", members=1)
    with pytest.raises(InputError, match=r"share must be in \(0, 1\]"):
        make_learner("ensemble:mlp", share=0.0)
    with pytest.raises(InputError, match="no learner is called 'mlpp'"):
        make_learner("ensemble:mlpp")
    with pytest.raises(InputError, match="no option is called 'hiden'"):
        make_learner("laplace:mlp", hiden=3)
    with pytest.raises(InputError, match="covariance must be 'kron' or 'full'"):
        make_learner("laplace:mlp", covariance="diagonal")
    with pytest.raises(InputError, match="prior_precision must be positive"):
        make_learner("laplace:mlp", prior_precision=0.0)
    with pytest.raises(InputError, match="laplace needs a model with a linear head"):
        fit("laplace:sklearn:sklearn.naive_bayes.GaussianNB")
    with pytest.raises(ResourceError, match="use covariance='kron'"):
        head_curvature(torch.ones(1, 100).double() / 100, torch.ones(1, 100).double(), "full")


def test_posteriors_are_learners_with_signatures():
    learner = make_learner("ensemble:laplace:mlp", members=2, covariance="full", hidden=3)
    assert isinstance(learner, Learner)
    assert isinstance(learner, Ensemble)
    signature = learner.signature()
    assert signature["name"] == "ensemble:laplace:mlp"
    assert signature["learner"]["covariance"] == "full"
    assert signature["learner"]["learner"]["hidden"] == [3]
