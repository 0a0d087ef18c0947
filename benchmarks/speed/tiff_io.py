"""Reading and writing a TIFF: another commit against the present one, turn about; processor time and wall time.

    python -m benchmarks.speed.tiff_io [--commit 3f57640] [--repetitions 7] [-o docs/results/tiff_io.md]

Every pixel of a drawn file is replaced by another one, and no network is in between. A process of each commit takes a
file `-n` times after a first time that does not count; ratios are those of two processes that ran one after the other,
and which of them begins alternates. That both outputs have the same pixels is checked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tifffile

from benchmarks.report import SHAPE, draw_plane, publish, spread, table
from benchmarks.speed.checkouts import checkout, environment

COMMIT = "3f57640"
LEAST = 0.98
CHILD = """
import json, sys, time
from dataclasses import replace
path, out, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
try:
    from defocus.engine.tiff.read import read_tiff, write_tiff
except ImportError:
    from defocus.engine import tiff
    read_tiff = tiff.read
    def write_tiff(file, images, out, provenance):
        tiff.write(replace(file, data=images[0]), out, provenance)
walls, processors = [], []
for _ in range(count + 1):
    wall, processor = time.perf_counter(), time.process_time()
    file = read_tiff(path)
    read = time.perf_counter() - wall, time.process_time() - processor
    pixels = file.data[..., ::-1, :].copy()
    wall, processor = time.perf_counter(), time.process_time()
    write_tiff(file, [pixels], out, {"software": "benchmark"})
    walls.append(time.perf_counter() - wall + read[0])
    processors.append(time.process_time() - processor + read[1])
print(json.dumps([sum(walls[1:]) / count, sum(processors[1:]) / count]))
"""


def times(tree: Path, scratch: Path, path: Path, out: Path, count: int) -> tuple[float, float]:
    """Wall and processor time of one read and one write, in seconds."""
    line = [sys.executable, "-c", CHILD, str(path), str(out), str(count)]
    done = subprocess.run(
        line, env=environment(tree, scratch), capture_output=True, text=True, cwd=scratch, check=False
    )
    if done.returncode:
        raise SystemExit(f"{tree}: {done.stderr}")
    wall, processor = json.loads(done.stdout)
    return wall, processor


def compare(trees: tuple[Path, Path], scratch: Path, name: str, path: Path, count: int, repetitions: int) -> list[str]:
    """A row of the table: old over new, the larger the faster the present commit."""
    outs = scratch / f"old-{path.name}", scratch / f"new-{path.name}"
    found = []
    for repetition in range(repetitions):
        pair: dict[int, tuple[float, float]] = {}
        for number in (0, 1) if repetition % 2 else (1, 0):
            pair[number] = times(trees[number], scratch, path, outs[number], count)
        found.append((pair[0], pair[1]))
    if not np.array_equal(tifffile.imread(outs[0]), tifffile.imread(outs[1])):
        raise SystemExit(f"{name}: the outputs have different pixels")
    for out in outs:
        out.unlink()
    ratios = [[old[kind] / new[kind] for old, new in found] for kind in (1, 0)]
    milliseconds = [f"{1000 * median(pair[number][1] for pair in found):.1f}" for number in (0, 1)]
    return [name, *(f"{median(values):.2f} ({spread(values)})" for values in ratios), *milliseconds]


def draw(folder: Path, planes: int) -> list[tuple[str, Path, int]]:
    """Name, path and repetitions in a process of each kind of file."""
    field, camera = draw_plane(SHAPE), draw_plane((2048, 2048))
    stack = np.stack([np.roll(field, 7 * number, 1) for number in range(planes)])
    size = f"{SHAPE[0]} x {SHAPE[1]}"
    grey: dict[str, Any] = {"photometric": "minisblack"}
    kinds: list[tuple[str, str, np.ndarray, dict[str, Any], int]] = [
        (f"{size}, LZW", "field", field, {"compression": "lzw", **grey}, 20),
        ("2048 x 2048, uncompressed", "camera", camera, grey, 20),
        (f"{planes} planes of {size}, uncompressed, OME", "stack.ome", stack, {"metadata": {"axes": "ZYX"}, **grey}, 2),
        (f"{planes} planes of {size}, LZW", "stack", stack, {"compression": "lzw", "metadata": None, **grey}, 1),
    ]
    for _, stem, data, arguments, _ in kinds:
        tifffile.imwrite(folder / f"{stem}.tif", data, **arguments)
    return [(name, folder / f"{stem}.tif", count) for name, stem, _, _, count in kinds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", default=COMMIT, help=". compares the present checkout with itself")
    parser.add_argument("-n", type=int, help="times that a process takes a file (20 for planes, 1 or 2 for stacks)")
    parser.add_argument("--planes", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("-o", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "in").mkdir()
        with checkout(options.commit, scratch / "other") as other, checkout(".", scratch) as present:
            rows = [
                compare((other, present), scratch, kind, path, options.n or count, options.repetitions)
                for kind, path, count in draw(scratch / "in", options.planes)
            ]
    head = ("file, 16 bits", "processor, old over new", "wall, old over new", "old, ms", "new, ms")
    parts = [
        f"Commit {options.commit} against the present one, {options.repetitions} repetitions turn about; over 1 the "
        f"present one is faster, {LEAST} is the least.",
        "Median (least to most); ms are of processor time, read and write together.",
        table(head, rows),
    ]
    publish("Reading and writing: old against new", parts, options.o)


if __name__ == "__main__":
    main()
