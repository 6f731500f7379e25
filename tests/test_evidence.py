"""The evidence graph: lazy, computed once, several ways to a name, one clear error."""

import numpy as np
import pytest
import torch

from labelwise.errors import InputError
from labelwise.evidence import Evidence, Rows, provider


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_probs_follow_from_logits_in_single_precision_at_least(rng):
    logits = rng.normal(size=(30, 4)).astype(np.float16)
    probs = Evidence({"logits": logits})["probs"].tensor()
    assert probs.dtype == torch.float32
    exact = torch.softmax(torch.from_numpy(logits).double(), 1)
    torch.testing.assert_close(probs.double(), exact, atol=1e-6, rtol=0)
    wide = Evidence({"logits": logits.astype(np.float64)})["probs"].tensor()
    assert wide.dtype == torch.float64


def test_probs_follow_from_draws_as_their_mean(rng):
    draws = rng.dirichlet(np.ones(3), size=(5, 20))
    probs = Evidence({"draws": draws})["probs"].tensor()
    np.testing.assert_allclose(probs.numpy(), draws.mean(0), atol=1e-12)


def test_probs_prefer_logits_to_draws(rng):
    draws, logits = rng.dirichlet(np.ones(3), size=(5, 20)), np.zeros((20, 3))
    probs = Evidence({"draws": draws, "logits": logits})["probs"].tensor()
    np.testing.assert_allclose(probs.numpy(), 1 / 3)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_logits_follow_from_a_head_with_or_without_bias(rng, kind, monkeypatch):
    monkeypatch.setattr("labelwise.kernels.rows.BLOCK_BYTES", 4 * 6 * 7)  # several blocks
    h, w, b = (rng.normal(size=s).astype(kind) for s in ((25, 6), (3, 6), (3,)))
    exact = h.astype(float) @ w.astype(float).T
    given = {"embeddings": h, "head_weight": w}
    np.testing.assert_allclose(Evidence(given)["logits"].tensor(), exact, atol=1e-5)
    with_bias = Evidence({**given, "head_bias": b})["logits"].tensor()
    np.testing.assert_allclose(with_bias, exact + b.astype(float), atol=1e-5)


def test_a_chain_of_providers(rng):
    graph = Evidence(
        {"embeddings": rng.normal(size=(9, 6)), "head_weight": rng.normal(size=(3, 6))}
    )
    np.testing.assert_allclose(graph["probs"].tensor().sum(1), 1, rtol=1e-6)


def test_providers_are_lazy_and_run_once():
    calls = []

    def probs():
        calls.append("probs")
        return np.full((4, 2), 0.5)

    graph = Evidence({}, [probs])
    assert "probs" in graph
    assert calls == []
    assert graph["probs"] is graph["probs"]
    assert calls == ["probs"]
    assert graph.size == 4


def test_the_first_provider_whose_needs_can_be_met_is_taken():
    @provider(gives="probs")
    def from_elsewhere(nowhere_to_be_had):
        raise AssertionError

    def probs():
        return [[1.0, 0.0]]

    @provider(gives="probs")
    def never_reached():
        raise AssertionError

    graph = Evidence({"logits": [[0.0, 0.0]]}, [from_elsewhere, probs, never_reached])
    assert graph["probs"].tensor().tolist() == [[1.0, 0.0]]


def test_what_is_given_goes_before_providers():
    def probs():
        raise AssertionError

    assert Evidence({"probs": [[1.0, 0.0]]}, [probs])["probs"].tensor().tolist() == [[1.0, 0.0]]


def test_a_provider_uses_optional_evidence_only_if_it_can_be_had():
    def one(two=None):
        return two

    def two():
        return 2

    assert Evidence({}, [one, two])["one"] == 2
    assert Evidence({"two": 5}, [one])["one"] == 5


def test_a_provider_that_gives_nothing_is_an_error():
    def logits():
        return None

    with pytest.raises(InputError, match="provider of logits returned None"):
        Evidence({}, [logits])["logits"]


def test_circles_end():
    def logits(probs):
        return probs.tensor().log()

    graph = Evidence({}, [logits])
    assert "logits" not in graph
    assert "probs" not in graph
    with pytest.raises(InputError, match="Missing"):
        graph.require(["probs"])
    with_probs = Evidence({"probs": [[0.5, 0.5]]}, [logits])
    assert with_probs["logits"].tensor()[0, 0] == pytest.approx(np.log(0.5))


def test_missing_evidence_is_one_line_that_says_all():
    graph = Evidence({"draws": np.full((2, 3, 2), 0.5)})
    with pytest.raises(InputError) as caught:
        graph.require(["probs", "embeddings", "head_weight"], by="badge")
    text = str(caught.value)
    assert text.startswith("badge needs probs, embeddings and head_weight and was given draws.")
    assert "pass embeddings= (N, D), features" in text
    assert "pass head_weight= (C, D)" in text
    assert "pass probs" not in text  # follows from draws
    assert "\n" not in text


def test_missing_evidence_names_what_it_would_follow_from():
    with pytest.raises(InputError, match=r"pass probs= .*\(or logits, or draws, from which"):
        Evidence({}).require(["probs"])
    graph = Evidence({"embeddings": np.zeros((2, 2))})
    with pytest.raises(InputError, match=r"pass logits= .*\(or head_weight, from which"):
        graph.require(["logits"])


def test_unneeded_evidence_is_not_read_but_its_length_counts():
    bad = np.full((3, 2), np.nan)
    graph = Evidence({"probs": [[1.0, 0.0]] * 3, "embeddings": bad})
    assert len(graph["probs"]) == 3
    with pytest.raises(InputError, match=r"embeddings .* rows is 4, but probs says 3"):
        Evidence({"probs": [[1.0, 0.0]] * 3, "embeddings": np.zeros((4, 2))})
    with pytest.raises(InputError, match="says the number of pool rows is 3, but ids says 2"):
        Evidence({"probs": [[1.0, 0.0]] * 3}, size=2)


def test_providers_are_checked_like_what_is_given():
    def probs():
        return np.array([[2.0, -1.0]])

    with pytest.raises(InputError, match="row 0 must be >= 0"):
        Evidence({}, [probs])["probs"]


def test_arrays_arrive_as_rows_and_numbers_as_tensors(tmp_path):
    path = tmp_path / "h.npy"
    np.save(path, np.ones((5, 2), np.float32))
    graph = Evidence({"embeddings": path, "labeled": [4, 0], "labels": (1, 0), "rounds": 3})
    assert isinstance(graph["embeddings"], Rows)
    assert graph["embeddings"].is_file
    assert graph["labeled"].tolist() == [4, 0]
    assert graph["labels"].dtype == torch.int64
    assert graph["rounds"] == 3


def test_evidence_moves_to_a_device():
    graph = Evidence({"logits": np.zeros((3, 2))}, device="cpu")
    assert graph["probs"].device == torch.device("cpu")
    meta = Evidence({"logits": np.zeros((3, 2))}, device="meta")
    assert meta["logits"].device.type == "meta"


def test_a_provider_has_no_options():
    def probs(logits, *, temperature=1.0):
        return logits

    with pytest.raises(InputError, match="'temperature' is keyword-only"):
        Evidence({}, [probs])


def test_a_provider_must_name_what_it_needs():
    with pytest.raises(InputError, match="no names to read"):
        Evidence({}, [lambda *things: things])


def test_known_names_are_rules_and_what_providers_use():
    def mine(other):
        return other

    known = Evidence({}, [mine]).known
    assert {"probs", "draws", "mine", "other"} <= known
