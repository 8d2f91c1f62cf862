"""Ingest: source -> levels -> store, slab by slab, in one pass over the planes and within a memory budget."""

from lsfm_core.ingest.channel import IngestReport, IngestRequest, ingest_channel

__all__ = ["IngestReport", "IngestRequest", "ingest_channel"]
