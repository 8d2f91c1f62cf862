"""One way to get a TIFF series into a pyramid, measured: ``python bench_ingest.py <way> <series folder> <output folder>``.

Each way runs in a process of its own, so that its peak memory is its own, and prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from data import VOXEL_SIZE_MM
from isal import isal_zlib

from lsfm_core import IngestRequest, ingest_channel, open_lsfm, pyramid
from lsfm_core.arrays import chunks as codec
from lsfm_core.formats.tiff import TiffSeries
from lsfm_core.pyramid import block_mean, plan_levels
from lsfm_core.store import ChannelWriter
from lsfm_core.threads import default_threads

Array = npt.NDArray[Any]
Result = dict[str, float]

BLOCK_BYTES = 2**20
SMALL_BUDGET = 256 * 10**6
PEER_FACTORS = ((1, 1, 1), (2, 2, 2), (4, 4, 4))


def measured(work: Callable[[], object]) -> Result:
    """Run `work`: wall time, processor time, and of the wall time the part spent in fsync."""
    sync, synced = os.fsync, 0.0

    def timed_fsync(descriptor: int) -> None:
        nonlocal synced
        began = time.perf_counter()
        sync(descriptor)
        synced += time.perf_counter() - began

    os.sync()  # what earlier runs wrote should not be waited for in this one
    os.fsync = timed_fsync
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    os.fsync = sync
    return {"seconds": wall, "cpu_seconds": cpu, "fsync_seconds": synced, "peak_bytes": peak_bytes()}


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def resident_bytes() -> int:
    """Resident size of this process now; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def read_planes(series: Path, pool: ThreadPoolExecutor) -> Array:
    """The whole series, read in threads."""
    files = sorted(series.iterdir())
    first = tifffile.imread(files[0])
    out = np.empty((len(files), *first.shape), first.dtype)

    def read(index: int) -> None:
        out[index] = tifffile.imread(files[index])

    list(pool.map(read, range(len(files))))
    return out


def ours(series: Path, out: Path, memory_bytes: int = 2 * 10**9) -> Result:
    """This project."""
    path = out / "ours.h5"
    path.unlink(missing_ok=True)
    request = IngestRequest(
        path=path, channel="c", image=str(series), voxel_size_mm=VOXEL_SIZE_MM, orientation="AIR", memory_bytes=memory_bytes
    )
    result = measured(lambda: ingest_channel(request))
    return result | {"file_bytes": path.stat().st_size, "budget_bytes": memory_bytes}


def ours_small(series: Path, out: Path) -> Result:
    """This project with little memory."""
    return ours(series, out, SMALL_BUDGET)


def stages(series: Path, out: Path) -> dict[str, Result]:
    """Where our processor time goes: seconds in each stage, over all threads, and the resident size seen when it ended."""
    places: dict[str, tuple[Any, str]] = {
        "read planes": (TiffSeries, "read_plane"),
        "read boxes": (TiffSeries, "read_box"),
        "sum blocks": (pyramid._Mean, "reduce"),
        "means": (pyramid._Mean, "finish"),
        "shuffle": (codec, "_shuffle"),
        "deflate": (codec.isal_zlib, "compress"),
        "digest, and checksums of files": (codec.isal_zlib, "crc32"),
        "checksum": (codec.imagecodecs, "h5checksum_fletcher32"),
        "write": (ChannelWriter, "write_chunk"),
        "sync": (os, "fsync"),
    }
    results: dict[str, Result] = {name: {"cpu_seconds": 0.0, "peak_bytes": 0.0} for name in places}
    lock = threading.Lock()

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            value = work(*arguments, **options)
            spent, resident = time.thread_time() - began, resident_bytes()
            with lock:
                results[name]["cpu_seconds"] += spent
                results[name]["peak_bytes"] = max(results[name]["peak_bytes"], resident)
            return value

        return run

    for name, (owner, attribute) in places.items():
        setattr(owner, attribute, timed(name, getattr(owner, attribute)))
    total = ours_small(series, out)
    return results | {"everything": total}


def floor(series: Path, out: Path) -> Result:
    """What cannot be avoided: read the planes; shuffle, deflate and write as many bytes as all levels have."""
    with ThreadPoolExecutor(default_threads()) as pool:
        image = read_planes(series, pool)
        coarser = [block_mean(image, level.factors) for level in plan_levels(image.shape, VOXEL_SIZE_MM, image.itemsize)[1:]]

        def deflate(block: Array) -> bytes:
            planes = np.empty((2, block.size), np.uint8)
            np.bitwise_and(block, 0xFF, out=planes[0], casting="unsafe")
            np.right_shift(block, 8, out=planes[1], casting="unsafe")
            return bytes(isal_zlib.compress(planes, 1))

        def work() -> None:
            with path.open("wb") as file:
                for array in (read_planes(series, pool), *coarser):
                    flat = array.reshape(-1)
                    step = BLOCK_BYTES // array.itemsize
                    file.writelines(pool.map(deflate, (flat[start : start + step] for start in range(0, flat.size, step))))

        path = out / "floor.bin"
        del image
        result = measured(work) | {"file_bytes": path.stat().st_size}
        path.unlink()
        return result


def npy2bdv(series: Path, out: Path) -> Result:
    """npy2bdv, gzip, three levels."""
    import npy2bdv

    path = out / "npy2bdv.h5"

    def work() -> None:
        with ThreadPoolExecutor() as pool:
            image = read_planes(series, pool)
        writer = npy2bdv.BdvWriter(
            str(path), subsamp=PEER_FACTORS, blockdim=((64, 64, 128),) * 3, compression="gzip", overwrite=True
        )
        writer.append_view(image)
        writer.write_xml()
        writer.close()

    return measured(work) | {"file_bytes": path.stat().st_size}


def pybdv(series: Path, out: Path) -> Result:
    """pybdv, gzip, three levels of means, two threads."""
    from pybdv import make_bdv

    path = out / "pybdv.h5"
    path.unlink(missing_ok=True)
    path.with_suffix(".xml").unlink(missing_ok=True)

    def work() -> None:
        with ThreadPoolExecutor() as pool:
            image = read_planes(series, pool)
        make_bdv(image, str(path), downscale_factors=[[2, 2, 2]] * 2, downscale_mode="mean", chunks=(64, 64, 128), n_threads=2)

    return measured(work) | {"file_bytes": path.stat().st_size}


def gzip6(series: Path, out: Path) -> Result:
    """h5py's gzip 6 with shuffle for the levels of our file: the size to compare with."""
    import h5py

    path = out / "gzip6.h5"

    def work() -> None:
        with open_lsfm(out / "ours.h5") as source, h5py.File(path, "w") as file:
            for level in source["c"].levels:
                array = level.data.read()
                name, chunks = str(level.index), level.data.chunks
                file.create_dataset(name, data=array, chunks=chunks, compression="gzip", compression_opts=6, shuffle=True)

    return measured(work) | {"file_bytes": path.stat().st_size}


WAYS = {way.__name__: way for way in (ours, ours_small, stages, floor, npy2bdv, pybdv, gzip6)}

if __name__ == "__main__":
    print(json.dumps(WAYS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))))
