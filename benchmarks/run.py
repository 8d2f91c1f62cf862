"""Run the benchmarks and print their tables: ``python benchmarks/run.py [--quick] [--cache FOLDER]``.

Every measurement runs in a process of its own. Compared are only numbers of one run: each way is repeated in turns with the others,
and medians are taken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "latest.json"
PACKAGES = ("napari-lsfm", "numpy", "h5py", "isal", "imagecodecs", "tifffile", "SimpleITK", "numba", "npy2bdv", "pybdv", "antspyx")
PLANE_BYTES = 772 * 1084 * 2
PLANES = 512
SIZES_GB = (0.25, 0.5, 1, 2, 4)

Result = dict[str, float]


def child(script: str, *arguments: str | Path | int) -> Any:
    """What a script prints as its last line, which is JSON."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def median(results: list[Result]) -> Result:
    """Medians of each quantity."""
    return {key: statistics.median(result[key] for result in results) for key in results[0]}


def bench_ingest(series: Path, out: Path, repeats: int) -> dict[str, Result]:
    """All ways to make a pyramid; the slow ones once."""
    rounds: dict[str, list[Result]] = {"ours": [], "ours_small": [], "floor": []}
    for _ in range(repeats):
        for way, results in rounds.items():
            results.append(child("bench_ingest.py", way, series, out))
    return {way: median(results) for way, results in rounds.items()} | {
        way: child("bench_ingest.py", way, series, out) for way in ("npy2bdv", "pybdv", "gzip6")
    }


def bench_export(file: Path, out: Path, repeats: int) -> dict[str, Result]:
    """All ways to take voxels out; ANTsPy and the large field once."""
    child("bench_export.py", "prepare", file, out)
    turns = ("transformed", "transformed_array", "simpleitk", "coarse", "coarse_simpleitk", "cuboid", "native", "native_read")
    rounds: dict[str, list[Result]] = {way: [] for way in turns}
    for _ in range(repeats):
        for way, results in rounds.items():
            results.append(child("bench_export.py", way, file, out))
    results = {way: median(runs) for way, runs in rounds.items()} | {"antspy": child("bench_export.py", "antspy", file, out)}
    child("bench_export.py", "prepare_fine", file, out)
    return results | {"fine_warp": child("bench_export.py", "fine_warp", file, out)}


def bench_large_export(file: Path, out: Path, repeats: int) -> dict[str, Result]:
    """Of a file that is larger than the budget."""
    child("bench_export.py", "prepare", file, out)
    cuboids = [child("bench_export.py", "cuboid", file, out) for _ in range(repeats)]
    return {"large": child("bench_export.py", "large", file, out), "cuboid": median(cuboids)}


def bench_repack(out: Path, repeats: int) -> dict[str, Result]:
    """All ways to make our file anew that there are here; the slow one once."""
    ways = ("copy", "level3", "level2", "level1", "h5repack_copy")
    rounds: dict[str, list[Result]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, results in rounds.items():
            results.append(child("bench_repack.py", way, out))
    rounds["h5repack_gzip6"] = [child("bench_repack.py", "h5repack_gzip6", out)]
    return {way: median(results) for way, results in rounds.items() if None not in results}


def bench_sizes(cache: Path, out: Path, sizes_gb: tuple[float, ...], repeats: int) -> dict[str, Result]:
    """Our ingest for growing images."""
    results = {}
    for size in sizes_gb:
        planes = round(size * 1e9 / PLANE_BYTES)
        series = child("data.py", cache, planes)
        runs = [child("bench_ingest.py", "ours_small", series, out) for _ in range(repeats)]
        results[f"{size:g}"] = median(runs) | {"raw_bytes": float(planes * PLANE_BYTES)}
    return results


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def ingest_table(results: dict[str, Result]) -> str:
    """One row for each way."""
    ours, raw = results["ours"], PLANES * PLANE_BYTES
    titles = {
        "ours": "lsfm-core",
        "ours_small": "lsfm-core, 256 MB budget",
        "floor": "floor: read + deflate + write",
        "npy2bdv": "npy2bdv gzip, 3 levels",
        "pybdv": "pybdv gzip, 3 levels, 2 threads",
        "gzip6": "h5py gzip 6 + shuffle, our levels",
    }
    rows = [
        (
            title,
            f"{r['seconds']:.2f}",
            f"{r['seconds'] / ours['seconds']:.2f}",
            f"{raw / r['seconds'] / 1e6:.0f}",
            f"{r['cpu_seconds']:.2f}",
            f"{r['cpu_seconds'] / r['seconds']:.2f}",
            f"{r['fsync_seconds'] / r['seconds']:.0%}",
            f"{r['peak_bytes'] / 1e6:.0f}",
            f"{r['file_bytes'] / 1e6:.0f}",
        )
        for way, title in titles.items()
        for r in (results[way],)
    ]
    return table(("ingest", "s", "time / ours", "MB/s", "processor s", "cores", "in fsync", "peak MB", "file MB"), rows)


def stages_table(results: dict[str, Result]) -> str:
    """One row for each stage of our ingest."""
    total = results["everything"]["cpu_seconds"]
    rows = [
        (
            stage,
            f"{r['cpu_seconds']:.2f}",
            f"{r['cpu_seconds'] / total:.0%}",
            f"{PLANES * PLANE_BYTES / r['cpu_seconds'] / 1e6:.0f}" if r["cpu_seconds"] else "",
            f"{r['peak_bytes'] / 1e6:.0f}",
        )
        for stage, r in results.items()
    ]
    return table(("stage, 256 MB budget", "processor s", "share", "MB/s of image", "peak MB"), rows)


def sizes_table(results: dict[str, Result]) -> str:
    """One row for each size."""
    rates = ("seconds", "cpu_seconds")
    rows = [
        (
            f"{size} GB",
            f"{r['seconds']:.2f}",
            *(f"{r[key] / r['raw_bytes'] * 1e9:.2f}" for key in rates),
            f"{r['peak_bytes'] / 1e6:.0f}",
        )
        for size, r in results.items()
    ]
    return table(("ingest, 256 MB budget", "s", "s / GB", "processor s / GB", "peak MB"), rows)


def repack_table(results: dict[str, Result]) -> str:
    """One row for each way; h5repack's are left out where it is not installed."""
    titles = {
        "copy": "lsfm-core, as it is",
        "level3": "lsfm-core, level 3",
        "level2": "lsfm-core, level 2",
        "level1": "lsfm-core, level 1",
        "h5repack_copy": "h5repack, as it is",
        "h5repack_gzip6": "h5repack, gzip 6",
    }
    slowest = results.get("h5repack_gzip6")
    rows = []
    for way, title in titles.items():
        if way not in results:
            rows.append((title, "h5repack (hdf5-tools) is not installed", "", "", "", "", ""))
            continue
        r = results[way]
        rows.append(
            (
                title,
                f"{r['seconds']:.2f}",
                f"{slowest['seconds'] / r['seconds']:.1f}x" if slowest else "",
                f"{r['cpu_seconds']:.2f}",
                f"{slowest['cpu_seconds'] / r['cpu_seconds']:.1f}x" if slowest else "",
                f"{r['peak_bytes'] / 1e6:.0f}",
                f"{r['file_bytes'] / 1e6:.0f}" + (f" ({r['file_bytes'] / slowest['file_bytes']:.3f})" if slowest else ""),
            )
        )
    return table(("repack", "s", "faster than gzip 6", "processor s", "less than gzip 6", "peak MB", "file MB"), rows)


def read_table(results: dict[str, Result]) -> str:
    """One row for each piece; times in ms, and how much longer h5py takes."""
    columns = ("ours cold", "h5py cold", "h5py 256 MiB cold", "ours warm", "h5py warm", "h5py 256 MiB warm")
    rows = []
    for piece, r in results.items():
        cells = [f"{r[column] * 1e3:.2f}" for column in columns]
        for place in (1, 2, 4, 5):
            cells[place] += f" ({r[columns[place]] / r[columns[place // 3 * 3]]:.1f}x)"
        rows.append((piece, *cells))
    return table(("read, ms", *columns), rows)


def transformed_table(results: dict[str, Result]) -> str:
    """One row for each way through an affine and a displacement field; peers with and without reading the image."""
    ours = results["transformed"]
    titles = {
        "transformed": "lsfm-core, to .nii",
        "transformed_array": "lsfm-core, to an array",
        "simpleitk": "SimpleITK, one call",
        "antspy": "ANTsPy, one call",
    }
    rows = [
        (
            title,
            f"{r['seconds']:.2f}",
            f"{r['seconds'] / ours['seconds']:.2f}",
            f"{r['cpu_seconds']:.2f}",
            f"{r['cpu_seconds'] / ours['cpu_seconds']:.2f}",
            f"{ours['voxels'] / r['seconds'] / 1e6:.1f}",
            f"{r['peak_bytes'] / 1e6:.0f}",
            f"{r['max_difference']:.0f}" if "max_difference" in r else "",
        )
        for way, title in titles.items()
        for r in (results[way],)
    ]
    one_call = results["simpleitk"]
    both = {key: one_call[key] + one_call[f"read_{key}"] for key in ("seconds", "cpu_seconds")}
    both_row = (
        "SimpleITK, and reading the level before",
        f"{both['seconds']:.2f}",
        f"{both['seconds'] / ours['seconds']:.2f}",
        f"{both['cpu_seconds']:.2f}",
        f"{both['cpu_seconds'] / ours['cpu_seconds']:.2f}",
        f"{ours['voxels'] / both['seconds'] / 1e6:.1f}",
        "",
        "",
    )
    rows.insert(3, both_row)
    head = (f"affine + field, {ours['voxels'] / 1e6:.0f} Mvoxel", "s", "s / ours", "processor s", "processor s / ours")
    return table((*head, "Mvoxel/s", "peak MB", "largest difference"), rows)


def export_table(results: dict[str, Result], large: dict[str, Result]) -> str:
    """One row for each other export."""
    one_call = results["coarse_simpleitk"]
    one_call = one_call | {key: one_call[key] + one_call[f"read_{key}"] for key in ("seconds", "cpu_seconds")}
    listed = {
        "whole image at 25 µm, to .nii.gz": results["coarse"],
        "- read the level + one call of SimpleITK": one_call,
        "0.5 mm cuboid": results["cuboid"],
        "- of the largest file": large["cuboid"],
        "every voxel as it is, to .nii": results["native"],
        "- read the level only": results["native_read"],
        f"through a field of {results['fine_warp']['field_bytes'] / 1e9:.1f} GB": results["fine_warp"],
        "affine + field, largest file": large["large"],
    }
    rows = [
        (
            title,
            f"{r['seconds']:.3f}",
            f"{r['cpu_seconds']:.3f}",
            f"{r['voxels'] / 1e6:.1f}" if "voxels" in r else "",
            f"{r['output_bytes'] / r['seconds'] / 1e6:.0f}" if "output_bytes" in r else "",
            f"{r['budget_bytes'] / 1e6:.0f}" if "budget_bytes" in r else "",
            f"{r['peak_bytes'] / 1e6:.0f}",
        )
        for title, r in listed.items()
    ]
    return table(("export", "s", "processor s", "Mvoxel out", "MB/s out", "budget MB", "peak MB"), rows)


def goals_table(results: dict[str, Any]) -> str:
    """Each goal that is a ratio, and what this run says: by the clock, and in processor time, which says more on a busy machine."""
    ingest, export, read, loops = (results[key] for key in ("ingest", "export", "read", "loops"))
    ours, carried = ingest["ours"], export["transformed"]

    def both(a: Result, b: Result) -> tuple[float, float]:
        return a["seconds"] / b["seconds"], a["cpu_seconds"] / b["cpu_seconds"]

    listed: list[tuple[str, str, float, float | None]] = [
        ("ingest / floor", "at most 1.3", *both(ours, ingest["floor"])),
        ("npy2bdv / ingest", "at least 12", *both(ingest["npy2bdv"], ours)),
        ("pybdv / ingest", "at least 10", *both(ingest["pybdv"], ours)),
        ("file / gzip 6", "at most 1.03", ours["file_bytes"] / ingest["gzip6"]["file_bytes"], None),
        ("h5py's cold plane / ours", "at least 3", read["plane z"]["h5py cold"] / read["plane z"]["ours cold"], None),
        ("ANTsPy / affine + field", "at least 5", *both(export["antspy"], carried)),
        ("SimpleITK / affine + field", "at least 2.5", *both(export["simpleitk"], carried)),
        ("points, millions a second of a core", "at least 1.5", loops["points"]["loops"], None),
        ("numeric inversion, loops / numpy", "at least 5, numpy having become twice as fast", loops["inverse"]["ratio"], None),
        ("modes, loops / numpy", "at least 3", loops["modes"]["ratio"], None),
    ]
    rows = [(what, goal, f"{wall:.2f}", "" if cpu is None else f"{cpu:.2f}") for what, goal, wall, cpu in listed]
    return table(("goal", "", "this run", "in processor time"), rows)


def main() -> None:
    """Run all and print the tables."""
    parser = argparse.ArgumentParser(description="Measure ingest, reading and export against other programs.")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, no 4 GB image")
    parser.add_argument("--cache", type=Path, help="folder to keep the generated planes in; default: a temporary one")
    options = parser.parse_args()
    repeats = 1 if options.quick else 5
    with tempfile.TemporaryDirectory(prefix="lsfm-bench-") as temporary:
        out = Path(temporary) / "out"
        out.mkdir()
        cache = options.cache or Path(temporary)
        cache.mkdir(parents=True, exist_ok=True)
        series = child("data.py", cache, PLANES)
        results: dict[str, Any] = {
            "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
            "load_before": os.getloadavg()[0],
            "versions": {name: metadata.version(name) for name in PACKAGES},
            "ingest": bench_ingest(series, out, 1 if options.quick else 9),
            "stages": child("bench_ingest.py", "stages", series, out),
            "read": child("bench_read.py", out / "ours.h5", 5 if options.quick else 15),
            # Before the exports, which put their fields into the same file.
            "repack": bench_repack(out, min(repeats, 3)),
            "loops": child("bench_loops.py"),
            "export": bench_export(out / "ours.h5", out, repeats),
            "sizes": bench_sizes(cache, out, SIZES_GB[:-1] if options.quick else SIZES_GB, min(repeats, 3)),
        }
        # The last of the sizes has left its file.
        results["large_export"] = bench_large_export(out / "ours.h5", out, repeats)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(
        ingest_table(results["ingest"]),
        stages_table(results["stages"]),
        sizes_table(results["sizes"]),
        read_table(results["read"]),
        transformed_table(results["export"]),
        export_table(results["export"], results["large_export"]),
        repack_table(results["repack"]),
        goals_table(results),
        sep="\n",
    )


if __name__ == "__main__":
    main()
