"""Our file: HDF5 with a BigDataViewer XML beside it. docs/format.md is its specification."""

from lsfm_core.store._checks import (
    check_channel_name,
    check_folder,
    check_key,
    check_new_affine,
    check_new_channel,
    check_new_key,
    is_setup,
)
from lsfm_core.store._writer import ChannelWriter
from lsfm_core.store._xml import parse_xml
from lsfm_core.store.channel import Channel, Level, Sides, own_space
from lsfm_core.store.edit import edit_lsfm, previous_xml, write_xml
from lsfm_core.store.editor import LsfmEditor
from lsfm_core.store.file import LsfmFile
from lsfm_core.store.link import LinkReport, LinkRequest, link_files, plan_link
from lsfm_core.store.opening import open_lsfm, target_path
from lsfm_core.store.recover import recover_folder, recover_lsfm
from lsfm_core.store.repack import RepackReport, RepackRequest, plan_repack, repack_file
from lsfm_core.store.verify import Defect, VerifyReport, compare_xml, verify_file

__all__ = [
    "Channel",
    "ChannelWriter",
    "Defect",
    "Level",
    "LinkReport",
    "LinkRequest",
    "LsfmEditor",
    "LsfmFile",
    "RepackReport",
    "RepackRequest",
    "Sides",
    "VerifyReport",
    "check_channel_name",
    "check_folder",
    "check_key",
    "check_new_affine",
    "check_new_channel",
    "check_new_key",
    "compare_xml",
    "edit_lsfm",
    "is_setup",
    "link_files",
    "open_lsfm",
    "own_space",
    "parse_xml",
    "plan_link",
    "plan_repack",
    "previous_xml",
    "recover_folder",
    "recover_lsfm",
    "repack_file",
    "target_path",
    "verify_file",
    "write_xml",
]
