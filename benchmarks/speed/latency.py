"""The watcher's latency, close of the file to corrected file, against a bare loop of read + inference + write.

    python -m benchmarks.speed.latency [--images FOLDER] [--files 30] [-o docs/results/latency.md]

Each file goes once through the real defocus-watch and once through the bare loop, by turns in the same run, so that
whatever else the machine does meets both. The specimens are drawn (520 x 696, 16 bits, LZW) unless a folder of images
is given.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import tifffile

from benchmarks.report import made_with, publish, table
from defocus import Engine
from defocus.engine.files.atomic import commit
from defocus.engine.tiff.read import read_tiff, write_tiff
from defocus.training.physics.optics import Camera, Optics, defocus
from defocus.training.physics.specimen import draw_cells


def draw(folder: Path, count: int) -> list[Path]:
    """Write `count` defocused fields of BBBC006's size and kind."""
    rng = np.random.default_rng(0)
    for index in range(count):
        cells = draw_cells((520, 696), rng) * 1500
        seen = Camera(photons_per_count=3.0).expose(defocus(cells, Optics(), rng.uniform(5, 34)), rng)
        tifffile.imwrite(folder / f"field_{index:03d}.tif", seen, compression="lzw")
    return sorted(folder.iterdir())


def bare(source: Path, target: Path, engine: Engine) -> float:
    """Seconds that read, inference and write take and nothing else."""
    start = time.perf_counter()
    stack = read_tiff(source)
    restored = engine(stack.data, stack.axes)
    with commit(target) as temporary:
        write_tiff(stack, [restored], temporary, engine.provenance())
    return time.perf_counter() - start


def watched(source: Path, acquisition: Path, out: Path, timeout: float = 60.0) -> float:
    """Seconds from the close of the file in the acquisition folder until its corrected file is there."""
    shutil.copyfile(source, acquisition / source.name)
    closed = time.perf_counter()
    while not (out / source.name).exists():
        if time.perf_counter() - closed > timeout:
            sys.exit(f"latency: no corrected file for {source.name} after {timeout:.0f} s")
        time.sleep(0.001)
    return time.perf_counter() - closed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=Path, help="folder of TIFFs to use instead of drawn specimens")
    parser.add_argument("--files", type=int, default=30)
    parser.add_argument("--model", default="default")
    parser.add_argument("-o", "--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Engine.load(options.model, backend="cpu") as engine:
        made = made_with(engine)
        work = Path(folder)
        for name in ("images", "acquisition", "bare"):
            (work / name).mkdir()
        sources = sorted(options.images.glob("*.tif")) if options.images else draw(work / "images", options.files)
        out = work / "corrected"
        command = [str(Path(sys.executable).with_name("defocus-watch")), str(work / "acquisition"), "-o", str(out)]
        process = subprocess.Popen([*command, "--model", options.model, "--backend", "cpu"], stdout=subprocess.DEVNULL)
        try:
            watched(sources[0], work / "acquisition", out)  # the first waits for the model: not counted
            bare(sources[0], work / "bare" / sources[0].name, engine)
            loops, latencies = [], []
            for source in sources[1 : options.files]:
                loops.append(bare(source, work / "bare" / source.name, engine))
                time.sleep(0.2)  # the runtime's idle threads spin for a moment and would slow the other process
                latencies.append(watched(source, work / "acquisition", out))
                time.sleep(0.2)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    ratios = sorted(watch / loop for watch, loop in zip(latencies, loops, strict=True))
    tenth = len(ratios) // 10
    rows = [
        ("bare loop, median", f"{median(loops):.3f} s"),
        ("`defocus-watch`, median", f"{median(latencies):.3f} s"),
        ("ratio of the medians", f"{median(latencies) / median(loops):.2f}"),
        ("ratio file by file, 10th to 90th percentile", f"{ratios[tenth]:.2f} to {ratios[-1 - tenth]:.2f}"),
    ]
    method = " ".join((__doc__ or "").split("\n\n")[2].split())
    title = "A single file through the watcher"
    publish(title, [f"{made}.", method, table((f"{len(loops)} files", ""), rows)], options.out)


if __name__ == "__main__":
    main()
