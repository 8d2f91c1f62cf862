"""Work that is divided into items: made by executors, by clusters, or in shards by jobs that know nothing of each other.

Inside: `_items` what is divided, and into what; `_batches` how items are made, wherever that is; `_divided` one output of them;
`_ledger` what is known of the items of an output that is made in shards; `_shards` these; `_dask` clusters.
"""

from lsfm_core.parallel._batches import PASSING, carry_out, checksum, crc_of
from lsfm_core.parallel._dask import cluster
from lsfm_core.parallel._divided import Divided, make_with
from lsfm_core.parallel._items import Division, Item, Maker, Part, Share
from lsfm_core.parallel._ledger import check_shard, is_joined, shard_range, shards_folder
from lsfm_core.parallel._shards import ItemState, ShardResult, ShardsStatus, make_shard, shards_status

__all__ = [
    "PASSING",
    "Divided",
    "Division",
    "Item",
    "ItemState",
    "Maker",
    "Part",
    "ShardResult",
    "ShardsStatus",
    "Share",
    "carry_out",
    "check_shard",
    "checksum",
    "cluster",
    "crc_of",
    "is_joined",
    "make_shard",
    "make_with",
    "shard_range",
    "shards_folder",
    "shards_status",
]
