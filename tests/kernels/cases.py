"""Point sets that broke other implementations, and slow definitions in float64."""

import numpy as np

KINDS = (
    "gaussian",
    "grid of ties",
    "far from the origin",
    "copies",
    "one tight far cluster",
    "all the same",
    "one dimension",
    "two scales",
)
DTYPES = (np.float32, np.float64, np.float16)


def points(kind: str, seed: int):
    """(N, D) points of one kind, small and random."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    n, d = int(rng.integers(6, 100)), int(rng.integers(1, 20))
    x = rng.normal(size=(n, d))
    if kind == "grid of ties":
        x = rng.integers(0, 3, size=(n, d)).astype(float)
    elif kind == "far from the origin":
        x = 100 + rng.uniform(-1, 1, size=(n, d))
    elif kind == "copies":
        x = np.repeat(x, 3, 0)[rng.permutation(3 * n)]
    elif kind == "one tight far cluster":
        x[: n // 2] = 1e3 + 1e-3 * rng.normal(size=(n // 2, d))
    elif kind == "all the same":
        x = np.ones((n, d))
    elif kind == "one dimension":
        x = rng.normal(size=(n, 1))
    elif kind == "two scales":
        x[: n // 3] *= 1e-4
    return x.astype(DTYPES[seed % 3])


def squared_distances_to(x, row):
    """(N,) float64 squared distances to one row, from differences."""
    x = x.astype(np.float64)
    return ((x - x[row]) ** 2).sum(1)


def gradients(probs, embeddings, bias=False):
    """(N, C * D) float64 gradient embeddings, as other toolkits build them."""
    a = probs.astype(np.float64)
    a[np.arange(len(a)), probs.argmax(1)] -= 1
    h = embeddings.astype(np.float64)
    if bias:
        h = np.hstack([h, np.ones((len(h), 1))])
    return np.einsum("nc,nd->ncd", a, h).reshape(len(a), -1)
