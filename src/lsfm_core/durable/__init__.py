"""A file, a set of files or a folder that commits or rolls back, whatever happens meanwhile; knows nothing of what is in it."""

from lsfm_core.durable._change import JournaledFile, replacing
from lsfm_core.durable._disk import RawFile, write_file
from lsfm_core.durable._lock import has_locks
from lsfm_core.durable._mark import is_marked
from lsfm_core.durable._outputs import (
    check_new,
    clear_folder,
    hidden_folder,
    new_file,
    new_files,
    new_files_in_folder,
    settle_outputs,
)
from lsfm_core.durable._places import (
    checkpoint_path,
    journal_path,
    partial_path,
    unsettled,
    waiting_xml,
    waits,
    xml_partial_path,
)
from lsfm_core.durable._recovery import give_up, recover
from lsfm_core.durable._snapshot import DatasetReader, DetachedFile, Snapshot

__all__ = [
    "DatasetReader",
    "DetachedFile",
    "JournaledFile",
    "RawFile",
    "Snapshot",
    "check_new",
    "checkpoint_path",
    "clear_folder",
    "give_up",
    "has_locks",
    "hidden_folder",
    "is_marked",
    "journal_path",
    "new_file",
    "new_files",
    "new_files_in_folder",
    "partial_path",
    "recover",
    "replacing",
    "settle_outputs",
    "unsettled",
    "waiting_xml",
    "waits",
    "write_file",
    "xml_partial_path",
]
