"""Floor 0: geometries and array algorithms. Nothing here knows of learning."""

from labelwise.kernels.agglomerate import Agglomeration, agglomerate, typical_distance
from labelwise.kernels.breaks import natural_breaks
from labelwise.kernels.combined import Concatenated, Product
from labelwise.kernels.density import hashed_density, neighbor_density
from labelwise.kernels.euclidean import Cosine, Euclidean
from labelwise.kernels.farthest import farthest_first
from labelwise.kernels.fisher import fisher_greedy
from labelwise.kernels.gemm import fast_mm, linear
from labelwise.kernels.geometry import Chosen, Geometry, Points, hold_limit
from labelwise.kernels.gradient import GradientEmbedding
from labelwise.kernels.greedy import greedy
from labelwise.kernels.herding import herding, kernel_herding
from labelwise.kernels.kmeans_plus_plus import kmeans_plus_plus
from labelwise.kernels.lloyd import Clusters, kmeans
from labelwise.kernels.matching_pursuit import Matched, matching_pursuit
from labelwise.kernels.neighbors import Neighbors, nearest_neighbors
from labelwise.kernels.noise import Generator, derive, numpy_stream, torch_stream
from labelwise.kernels.partition import Part, partitioned
from labelwise.kernels.precomputed import Precomputed, SparseSimilarity
from labelwise.kernels.progress import Progress
from labelwise.kernels.rows import Rows, per_row
from labelwise.kernels.similarity import Similarity
from labelwise.kernels.subset import Subset

__all__ = [
    "Agglomeration",
    "Chosen",
    "Clusters",
    "Concatenated",
    "Cosine",
    "Euclidean",
    "Generator",
    "Geometry",
    "GradientEmbedding",
    "Matched",
    "Neighbors",
    "Part",
    "Points",
    "Precomputed",
    "Product",
    "Progress",
    "Rows",
    "Similarity",
    "SparseSimilarity",
    "Subset",
    "agglomerate",
    "derive",
    "farthest_first",
    "fast_mm",
    "fisher_greedy",
    "greedy",
    "hashed_density",
    "herding",
    "hold_limit",
    "kernel_herding",
    "kmeans",
    "kmeans_plus_plus",
    "linear",
    "matching_pursuit",
    "natural_breaks",
    "nearest_neighbors",
    "neighbor_density",
    "numpy_stream",
    "partitioned",
    "per_row",
    "torch_stream",
    "typical_distance",
]
