"""Texts as vectors without a pretrained network: TF-IDF of words and word pairs, then SVD."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from labelwise.errors import DataError, InputError
from labelwise.kernels import derive
from labelwise.learners.base import Progress
from labelwise.pools import Pool, TextPool

CHUNK = 4096
"""Texts that are encoded at once."""


class TFIDF:
    """Latent semantic analysis: sublinear TF-IDF of words and word pairs, reduced and normalized.

    Every row has length 1. A text without any word that the pool knows says nothing; it takes
    the direction of the pool's mean, as a missing number takes the mean.

    Args:
        dims: D, at least 1; fewer where the pool has not as many words or texts.
        min_count: a word or pair must be in at least this many of the pool's texts.
        max_words: at most this many words and pairs, the most frequent ones.

    Raises:
        InputError: an option below 1.

    Source:
        Deerwester et al., "Indexing by Latent Semantic Analysis", JASIS 1990; randomized SVD
        of Halko, Martinsson & Tropp, SIAM Review 2011 (scikit-learn's).
    """

    name = "tfidf"

    def __init__(self, *, dims: int = 256, min_count: int = 2, max_words: int = 100_000) -> None:
        for option, value in (("dims", dims), ("min_count", min_count), ("max_words", max_words)):
            if value < 1:
                raise InputError(f"{option} must be at least 1, got {value}")
        self.dims = dims
        self.min_count = min_count
        self.max_words = max_words
        self._words: Any = None
        self._components: NDArray[np.float64] | None = None
        self._mean: NDArray[np.float64] | None = None

    def signature(self) -> dict[str, Any]:
        """Name, version of the encoding, and options."""
        return {
            "name": self.name,
            "version": 1,
            "dims": self.dims,
            "min_count": self.min_count,
            "max_words": self.max_words,
        }

    def fit(self, pool: Pool, *, seed: int) -> Self:
        """Learn words, their weights and the directions.

        Raises:
            InputError: a pool of another kind.
            DataError: no word is in ``min_count`` texts.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.utils.extmath import randomized_svd

        texts = _texts(pool, 0, len(pool))
        self._words = TfidfVectorizer(
            sublinear_tf=True,
            ngram_range=(1, 2),
            min_df=min(self.min_count, max(1, len(texts))),
            max_features=self.max_words,
            strip_accents="unicode",
        )
        try:
            weights = self._words.fit_transform(texts)
        except ValueError as error:
            raise DataError(
                f"no word is in min_count={self.min_count} of the {len(texts)} texts of the pool; "
                "give min_count=1, or longer texts"
            ) from error
        dims = min(self.dims, *weights.shape)
        # The sign of a direction is arbitrary; svd_flip inside makes it the same every time.
        _, _, self._components = randomized_svd(
            weights, dims, n_iter=5, random_state=derive(seed, "svd") % 2**32
        )
        assert self._components is not None
        mean = np.asarray(weights.mean(axis=0)).ravel() @ self._components.T
        self._mean = mean / max(float(np.linalg.norm(mean)), np.finfo(float).tiny)
        return self

    def item_shape(self) -> tuple[int, ...]:
        """The number of directions kept."""
        return (len(self._fitted()[0]),)

    def dtype(self) -> np.dtype[Any]:
        """float32."""
        return np.dtype(np.float32)

    def encode(
        self,
        pool: Pool,
        *,
        out: NDArray[Any] | None = None,
        progress: Progress | None = None,
    ) -> NDArray[Any]:
        """(N, D) float32, every row of length 1.

        Raises:
            InputError: not fitted, or a pool of another kind.
        """
        components, mean = self._fitted()
        if out is None:
            out = np.empty((len(pool), len(components)), np.float32)
        for start in range(0, len(pool), CHUNK):
            stop = min(start + CHUNK, len(pool))
            vectors = self._words.transform(_texts(pool, start, stop)) @ components.T
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            silent = lengths[:, 0] <= 1e-12
            out[start:stop] = np.where(silent[:, None], mean, vectors / np.maximum(lengths, 1e-12))
            if progress:
                progress(stop, len(pool))
        return out

    def _fitted(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self._components is None or self._mean is None:
            raise InputError("the tfidf encoder is not fitted; call fit(pool, seed=0) first")
        return self._components, self._mean


def _texts(pool: Pool, start: int, stop: int) -> list[str]:
    if not isinstance(pool, TextPool):
        raise InputError(f"the tfidf encoder reads texts, and this is a pool of kind {pool.kind}")
    return pool.texts(np.arange(start, stop))
