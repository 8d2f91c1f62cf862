"""How long the program takes to start: ``python benchmarks/bench_start.py``. Processor time, the least of several runs."""

from __future__ import annotations

import resource
import subprocess
import sys

#: What is started, and the most that it may take, in seconds of the processor.
STARTS = {
    "python, nothing imported": (["-c", ""], None),
    "import lsfm_core": (["-c", "import lsfm_core"], 0.05),
    "lsfm-core --help": (["-m", "lsfm_core.cli", "--help"], 0.1),
    "lsfm-core write --help": (["-m", "lsfm_core.cli", "write", "--help"], None),
}


def seconds(arguments: list[str], repeats: int = 7) -> float:
    """Processor time of a Python that is started with these arguments; the least, since all that is added is noise."""
    taken = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def main() -> None:
    """Print the table."""
    print("| start | processor s | beside Python's own | goal |\n| --- | --- | --- | --- |")
    bare = None
    for name, (arguments, goal) in STARTS.items():
        took = seconds(arguments)
        bare = took if bare is None else bare
        verdict = "" if goal is None else f"{goal:g}: {'met' if took <= goal else 'missed'}"
        print(f"| {name} | {took:.3f} | {took - bare:.3f} | {verdict} |")


if __name__ == "__main__":
    main()
