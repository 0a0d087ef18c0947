"""The watcher while files keep coming, at 80 % of what it can do: how much later than a single file.

    python -m benchmarks.speed.stream [--files 60] [--load 0.8] [-o docs/results/stream.md]

One real defocus-watch. First files one by one: the latency of a single one, close to corrected file. Then a batch at
once: its capacity. Then a stream at `--load` of that, an interval that varies by a fifth to either side, as a
microscope's does.
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

from benchmarks.report import BARS, SHAPE, Bar, publish, table, write_files

MOST = 2.5
PATIENCE = 120.0  # s without a new output


class Watched:
    """A running defocus-watch; files are put in and waited for."""

    def __init__(self, acquisition: Path, out: Path) -> None:
        self._acquisition, self._out = acquisition, out
        self._closed: dict[str, float] = {}
        self._seen: dict[str, float] = {}

    def put(self, source: Path, name: str) -> None:
        """Copy a file in under that name; its time runs from now."""
        shutil.copyfile(source, self._acquisition / name)
        self._closed[name] = time.perf_counter()

    def look(self) -> None:
        """Note the outputs that have come."""
        now = time.perf_counter()
        for name in self._closed.keys() - self._seen.keys():
            if (self._out / name).exists():
                self._seen[name] = now

    def wait(self) -> None:
        """Until every file put in is there."""
        since, before = time.perf_counter(), len(self._seen)
        while self._closed.keys() - self._seen.keys():
            time.sleep(0.002)
            self.look()
            if len(self._seen) > before:
                since, before = time.perf_counter(), len(self._seen)
            elif time.perf_counter() - since > PATIENCE:
                sys.exit(f"stream: nothing came for {PATIENCE:.0f} s")

    def take(self) -> list[float]:
        """The latencies since the last call, in the order in which the files were put in."""
        found = [self._seen[name] - closed for name, closed in self._closed.items()]
        self._closed.clear()
        self._seen.clear()
        return found


def stream(watched: Watched, sources: list[Path], interval: float, rng: np.random.Generator) -> list[float]:
    """Latencies of files that come every `interval` seconds, a fifth more or less."""
    due = time.perf_counter()
    for source in sources:
        while time.perf_counter() < due:
            time.sleep(0.002)
            watched.look()
        watched.put(source, f"stream_{source.name}")
        due += interval * rng.uniform(0.8, 1.2)
    watched.wait()
    return watched.take()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=60, help="in the stream; a third as many one by one")
    parser.add_argument("--size", type=int, nargs=2, default=SHAPE, metavar=("Y", "X"), help="of a plane, px")
    parser.add_argument("--load", type=float, default=0.8)
    parser.add_argument("--most", type=float, default=MOST, help="the target: 95th percentile over a single file")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--model", default="default")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sources = write_files(work / "images", options.files, (options.size[0], options.size[1]))
        acquisition, out = work / "acquisition", work / "corrected"
        acquisition.mkdir()
        command = [str(Path(sys.executable).with_name("defocus-watch")), str(acquisition), "-o", str(out)]
        command += ["--model", options.model, "--backend", options.backend]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        watched = Watched(acquisition, out)
        try:
            watched.put(sources[0], "first.tif")  # waits for the model: not counted
            watched.wait()
            watched.take()
            single = []
            few = max(3, options.files // 3)
            for source in sources[:few]:
                watched.put(source, f"single_{source.name}")
                watched.wait()
                single += watched.take()
                time.sleep(0.1)
            start = time.perf_counter()
            for source in sources[:few]:
                watched.put(source, f"batch_{source.name}")
            watched.wait()
            capacity = few / (time.perf_counter() - start)
            watched.take()
            latencies = stream(watched, sources, 1 / (options.load * capacity), np.random.default_rng(0))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    one = median(single)
    ratios = np.array(latencies) / one
    tail = f"median {np.median(ratios):.2f}, most {ratios.max():.2f}"
    what = f"latency at {options.load:.0%} of capacity, 95th percentile over a single file"
    bar = Bar(what, options.most, float(np.percentile(ratios, 95)), "", False, tail)
    note = (
        f"A single file {1e3 * one:.0f} ms (median of {len(single)}), capacity {capacity:.2f} files/s, "
        f"{len(latencies)} files of {options.size[0]} x {options.size[1]} in the stream, backend {options.backend}."
    )
    publish("The watcher under a stream", [table(BARS, [bar.cells()]), note], options.output)


if __name__ == "__main__":
    main()
