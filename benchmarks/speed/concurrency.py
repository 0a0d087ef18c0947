"""`defocus-run` of other commits against the present one, turn about: processor time, wall time, and the pixels.

    python -m benchmarks.speed.concurrency [-n 60] [--repetitions 5] [-o docs/results/concurrency.md]

`--commit` names others than those before the concurrency was written anew and before it was made simpler.

Both read the same drawn files (520 x 696, 16-bit, LZW), with a tiny network, where reading and writing take the time,
and with the present default one. Wall time is that between the first and the last file done, processor time that of the
whole process less that of one file, so that the start counts in neither. Every output of both is compared pixel by
pixel, and as bytes where the two commits write the same provenance.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import tifffile

from benchmarks.report import publish, spread, table, write_files
from benchmarks.speed.checkouts import checkout, command, environment
from benchmarks.speed.tiny import write_tiny
from defocus.engine.model.card import model_path

LEAST = 0.98
COMMITS = ("3f57640", "a119d14")  # before the concurrency was written anew, and before it was made simpler


@dataclass(frozen=True)
class Times:
    """Seconds of one run: `wall` between the first and the last file, `processor` of the process."""

    wall: float
    processor: float


def run(tree: Path, scratch: Path, files: list[Path], out: Path, model: str) -> Times:
    """One `defocus-run` of a tree."""
    line = [*command(tree, "run"), *map(str, files), "-o", str(out), "--json", "--model", model, "--backend", "cpu"]
    before = os.times()
    process = subprocess.Popen(line, env=environment(tree, scratch), stdout=subprocess.PIPE, text=True, cwd=scratch)
    assert process.stdout is not None
    moments = []
    for text in process.stdout:
        assert json.loads(text)["status"] == "done", text
        moments.append(time.perf_counter())
    if process.wait():
        raise SystemExit(f"defocus-run of {tree} ended with {process.returncode}")
    after = os.times()
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return Times(moments[-1] - moments[0], used)


def same(first: Path, second: Path) -> tuple[int, int, int]:
    """How many files there are, how many have the same pixels, and how many the same bytes."""
    names = sorted(path.name for path in first.iterdir() if path.suffix == ".tif")
    pixels = sum(np.array_equal(tifffile.imread(first / name), tifffile.imread(second / name)) for name in names)
    return len(names), pixels, sum((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def compare(trees: tuple[Path, Path], scratch: Path, files: list[Path], model: str, repetitions: int) -> list[object]:
    """The row of a network: other over present, the larger the faster the present one."""
    starts = [run(tree, scratch, files[:1], scratch / f"one-{n}", model).processor for n, tree in enumerate(trees)]
    walls, processors, agreement = [], [], (0, 0, 0)
    for repetition in range(repetitions):
        times: dict[int, Times] = {}
        for number in (0, 1) if repetition % 2 else (1, 0):
            shutil.rmtree(scratch / f"out-{number}", ignore_errors=True)
            times[number] = run(trees[number], scratch, files, scratch / f"out-{number}", model)
        agreement = same(scratch / "out-0", scratch / "out-1")
        walls.append(times[0].wall / times[1].wall)
        processors.append((times[0].processor - starts[0]) / (times[1].processor - starts[1]))
    for number in (0, 1):
        shutil.rmtree(scratch / f"one-{number}")
    count, pixels, whole = agreement
    ratios = [f"{median(values):.3f} ({spread(values)})" for values in (walls, processors)]
    return [*ratios, f"{pixels} of {count}", f"{whole} of {count}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", nargs="+", default=COMMITS)
    parser.add_argument("-n", type=int, default=60, help="files for the default network; five times as many for tiny")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("-o", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "in").mkdir()
        files = write_files(scratch / "in", 5 * options.n)
        default, tiny = str(model_path()), str(write_tiny(scratch / "tiny.onnx"))
        rows = []
        for commit in options.commit:
            with checkout(commit, scratch / commit) as other, checkout(".", scratch) as present:
                trees = (other, present)
                for network, model, some in (("default", default, files[: options.n]), ("tiny", tiny, files)):
                    rows.append([commit, network, *compare(trees, scratch, some, model, options.repetitions)])
    head = ("old", "network", "wall, old over new", "processor, old over new", "same pixels", "same bytes")
    parts = [
        f"Commits {' and '.join(options.commit)} against the present one, {options.repetitions} repetitions turn "
        f"about; over 1 the present one is faster, {LEAST} is the least.",
        "Bytes differ where the provenance or the way of writing does.",
        table(head, rows),
    ]
    publish("Several files at once: old against new", parts, options.o)


if __name__ == "__main__":
    main()
