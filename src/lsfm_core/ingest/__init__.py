"""Ingest: source -> levels -> store, slab by slab, in one pass over the planes and within a memory budget.

Inside: `request` what can be asked for; `plan` every decision; `channel` carries it out; `_memory` where slabs are
kept; `_slabs` the slabs and the threads; `_state` how far they have come.
"""

from lsfm_core.ingest.channel import IngestReport, ingest_channel
from lsfm_core.ingest.plan import IngestPlan, plan_ingest
from lsfm_core.ingest.request import IngestRequest

__all__ = ["IngestPlan", "IngestReport", "IngestRequest", "ingest_channel", "plan_ingest"]
