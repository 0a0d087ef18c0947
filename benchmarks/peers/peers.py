"""The same weights and images through what people would run instead: speed, memory, what is kept, what breaks.

    python benchmarks/peers/peers.py [-n 40] [--repetitions 5] [-o docs/results/peers.md]

Drawn planes of 520 x 696 (16-bit, LZW, OME description), one of them cut in half. Every way is a process of its own,
start included; repetitions are interleaved, ratios are of one repetition. Peak memory is that of a process with its
children.
The ways are the functions below `ways`, short enough to be judged: each is what its documentation shows.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import tifffile

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SHAPE = (520, 696)


def write_images(folder: Path, count: int) -> None:
    """Drawn planes out of focus; the middle one is cut in half."""
    from defocus.training.heldout import counts_pair
    from defocus.training.suite import drawn_fields

    plane = counts_pair(drawn_fields(1)[0], 22)[0]
    plane = np.pad(
        plane, [(0, max(0, want - have)) for want, have in zip(SHAPE, plane.shape, strict=True)], "symmetric"
    )
    for index in range(count):
        image = np.roll(plane[: SHAPE[0], : SHAPE[1]], 7 * index, 1)
        path = folder / f"{index:03d}.ome.tif"
        tifffile.imwrite(path, image, compression="lzw", metadata={"axes": "YX", "PhysicalSizeX": 0.645})
    broken = folder / f"{count // 2:03d}.ome.tif"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])


def ways(scratch: Path) -> dict[str, list[str]]:
    """Name and command of each way; {in} and {out} are folders."""
    python, bin_ = sys.executable, Path(sys.executable).parent
    package = scratch / "default.zip"
    weights = ROOT / "docs" / "models" / "default" / "weights.pt"
    found = {
        "defocus-run, ONNX Runtime": [str(bin_ / "defocus-run"), "{in}", "-o", "{out}", "--backend", "cpu"],
        "defocus-run, OpenVINO": [str(bin_ / "defocus-run"), "{in}", "-o", "{out}", "--backend", "openvino"],
        "tifffile + ONNX Runtime loop": [python, str(HERE / "plain.py"), "{in}", "{out}"],
        "torch, eager": [python, str(HERE / "with_torch.py"), "{in}", "{out}", str(weights)],
        "a process a file (xargs -P2)": ["sh", str(HERE / "each.sh"), str(bin_ / "defocus-run"), "{in}", "{out}"],
    }
    made = subprocess.run([str(bin_ / "defocus-export"), "default", "--bioimageio", str(package)], capture_output=True)
    if made.returncode == 0:
        found["bioimageio.core"] = [python, str(HERE / "with_bioimageio.py"), "{in}", "{out}", str(package)]
    return found


def measured(command: list[str]) -> tuple[float, float, int]:
    """Wall seconds, peak MB of the process and its children, exit code."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak, over = [0.0], threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            try:
                family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                peak[0] = max(peak[0], sum(one.memory_info().rss for one in family) / 1e6)
            except psutil.Error:
                continue

    watcher = threading.Thread(target=look)
    watcher.start()
    code = process.wait()
    over.set()
    watcher.join()
    return time.perf_counter() - start, peak[0], code


def kept(source: Path, out: Path) -> dict[str, str]:
    """What is left of type and metadata, and of the files beside the broken one."""
    whole = [path for path in sorted(source.iterdir()) if _readable(path)]
    there = [out / path.name for path in whole if (out / path.name).exists()]
    if not there:
        return {"files": f"0 of {len(whole)}", "type": "-", "metadata": "-"}
    with tifffile.TiffFile(there[0]) as made, tifffile.TiffFile(whole[0]) as given:
        same = made.pages.first.dtype == given.pages.first.dtype
        ome = "PhysicalSizeX" in (made.ome_metadata or "")
        return {
            "files": f"{len(there)} of {len(whole)}",
            "type": "kept" if same else str(made.pages.first.dtype),
            "metadata": "kept" if ome else "lost",
        }


def _readable(path: Path) -> bool:
    try:
        tifffile.imread(path)
        return True
    except Exception:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        source, out = scratch / "in", scratch / "out"
        source.mkdir()
        write_images(source, options.n)
        commands = ways(scratch)
        runs: dict[str, list[tuple[float, float, int]]] = {name: [] for name in commands}
        left: dict[str, dict[str, str]] = {}
        for _ in range(options.repetitions):
            for name, command in commands.items():
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir()
                filled = [part.replace("{in}", str(source)).replace("{out}", str(out)) for part in command]
                runs[name].append(measured(filled))
                left[name] = kept(source, out)
    ours = [seconds for seconds, _, _ in runs["defocus-run, ONNX Runtime"]]
    lines = [
        "| way | time a file, relative to ours | spread | peak memory, MB | files beside a broken one | type "
        "| OME metadata | exit |",
        "| --- " * 8 + "|",
    ]
    for name, found in runs.items():
        # A way that ends at the broken file has written only those before it.
        share = int(left[name]["files"].split()[0]) / int(left["defocus-run, ONNX Runtime"]["files"].split()[0])
        ratios = sorted(one[0] / our / share if share else np.inf for one, our in zip(found, ours, strict=True))
        cells = [
            name,
            f"{median(ratios):.2f}",
            f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
            f"{max(r[1] for r in found):.0f}",
        ]
        cells += [left[name][key] for key in ("files", "type", "metadata")]
        lines.append(f"| {' | '.join([*cells, str(found[-1][2])])} |")
    per_second = (options.n - 1) / median(ours)
    text = "\n".join(lines) + f"\n\ndefocus-run: {per_second:.2f} images/s with its start, {os.cpu_count()} cores.\n"
    print(text)
    print(json.dumps(runs))
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
