"""A stack of many planes in one file against as many files of one plane: planes a second of `defocus-run`.

    python -m benchmarks.speed.stack [-n 500] [--size 520 696] [--repetitions 3] [--backend auto]
        [--model default] [-o FILE]

Drawn planes out of focus, 16-bit, LZW, the same in both. Each is a process of its own, start included; repetitions are
interleaved, and the bar is the median of the ratios.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import tifffile

from benchmarks.report import BARS, SHAPE, Bar, publish, spread, table, write_files

LEAST = 1.0


def planes_a_second(source: Path, out: Path, count: int, *more: str) -> float:
    """Of one run into an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    program = str(Path(sys.executable).with_name("defocus-run"))
    start = time.perf_counter()
    command = [program, str(source), "-o", str(out), *more]
    subprocess.run(command, check=True, capture_output=True)
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, default=500, help="planes")
    parser.add_argument("--size", type=int, nargs=2, default=SHAPE, metavar=("Y", "X"), help="of a plane, px")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--model", default="default")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    more = ("--backend", options.backend, "--model", options.model)
    with tempfile.TemporaryDirectory() as folder:
        files, stack, out = (Path(folder, name) for name in ("files", "stack", "out"))
        paths = write_files(files, options.n, (options.size[0], options.size[1]))
        stack.mkdir()
        planes = np.stack([tifffile.imread(path) for path in paths])
        tifffile.imwrite(stack / "stack.tif", planes, compression="lzw", metadata={"axes": "TYX"})
        rates: dict[Path, list[float]] = {files: [], stack: []}
        for source in rates:  # fills the caches
            planes_a_second(source, out, options.n, *more)
        for _ in range(options.repetitions):
            for source, found in rates.items():
                found.append(planes_a_second(source, out, options.n, *more))
    ratios = [one / other for one, other in zip(rates[stack], rates[files], strict=True)]
    what = f"planes a second of one stack of {options.n} over {options.n} files, {options.size[0]} x {options.size[1]}"
    bar = Bar(what, LEAST, median(ratios), "", True, spread(ratios))
    absolute = ", ".join(f"{source.name} {median(found):.2f}" for source, found in rates.items())
    publish(
        "One stack against many files", [table(BARS, [bar.cells()]), f"Planes a second: {absolute}."], options.output
    )


if __name__ == "__main__":
    main()
