"""The same weights and images through what people would run instead: speed, memory, seams, what is kept, what breaks.

    python -m benchmarks.speed.peers.peers [-n 40] [--repetitions 5] [--among 200] [--size 2048 2048]
        [-o docs/results/peers.md]

Drawn planes of 520 x 696, or `--size` (16-bit, LZW, OME description). Every way is a process of its own, in an
environment of its own that pip makes from the package index (kept in runs/peers); what each does is a short script
beside this one.

- Images/s: between the first output and the last, so without the start, which is a column of its own. Repetitions are
  interleaved; our speed over theirs is of one repetition, its median and spread stand in the table.
- Planes of more than 2 megapixels go through careamics and bioimageio.core in tiles, through the loops whole.
- Memory: the most that a process and its children held at once (resident, looked at 20 times a second).
- Seams: the largest difference, in counts, between an image of 1072 x 1072 in tiles and whole.
- A broken file: one of `--among` files is cut in half. How many of the others were written, and the exit code.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import tifffile

from benchmarks.report import SHAPE, draw_plane, publish, spread, table, write_files
from benchmarks.speed.peers.ways import OURS, ROOT, Way, make_ways

LARGE = (1072, 1072)
CUT = 2_000_000  # pixels
HEAD = (
    *("tool", "images/s", "our speed over it", "spread", "start to first output, s", "peak memory, MB"),
    *("seams, counts", "type", "OME metadata", "files beside a broken one", "exit then"),
)


@dataclass(frozen=True)
class Run:
    """One run of a way: how fast, how much memory, and how it ended."""

    rate: float
    first: float
    memory: float
    code: int


@dataclass(frozen=True)
class Kept:
    """What is left of a file's type and metadata."""

    dtype: str
    metadata: str


def measured(command: list[str], out: Path, environment: dict[str, str]) -> Run:
    """Run it into the empty folder `out`; the outputs' own times tell the rate."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    start = time.time()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | environment
    )
    peak, over = 0.0, threading.Event()

    def look() -> None:
        nonlocal peak
        while not over.wait(0.05):
            try:
                family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                peak = max(peak, sum(one.memory_info().rss for one in family) / 1e6)
            except psutil.Error:
                continue

    watcher = threading.Thread(target=look)
    watcher.start()
    code = process.wait()
    over.set()
    watcher.join()
    times = sorted(path.stat().st_mtime for path in out.iterdir() if path.is_file())
    rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0
    return Run(rate, times[0] - start if times else float("nan"), peak, code)


def output_of(source: Path, out: Path) -> Path | None:
    """The output of a file, whatever ending it was given."""
    return next(iter(out.glob(f"{source.name.partition('.')[0]}.*")), None)


def kept(source: Path, out: Path) -> Kept:
    """Compare the first file with its output."""
    given = sorted(source.iterdir())[0]
    if (made := output_of(given, out)) is None:
        return Kept("-", "-")
    with tifffile.TiffFile(made) as after, tifffile.TiffFile(given) as before:
        dtype = after.pages.first.dtype
        same = dtype == before.pages.first.dtype
        return Kept("kept" if same else str(dtype), "kept" if "PhysicalSizeX" in (after.ome_metadata or "") else "lost")


def seams(way: Way, source: Path, out: Path, environment: dict[str, str]) -> str:
    """The largest difference of tiled to whole, in counts."""
    if way.tiled is None or way.whole is None:
        return "no tiles"
    results = []
    given = next(source.iterdir())
    for more in (way.whole, way.tiled):
        run = measured(way.filled(source, out, more), out, environment)
        made = output_of(given, out)
        if run.code or made is None:
            return f"failed ({run.code})"
        results.append(tifffile.imread(made).astype(np.float64))
    low, high = np.percentile(tifffile.imread(given), (1, 99.9)) if way.unit else (0.0, 1.0)
    return f"{np.abs(results[1] - results[0]).max() * (high - low):.0f}"


def among(way: Way, source: Path, out: Path, environment: dict[str, str]) -> tuple[str, int]:
    """How many whole files were written beside the broken one, and the exit code."""
    run = measured(way.filled(source, out), out, environment)
    whole = [path for path in source.iterdir() if _readable(path)]
    written = sum(output_of(path, out) is not None for path in whole)
    return f"{written} of {len(whole)}", run.code


def _readable(path: Path) -> bool:
    try:
        tifffile.imread(path)
    except Exception:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, default=40, help="files that are timed")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, default=SHAPE, metavar=("Y", "X"), help="of a plane, px")
    parser.add_argument("--among", type=int, default=200, help="files of which one is broken")
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "peers", help="the environments")
    parser.add_argument("--only", nargs="+", default=[], help="ways whose name holds one of these words, beside ours")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        source, broken, large, out = (scratch / name for name in ("in", "broken", "large", "out"))
        shape = (options.size[0], options.size[1])
        write_files(source, options.n, shape, ome=True)
        cut = write_files(broken, options.among, ome=True)[options.among // 2]
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
        write_files(large, 1, LARGE, ome=True)
        ways, missing = make_ways(scratch, options.cache, draw_plane())
        if options.only:
            ways = [way for way in ways if way.name == OURS or any(word in way.name for word in options.only)]
        # torch.compile's code is kept between processes, as a user's would be.
        environment = {"TORCHINDUCTOR_CACHE_DIR": str(options.cache / "inductor")}
        runs: dict[str, list[Run]] = {way.name: [] for way in ways}
        left = {}

        def timed(way: Way) -> Run:
            tiles = way.tiled if way.cuts and shape[0] * shape[1] > CUT else None
            return measured(way.filled(source, out, tiles or ()), out, environment)

        for way in ways:  # the first run fills the caches: it only tells what is kept
            timed(way)
            left[way.name] = kept(source, out)
        for _ in range(options.repetitions):
            for way in ways:
                runs[way.name].append(timed(way))
        rows = []
        for way in ways:
            mine, ours = runs[way.name], runs[OURS]
            ratios = [our.rate / one.rate for our, one in zip(ours, mine, strict=True) if one.rate]
            written, code = among(way, broken, out, environment)
            rows.append(
                [
                    way.name,
                    f"{median(run.rate for run in mine):.2f}",
                    f"{median(ratios):.2f}" if ratios else "-",
                    spread(ratios) if ratios else "-",
                    f"{median(run.first for run in mine):.1f}",
                    f"{max(run.memory for run in mine):.0f}",
                    seams(way, large, out, environment),
                    left[way.name].dtype,
                    left[way.name].metadata,
                    written,
                    code,
                ]
            )
    notes = "careamics loads no network but its own: ours stands in for its U-Net, and its loop does the rest."
    title = f"Against what people would run instead, planes of {shape[0]} x {shape[1]}"
    publish(title, [table(HEAD, rows), notes, *missing], options.output)


if __name__ == "__main__":
    main()
