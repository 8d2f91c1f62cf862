"""Changing a file as one transaction: with its XML all of it happens, or nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py

from lsfm_core import durable
from lsfm_core.errors import FormatError, LsfmError, StorageError
from lsfm_core.hdf5_damage import changing
from lsfm_core.provenance import Draft, joined, recorded
from lsfm_core.store import _digest
from lsfm_core.store._checks import check_folder
from lsfm_core.store._log import drop_merged, merge_log
from lsfm_core.store._settings import render_settings, write_settings
from lsfm_core.store._xml import parse_xml, read_xml
from lsfm_core.store.editor import LsfmEditor
from lsfm_core.store.file import LsfmFile
from lsfm_core.store.opening import named_xml, open_lsfm, target_path

__all__ = [
    "LIBVER",
    "edit_lsfm",
    "previous_xml",
    "write_xml",
]


#: HDF5 1.10.5, which BigDataViewer carries, reads these; superblock 0 also survives a writer that died.
LIBVER = ("earliest", "v110")


@contextmanager
def edit_lsfm(path: str | os.PathLike[str], *, resume: bool = False, accept: bool = False) -> Iterator[LsfmEditor]:
    """Change a file, or make one: all changes happen when the block ends well, none if it raises or the process dies.

    The BigDataViewer XML beside the file is made anew; or the XML by which the file was named.

    Parameters
    ----------
    path : path
        ``.h5``, or an ``.xml`` that is there.
    resume : bool
        Keep the way to the latest checkpoint if the block is left early, and go on from one that was left; else whatever an
        interrupted change has left is rolled back.
    accept : bool
        Change the file even if it is not what was recorded of it, and record what it is.

    Raises
    ------
    InputError
        If no file of ours can have that name.
    BusyError
        If another program has the file open.
    ChecksumError
        If the file is damaged, or another program has changed our part of it.
    StorageError
        If writing fails, for example on a full disk; the file is as it was before.
    """
    target = target_path(path)
    with joined(target) as draft, _transaction(target, resume, accept, draft, named_xml(path)) as editor:
        yield editor


@contextmanager
def _transaction(target: Path, resume: bool, accept: bool, draft: Draft, xml: Path | None) -> Iterator[LsfmEditor]:
    check_folder(target)
    found: tuple[str, ...] = ()
    if not (resume and durable.waits(target)):
        found = durable.give_up(target)
        if target.exists():
            with open_lsfm(target) as file:
                if not accept:
                    file.check_digests()
    raw = durable.JournaledFile(target, resume=resume)
    xml_partial = durable.xml_partial_path(target)
    try:
        with changing(target):
            h5 = h5py.File(raw, "w" if raw.is_new else "r+", libver=LIBVER)
        try:
            editor = LsfmEditor(target, h5, raw, draft, xml)
            editor.recovered = found
            draft.open(target, xml)
            yield editor
            with changing(target):
                h5.flush()
                raw.check()
                merged: list[Path] | None = [] if not raw.touched else None
                # What goes wrong here is no reason to fail; that the disk is full, `raw.check` tells.
                with suppress(Exception):
                    if raw.touched:
                        merged = merge_log(h5, target, draft.record())
                if raw.touched:
                    _digest.write(h5)
                h5.flush()
                raw.check()
                previous = read_xml(editor.xml_path) if editor.xml_path.exists() else None
                xml_data = editor.render_xml(previous)
                settings = render_settings(xml_data, str(editor.xml_path), editor.channels)
                durable.write_file(xml_partial, durable.waiting_xml(xml_data, target, editor.xml_path))
        except BaseException:
            raw.detach()
            raise
        finally:
            h5.close()
        raw.check()
        raw.commit()
    except BaseException as error:
        if raw.is_committed:
            draft.settled = True
            raise
        raw.rollback(to_checkpoint=resume)
        if not resume:
            xml_partial.unlink(missing_ok=True)
        if isinstance(error, Exception):
            raw.check()  # wins over what HDF5 makes of it
        if isinstance(error, OSError) and not isinstance(error, LsfmError):
            raise StorageError(f"{target}: writing failed: {error}; the file is left as it was") from error
        raise
    if merged is not None:
        draft.settled = True
        drop_merged(target, merged)
    write_settings(editor.xml_path, settings)


def previous_xml(file: LsfmFile, overwrite: bool) -> bytes | None:
    """The XML beside a file, which a new one builds on; None where there is none, or it cannot be read and may give way.

    Raises
    ------
    FormatError
        If it cannot be read, and may not be replaced.
    """
    xml = file.xml_path
    previous = read_xml(xml) if xml.exists() else None
    if previous is not None:
        try:
            parse_xml(previous, str(xml))
        except FormatError as error:
            if not overwrite:
                raise FormatError(f"{error}; --overwrite replaces it by a new one") from error
            file.ignore_xml()
            return None
    return previous


def write_xml(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Make BigDataViewer's XML beside a file anew; what somebody else has put into the one that is there is kept.

    Parameters
    ----------
    path : path
        The HDF5 file.
    overwrite : bool
        Whether an XML that cannot be read gives way; nothing of it is kept.

    Returns
    -------
    Path
        The XML.

    Raises
    ------
    FormatError
        If the XML that is there cannot be read, and may not be replaced; or the HDF5 file is no file of ours or BigDataViewer's.
    BusyError
        If a writer is at work.
    StorageError
    """
    with recorded(Path(path), "xml", {"path": str(path), "overwrite": overwrite}), open_lsfm(path) as file:
        xml, previous = file.xml_path, previous_xml(file, overwrite)
        try:
            data = file.render_xml(previous)
            durable.write_file(xml, data)
        except OSError as error:
            raise StorageError(f"{xml}: cannot be written: {error.strerror}") from error
        write_settings(xml, render_settings(data, str(xml), file.channels))
    return xml
