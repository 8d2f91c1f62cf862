"""Making a file anew, measured: ``python bench_repack.py <way> <folder>``, in which ``ours.h5`` lies.

Level 1 begins with what level 3 has left, for from our file, which is of level 1, it would only copy. Prints one line of JSON; null
where h5repack (Debian's hdf5-tools) is not installed.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench_ingest import Result, measured

from lsfm_core import RepackRequest, repack_file


def ours(path: Path, out: Path, compression: int | None = None) -> Result:
    """This project, with everything read back and compared."""
    result = measured(lambda: repack_file(RepackRequest(path=path, output=out, compression=compression, overwrite=True)))
    return result | {"file_bytes": out.stat().st_size}


def h5repack(path: Path, out: Path, *options: str) -> Result | None:
    """HDF5's own tool."""
    tool = shutil.which("h5repack")
    if tool is None:
        return None
    result = measured(lambda: subprocess.run([tool, *options, str(path), str(out)], check=True))
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return result | {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "file_bytes": out.stat().st_size,
    }


WAYS: dict[str, Callable[[Path, Path], Result | None]] = {
    "copy": ours,
    "level3": lambda path, out: ours(path, out, 3),
    "level2": lambda path, out: ours(path, out, 2),
    "level1": lambda path, out: ours(path.with_name("level3.h5"), out, 1),
    "h5repack_copy": h5repack,
    "h5repack_gzip6": lambda path, out: h5repack(path, out, "-f", "SHUF", "-f", "GZIP=6", "-f", "FLET"),
}

if __name__ == "__main__":
    folder = Path(sys.argv[2])
    print(json.dumps(WAYS[sys.argv[1]](folder / "ours.h5", folder / f"{sys.argv[1]}.h5")))
