"""Kernels on pools that are spread over several workers, on one machine or many."""

from labelwise.engine.local import LocalShards
from labelwise.engine.shards import Shards

__all__ = ["LocalShards", "Shards"]
