"""Other codes for the kernels of ``perf.kernels``, on the same arrays; none is a dependency.

Those that need a similarity matrix get one in float32, made inside their time by one product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def _apricot(kind: str, n: int, x: np.ndarray, **options: Any) -> np.ndarray:
    import apricot

    made = getattr(apricot, kind)(n, optimizer="lazy", **options)
    return made.fit(x).ranking


def _submodlib(kind: str, pool: Any, **options: Any) -> np.ndarray:
    import submodlib

    made = getattr(submodlib, kind)(n=pool.rows, **options)
    lazy = kind.startswith(("FacilityLocation", "FeatureBased", "LogDeterminantFunction"))
    picked = made.maximize(
        budget=pool.picks,
        optimizer="LazyGreedy" if lazy else "NaiveGreedy",
        stopIfZeroGain=False,
        stopIfNegativeGain=False,
        show_progress=False,
    )
    return np.array([row for row, _ in picked])


def _parts(pool: Any) -> dict[str, np.ndarray]:
    """The whole similarity matrix and its parts towards the query and the private set."""
    s = pool.kernel()
    q, p = pool.query, pool.private
    return {
        "vv": s,
        "vq": np.ascontiguousarray(s[:, q]),
        "vp": np.ascontiguousarray(s[:, p]),
        "qq": np.ascontiguousarray(s[np.ix_(q, q)]),
        "pp": np.ascontiguousarray(s[np.ix_(p, p)]),
        "qp": np.ascontiguousarray(s[np.ix_(q, p)]),
    }


def _com(pool: Any) -> np.ndarray:
    from submodlib_cpp import ConcaveOverModular

    s = pool.kernel()[:, pool.query]
    return _submodlib(
        "ConcaveOverModularFunction",
        pool,
        num_queries=len(pool.query),
        query_sijs=np.ascontiguousarray(s),
        mode=ConcaveOverModular.squareRoot,
    )


def _disparity(pool: Any) -> np.ndarray:
    from scipy.spatial.distance import cdist

    similar = (1 - cdist(pool.x, pool.x)).astype(np.float32)
    return _submodlib("DisparitySumFunction", pool, mode="dense", sijs=similar)


def _measure(kind: str, *needs: str, **options: Any) -> Callable[[Any], np.ndarray]:
    """One of submodlib's information measures, from the parts it needs."""
    names = {
        "vv": "data_sijs",
        "vq": "query_sijs",
        "vp": "private_sijs",
        "qq": "query_query_sijs",
        "pp": "private_private_sijs",
        "qp": "query_private_sijs",
    }

    def call(pool: Any) -> np.ndarray:
        parts = _parts(pool)
        given: dict[str, Any] = {names[need]: parts[need] for need in needs}
        if "vq" in needs:
            given["num_queries"] = len(pool.query)
        if "vp" in needs:
            given["num_privates"] = len(pool.private)
        return _submodlib(kind, pool, **given, **options)

    return call


def _faiss_kmeans(pool: Any) -> np.ndarray:
    import faiss

    made = faiss.Kmeans(
        pool.width,
        pool.picks,
        niter=20,
        seed=0,
        max_points_per_centroid=10**9,
        min_points_per_centroid=1,
    )
    made.train(pool.x)
    made.index.search(pool.x, 1)
    return made.centroids


def _sklearn_kmeans(pool: Any) -> np.ndarray:
    from sklearn.cluster import KMeans

    made = KMeans(pool.picks, init="random", n_init=1, max_iter=20, tol=0, random_state=0)
    return made.fit(pool.x).cluster_centers_


def _sklearn_seeds(trials: int) -> Callable[[Any], np.ndarray]:
    def call(pool: Any) -> np.ndarray:
        from sklearn.cluster import kmeans_plusplus

        return kmeans_plusplus(pool.x, pool.picks, random_state=0, n_local_trials=trials)[1]

    return call


def _faiss_neighbors(pool: Any) -> np.ndarray:
    import faiss

    index = faiss.IndexFlatL2(pool.width)
    index.add(pool.x)
    return index.search(pool.x, 21)[1]


def _sklearn_neighbors(pool: Any) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    made = NearestNeighbors(n_neighbors=20, algorithm="brute").fit(pool.x)
    return made.kneighbors(return_distance=False)


def _sklearn_clusters(pool: Any) -> np.ndarray:
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.neighbors import kneighbors_graph

    unit = pool.x / np.linalg.norm(pool.x, axis=1, keepdims=True)
    graph = kneighbors_graph(unit, 20, include_self=False)
    made = AgglomerativeClustering(pool.picks, connectivity=graph, linkage="average")
    return made.fit(unit).labels_


Other = Callable[[Any], np.ndarray]

OTHERS: dict[str, dict[str, Other]] = {
    "k-means++": {"scikit-learn": _sklearn_seeds(1)},
    "k-means++, greedy, 9 trials": {"scikit-learn": _sklearn_seeds(9)},
    "k-means, 20 iterations": {"faiss-cpu": _faiss_kmeans, "scikit-learn": _sklearn_kmeans},
    "20 nearest neighbors": {"faiss-cpu": _faiss_neighbors, "scikit-learn": _sklearn_neighbors},
    "agglomerative clusters": {"scikit-learn": _sklearn_clusters},
    "feature-based, sqrt": {
        "apricot-select": lambda p: _apricot(
            "FeatureBasedSelection", p.picks, p.x, concave_func="sqrt"
        )
    },
    "facility location": {
        "apricot-select": lambda p: _apricot(
            "FacilityLocationSelection", p.picks, p.kernel(), metric="precomputed"
        ),
        "submodlib-py": lambda p: _submodlib(
            "FacilityLocationFunction", p, mode="dense", separate_rep=False, sijs=p.kernel()
        ),
    },
    "graph cut": {
        "submodlib-py": lambda p: _submodlib(
            "GraphCutFunction",
            p,
            mode="dense",
            lambdaVal=0.4,
            separate_rep=False,
            ggsijs=p.kernel(),
        ),
    },
    "saturated coverage": {
        "apricot-select": lambda p: _apricot(
            "SaturatedCoverageSelection", p.picks, p.kernel(), metric="precomputed", alpha=0.1
        ),
    },
    "log-determinant": {
        "submodlib-py": lambda p: _submodlib(
            "LogDeterminantFunction", p, mode="dense", lambdaVal=1, sijs=p.kernel()
        ),
    },
    "disparity-sum": {"submodlib-py": _disparity},
    "FLQMI": {"submodlib-py": _measure("FacilityLocationVariantMutualInformationFunction", "vq")},
    "FLVMI": {"submodlib-py": _measure("FacilityLocationMutualInformationFunction", "vv", "vq")},
    "FLCG": {"submodlib-py": _measure("FacilityLocationConditionalGainFunction", "vv", "vp")},
    "FLCMI": {
        "submodlib-py": _measure(
            "FacilityLocationConditionalMutualInformationFunction", "vv", "vq", "vp"
        )
    },
    "GCMI": {"submodlib-py": _measure("GraphCutMutualInformationFunction", "vq")},
    "GCCG": {
        "submodlib-py": _measure("GraphCutConditionalGainFunction", "vv", "vp", lambdaVal=0.4)
    },
    "LogDetMI": {
        "submodlib-py": _measure(
            "LogDeterminantMutualInformationFunction", "vv", "vq", "qq", lambdaVal=1
        )
    },
    "LogDetCG": {
        "submodlib-py": _measure(
            "LogDeterminantConditionalGainFunction", "vv", "vp", "pp", lambdaVal=1
        )
    },
    "LogDetCMI": {
        "submodlib-py": _measure(
            "LogDeterminantConditionalMutualInformationFunction",
            *("vv", "vq", "qq", "vp", "pp", "qp"),
            lambdaVal=1,
        )
    },
    "concave over modular": {"submodlib-py": _com},
}
"""What else computes a kernel: name of the kernel -> name of the distribution -> call."""

AT_FULL_SIZE = {
    (name, code)
    for name, codes in OTHERS.items()
    for code in codes
    if code in ("scikit-learn", "faiss-cpu") or name == "feature-based, sqrt"
}
"""Those that need no matrix of all pairs, or make it in blocks."""
