"""TF-IDF and SVD by definition, and on real text; hub encoders without their libraries."""

import os
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from labelwise.errors import DataError, InputError, MissingDependencyError
from labelwise.kernels import Rows
from labelwise.learners import make_encoder, make_learner
from labelwise.learners.text import TFIDF
from labelwise.pools import ImagePool, PixelImages, TextPool

TEXTS = [
    "the cat sat on the mat",
    "the dog sat on the log",
    "a cat and a dog",
    "stocks fell as markets closed",
    "markets rose and stocks rose",
    "zebra",
]


def fitted(texts=TEXTS, seed=0, **options):
    pool = TextPool(texts)
    encoder = TFIDF(**options).fit(pool, seed=seed)
    return encoder, encoder.encode(pool)


def test_inner_products_are_those_of_tfidf_by_definition():
    """With every direction kept, SVD is a rotation: cosines of the TF-IDF rows are unchanged."""
    texts = TEXTS[:5]
    _, vectors = fitted(texts, min_count=1)
    words = [text.split() for text in texts]
    words = [[word for word in text if len(word) > 1] for text in words]
    terms = [text + [" ".join(pair) for pair in pairwise(text)] for text in words]
    vocabulary = sorted({term for text in terms for term in text})
    counts = np.array([[text.count(term) for term in vocabulary] for text in terms], float)
    documents = (counts > 0).sum(0)
    weights = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0)
    weights *= np.log((1 + len(texts)) / (1 + documents)) + 1
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors @ vectors.T, weights @ weights.T, atol=1e-5)


def test_every_row_has_length_one_and_a_silent_text_the_mean_direction():
    encoder, vectors = fitted(min_count=2)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    silent = encoder.encode(TextPool(["", "qwerty uiop"]))
    np.testing.assert_allclose(silent[0], silent[1])
    np.testing.assert_allclose(vectors[5], silent[0])  # "zebra" is in one text alone
    assert vectors.mean(0) @ silent[0] > 0


def test_the_seed_decides_and_items_keep_their_rows():
    one, two = fitted(seed=3)[1], fitted(seed=3)[1]
    np.testing.assert_array_equal(one, two)
    encoder, vectors = fitted()
    some = encoder.encode(TextPool(TEXTS[2:4]))
    np.testing.assert_allclose(some, vectors[2:4], atol=1e-6)


def test_dims_are_at_most_what_there_is():
    encoder, vectors = fitted(dims=3)
    assert vectors.shape == (6, 3) == (6, *encoder.item_shape())
    assert vectors.dtype == encoder.dtype() == np.float32
    assert fitted(dims=999)[1].shape[1] <= 6


def test_encoding_by_chunks_is_encoding_of_all(monkeypatch):
    encoder, vectors = fitted()
    monkeypatch.setattr("labelwise.learners.text.CHUNK", 4)
    told = []
    again = encoder.encode(TextPool(TEXTS), progress=lambda *at: told.append(at))
    np.testing.assert_allclose(again, vectors, atol=1e-6)
    assert told == [(4, 6), (6, 6)]


def test_what_cannot_be_encoded_is_refused():
    with pytest.raises(DataError, match="no word is in min_count=2 of the 2 texts"):
        fitted(["one thing", "another matter"])
    with pytest.raises(InputError, match="tfidf encoder is not fitted"):
        TFIDF().encode(TextPool(TEXTS))
    with pytest.raises(InputError, match="dims must be at least 1, got 0"):
        TFIDF(dims=0)


def test_subjectivity():
    """1,000 labels of real sentences; a linear head on the 256 directions."""
    folder = os.environ.get("LABELWISE_DATA")
    if not folder:
        pytest.skip("LABELWISE_DATA is not set")
    from labelwise.pools import open_data

    data = open_data(Path(folder) / "text" / "subj.parquet")
    encoder = make_encoder("tfidf").fit(data.pool, seed=0)
    inputs, test = Rows(encoder.encode(data.pool)), Rows(encoder.encode(data.test))
    rows = torch.from_numpy(np.random.default_rng(0).choice(len(data.pool), 1000, replace=False))
    labels = torch.from_numpy(data.labels)[rows]
    model = make_learner("logistic").fit(inputs, rows, labels, classes=2, seed=0)
    predicted = model.predict(test).probs.argmax(1).numpy()
    assert (predicted == data.test_labels).mean() > 0.82


# --- hubs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "extra"), [("timm:resnet18", "vision"), ("open_clip:RN50/openai", "clip")]
)
def test_a_missing_library_is_one_line(name, extra, monkeypatch):
    pool = ImagePool(PixelImages(np.zeros((1, 8, 8, 3), np.uint8)))
    monkeypatch.setitem(sys.modules, name.partition(":")[0], None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'labelwise\[{extra}\]'"):
        make_encoder(name).fit(pool, seed=0)


def test_hub_encoders_refuse_what_they_cannot_read():
    with pytest.raises(InputError, match="reads pools of kind image, and this one is text"):
        make_encoder("timm:resnet18").fit(TextPool(["a"]), seed=0)
    with pytest.raises(InputError, match="minibatch must be at least 1, got 0"):
        make_encoder("timm:resnet18", minibatch=0)
    with pytest.raises(DataError, match=r"weights 'nowhere\.safetensors' cannot be read"):
        make_encoder("timm:resnet18", weights="nowhere.safetensors").signature()
