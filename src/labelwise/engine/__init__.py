"""Kernels on pools that are spread over several workers, on one machine or many.

Ray is imported when a cluster is asked for, and not before.
"""

from labelwise.engine.embedding import embed
from labelwise.engine.engines import Engine, OneMachine, OnRay, find_engine
from labelwise.engine.graph_cut import graph_cut
from labelwise.engine.greedi import greedi
from labelwise.engine.local import LocalShards
from labelwise.engine.ray_crew import RayShards
from labelwise.engine.shards import Shards

__all__ = [
    "Engine",
    "LocalShards",
    "OnRay",
    "OneMachine",
    "RayShards",
    "Shards",
    "embed",
    "find_engine",
    "graph_cut",
    "greedi",
]
