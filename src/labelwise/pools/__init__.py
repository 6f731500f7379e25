"""Floor 1: where items come from, with stable ids."""

from labelwise.pools.arrays import ArrayPool
from labelwise.pools.base import KINDS, Kind, Pool
from labelwise.pools.data import Data
from labelwise.pools.find import known_names
from labelwise.pools.images import (
    ColumnImages,
    FetchedImages,
    FileImages,
    ImagePool,
    ImageStore,
    PixelImages,
)
from labelwise.pools.opening import open_data
from labelwise.pools.tables import Column, TablePool
from labelwise.pools.texts import TextPool

__all__ = [
    "KINDS",
    "ArrayPool",
    "Column",
    "ColumnImages",
    "Data",
    "FetchedImages",
    "FileImages",
    "ImagePool",
    "ImageStore",
    "Kind",
    "PixelImages",
    "Pool",
    "TablePool",
    "TextPool",
    "known_names",
    "open_data",
]
