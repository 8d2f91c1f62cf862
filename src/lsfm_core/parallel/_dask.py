"""Clusters of Dask's: one that is there, by its address or its scheduler's file, or one on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lsfm_core.errors import InputError, MissingError, StorageError
from lsfm_core.parallel._batches import program_version
from lsfm_core.threads import default_threads

__all__ = ["cluster"]

_LOCAL = "local"
#: For a scheduler to answer, and for the first worker to be there.
_ANSWER_SECONDS, _WORKER_SECONDS = 15, 60


@contextmanager
def cluster(where: str, inputs: Sequence[Path] = ()) -> Iterator[Executor]:
    """An executor whose work Dask shares out.

    Parameters
    ----------
    where : str
        A scheduler's address, the path of its scheduler file, or ``local`` or ``local:N`` for workers on this machine.
    inputs : sequence of Path
        Files that every worker must see.

    Raises
    ------
    InputError
        If Dask is not installed, `where` is none of these, or a worker has another version of this package.
    StorageError
        If nobody answers, or there is no worker; `MissingError` if one does not see a file.
    """
    try:
        import distributed
    except ImportError as error:
        raise InputError("dask: is not installed: pip install 'napari-lsfm[dask]'") from error
    with _client(where, distributed) as client:
        _check_workers(client, where, inputs)
        yield client.get_executor(pure=False)


@contextmanager
def _client(where: str, distributed: Any) -> Iterator[Any]:
    if where == _LOCAL or where.startswith(f"{_LOCAL}:"):
        workers = where.partition(":")[2] or str(default_threads())
        if not workers.isdecimal() or int(workers) < 1:
            raise InputError(f"dask: expected local or local:N with a number of workers, found {where!r}")
        import dask

        with (
            # A profile that nobody looks at takes some hundredths of the processor.
            dask.config.set({"distributed.worker.profile.enabled": False}),
            distributed.LocalCluster(
                n_workers=int(workers), threads_per_worker=1, dashboard_address=None, silence_logs=50, memory_limit=0
            ) as own,
            distributed.Client(own) as client,
        ):
            yield client
        return
    options: dict[str, Any] = {"timeout": _ANSWER_SECONDS}
    if where.endswith(".json"):
        if not Path(where).is_file():
            raise MissingError(f"{where}: no such scheduler file: dask scheduler --scheduler-file {where} makes it")
        options["scheduler_file"] = where
    elif ":" not in where:
        raise InputError(
            f"dask: expected an address such as tcp://node7:8786, a scheduler file (.json), or local:N, found {where!r}"
        )
    else:
        options["address"] = where
    try:
        client = distributed.Client(**options)
    except (OSError, TimeoutError, ValueError) as error:
        raise StorageError(
            f"{where}: no scheduler of Dask's answers there within {_ANSWER_SECONDS} s: is it running (dask scheduler), and within "
            "reach?"
        ) from error
    with client:
        yield client


def _check_workers(client: Any, where: str, inputs: Sequence[Path]) -> None:
    """See that all workers can do the work, before any is begun."""
    from distributed import TimeoutError as DaskTimeoutError

    try:
        client.wait_for_workers(1, timeout=_WORKER_SECONDS)
    except (TimeoutError, DaskTimeoutError) as error:
        raise StorageError(
            f"{where}: has no worker after {_WORKER_SECONDS} s: start some (dask worker), then repeat this"
        ) from error
    wanted = [(str(path.resolve()), path.stat().st_size) for path in inputs]

    # By value: a worker need not have this package, of which it is to tell.
    def look() -> tuple[str, str, list[str]]:
        from importlib import metadata

        try:
            version = metadata.version("napari-lsfm")
        except metadata.PackageNotFoundError:
            version = ""
        lacking = [path for path, size in wanted if not os.path.isfile(path) or os.path.getsize(path) != size]  # noqa: PTH113, PTH202
        return socket.gethostname(), version, lacking

    for address, answer in client.run(look, on_error="return").items():
        if isinstance(answer, BaseException):
            raise StorageError(f"{where}: the worker at {address} cannot be asked: {type(answer).__name__}: {answer}")
        host, version, lacking = answer
        if version != program_version():
            found = f"version {version} of" if version else "no"
            raise InputError(
                f"{where}: the worker at {address} on {host} has {found} napari-lsfm, and this is {program_version()}: install the "
                "same"
            )
        if lacking:
            raise MissingError(
                f"{lacking[0]}: the worker at {address} on {host} does not see it, or sees another: it must lie on a file system "
                "that all share"
            )
