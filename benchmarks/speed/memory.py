"""How much memory `defocus-run` takes: two channels of 2048 x 2048, file after file, and one plane of 20,000 x 20,000.

    python -m benchmarks.speed.memory [--files 6] [--side 20000] [-o docs/results/memory.md]

The most that its process held at once is the kernel's own account of it (VmHWM in /proc, so Linux only). Beside it is
the most that was the process's own (RssAnon, looked at 50 times a second): pages of mapped files count as held too, but
the system takes them back when it needs room. Flat: what it held in the last third of the files over that of the first.
The large plane is drawn (16 bits, uncompressed, 800 MB) and goes through a network so small that it is soon done; what
is held then is pixels, not layers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from benchmarks.report import BARS, Bar, draw_plane, publish, table
from benchmarks.speed.tiny import write_tiny

MOST_GB, FLAT = 1.5, 1.05


@dataclass(frozen=True)
class Footprint:
    """Of one process: GB at most, GB of its own without pages of files, GB after each output, seconds."""

    peak: float
    own: float
    after: list[float]
    seconds: float

    def told(self) -> str:
        """How much of the peak is the process's own, not pages of mapped files that the system may take back."""
        return f"{self.own:.2f} GB private"

    @property
    def growth(self) -> float:
        """The most held in the last third over the most held in the first third."""
        third = max(1, len(self.after) // 3)
        return max(self.after[-third:]) / max(self.after[:third])


def held(process: int, key: str) -> float | None:
    """A line of /proc/PID/status in GB; None when the process has ended."""
    try:
        for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024 / 1e9
    except OSError:
        pass
    return None


def run(source: Path, out: Path, *more: str) -> Footprint:
    """Run defocus-run and look 50 times a second."""
    command = [str(Path(sys.executable).with_name("defocus-run")), str(source), "-o", str(out), *more]
    start, peak, own, after = time.perf_counter(), 0.0, 0.0, []
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = held(process.pid, "VmHWM") or peak
            own = max(own, held(process.pid, "RssAnon") or 0.0)
            done = len(list(out.glob("*.tif"))) if out.exists() else 0
            resident = held(process.pid, "VmRSS")
            if done and resident is not None:
                after += [0.0] * (done - len(after))
                after[-1] = max(after[-1], resident)
            time.sleep(0.02)
        _, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"memory: defocus-run failed: {said.strip()}")
    return Footprint(peak, own, [value for value in after if value] or [peak], time.perf_counter() - start)


def write_two_channels(folder: Path, count: int) -> None:
    """Drawn files of two channels, 2048 x 2048, 16-bit, LZW."""
    folder.mkdir()
    plane = draw_plane((2048, 2048))
    for index in range(count):
        image = np.stack([np.roll(plane, 7 * index, 1), np.roll(plane, 50 + 7 * index, 0)])
        tifffile.imwrite(folder / f"{index:03d}.tif", image, compression="lzw", metadata={"axes": "CYX"})


def write_large(path: Path, side: int) -> float:
    """A drawn plane, repeated to `side` x `side`. Returns its GB."""
    piece = draw_plane((1000, 1000))
    times = -(-side // 1000)
    image = tifffile.memmap(path, shape=(side, side), dtype=np.uint16, metadata={"axes": "YX"})
    row = np.tile(piece, (1, times))[:, :side]
    for top in range(0, side, 1000):
        image[top : top + 1000] = row[: min(1000, side - top)]
    image.flush()
    return path.stat().st_size / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=6, help="of two channels of 2048 x 2048")
    parser.add_argument("--side", type=int, default=20_000, help="of the large plane; 0 leaves it out")
    parser.add_argument("--memory", type=float, default=1.0, help="GB given to defocus-run for the large plane")
    parser.add_argument("--backend", action="append", help="again for more; the default is all on a processor")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    bars, notes = [], []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_two_channels(work / "two", options.files)
        for backend in options.backend or ["cpu", "openvino", "mnn"]:
            found = run(work / "two", work / f"two_{backend}", "--backend", backend)
            bars.append(
                Bar(
                    f"2048 x 2048, two channels, backend {backend}",
                    MOST_GB,
                    found.peak,
                    "GB",
                    spread=found.told(),
                )
            )
            bars.append(Bar(f"the same over {options.files} files: last third over first", FLAT, found.growth))
        if options.side:
            (work / "large").mkdir()
            size = write_large(work / "large" / "large.tif", options.side)
            tiny = str(write_tiny(work / "tiny.onnx"))
            given = ("--backend", "cpu", "--memory", str(options.memory), "--model", tiny)
            found = run(work / "large", work / "large_out", *given)
            what = f"{options.side} x {options.side} ({size:.2f} GB), `--memory {options.memory:g}`"
            bars.append(Bar(what, MOST_GB, found.peak, "GB", spread=found.told()))
            bars.append(Bar("the same, private memory (it cannot be reclaimed)", MOST_GB, found.own, "GB"))
            notes.append(f"The large plane took {found.seconds:.0f} s with the tiny network.")
    publish("Memory", [table(BARS, [bar.cells() for bar in bars]), *notes], options.output)


if __name__ == "__main__":
    main()
