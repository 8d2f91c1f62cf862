"""Arrays that are read when asked: indices compose in one place, whatever the array is made of."""

from lsfm_core.arrays._cache import ChunkCache
from lsfm_core.arrays.lazy import Box, LazyArray
from lsfm_core.arrays.stored import LazyLevel, TableOf

__all__ = ["Box", "ChunkCache", "LazyArray", "LazyLevel", "TableOf"]
