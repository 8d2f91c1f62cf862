"""Our file: HDF5 with a BigDataViewer XML beside it. docs/format.md is its specification."""

from lsfm_core.store._chunks import default_threads
from lsfm_core.store.edit import ChannelWriter, LsfmEditor, check_channel_name, edit_lsfm, recover_lsfm
from lsfm_core.store.file import Channel, Level, LsfmFile, open_lsfm
from lsfm_core.store.lazy import ChunkCache, LazyLevel
from lsfm_core.store.verify import Defect, VerifyReport, compare_xml, verify_file

__all__ = [
    "Channel",
    "ChannelWriter",
    "ChunkCache",
    "Defect",
    "LazyLevel",
    "Level",
    "LsfmEditor",
    "LsfmFile",
    "VerifyReport",
    "check_channel_name",
    "compare_xml",
    "default_threads",
    "edit_lsfm",
    "open_lsfm",
    "recover_lsfm",
    "verify_file",
]
