"""The evidence that needs a model: computed once, when asked, and only what there is."""

import pytest
import torch

from labelwise.errors import InputError
from labelwise.evidence import Evidence
from labelwise.kernels import Rows
from labelwise.learners import MLP, Model, Outputs, PosteriorModel, model_evidence


class Forest:
    """A model without logits, head or posterior; counts its predictions."""

    classes = 2
    head_weight = None
    head_bias = None

    def __init__(self):
        self.predicted = []

    def predict(self, inputs, rows=None):
        count = len(inputs) if rows is None else len(rows)
        self.predicted.append(count)
        return Outputs(None, torch.full((count, 2), 0.5), inputs)


@pytest.fixture(scope="module")
def fitted():
    inputs, rows = Rows(torch.randn(30, 4)), torch.arange(12)
    learner = MLP(hidden=(6,), dropout=0.2, epochs=2, min_steps=0)
    return learner.fit(inputs, rows, rows % 3, classes=3, seed=0), inputs


def named(providers):
    return {provider.__name__: provider for provider in providers}


def test_a_network_offers_everything(fitted):
    model, inputs = fitted
    assert isinstance(model, PosteriorModel)
    found = named(model_evidence(model, inputs, samples=4, seed=1))
    arrays = {"logits", "probs", "embeddings", "draws", "head_weight", "head_bias"}
    arrays |= {"inputs", "activations"}
    assert set(found) == arrays | {"model", "hidden_weights"}
    assert [tuple(weight.shape) for weight in found["hidden_weights"]()] == [(6, 4)]
    logits = found["model"]()(inputs.tensor())
    assert logits.requires_grad
    torch.testing.assert_close(logits.detach(), found["logits"]())
    shapes = {name: tuple(found[name]().shape) for name in arrays}
    assert shapes == {
        "logits": (30, 3),
        "probs": (30, 3),
        "embeddings": (30, 6),
        "draws": (4, 30, 3),
        "head_weight": (3, 6),
        "head_bias": (3,),
        "inputs": (30, 4),
        "activations": (30, 6),
    }
    torch.testing.assert_close(found["draws"](), model.draws(inputs, samples=4, seed=1))


def test_a_forest_offers_what_it_has():
    model, inputs = Forest(), Rows(torch.ones(5, 2))
    assert isinstance(model, Model)
    assert not isinstance(model, PosteriorModel)
    found = named(model_evidence(model, inputs, seed=0))
    assert set(found) == {"probs", "embeddings"}
    assert found["embeddings"]() is inputs


def test_one_prediction_serves_all_and_none_is_made_unasked():
    model = Forest()
    found = named(model_evidence(model, Rows(torch.ones(5, 2)), seed=0))
    assert 5 not in model.predicted
    found["probs"](), found["embeddings"](), found["probs"]()
    assert model.predicted.count(5) == 1


def test_the_evidence_graph_takes_them(fitted):
    model, inputs = fitted
    graph = Evidence({}, providers=model_evidence(model, inputs, seed=0))
    torch.testing.assert_close(graph["probs"].tensor(), model.predict(inputs).probs)
    head = graph["embeddings"].tensor() @ graph["head_weight"].tensor().T
    torch.testing.assert_close(head + graph["head_bias"].tensor(), graph["logits"].tensor())
    assert graph["draws"].shape == (10, 30, 3)


def test_a_network_without_dropout_says_how_to_get_draws(fitted):
    inputs = fitted[1]
    rows = torch.arange(12)
    model = MLP(hidden=(4,), epochs=1).fit(inputs, rows, rows % 3, classes=3, seed=0)
    graph = Evidence({}, providers=model_evidence(model, inputs, seed=0))
    with pytest.raises(InputError, match=r"MLP\(dropout=0\.2\)"):
        graph["draws"]


def test_samples_below_one_are_refused(fitted):
    with pytest.raises(InputError, match="samples must be at least 1, got 0"):
        model_evidence(*fitted, samples=0, seed=0)
