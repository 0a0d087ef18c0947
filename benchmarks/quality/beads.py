"""The default model on real through-focus stacks of beads: gain over the input at 10, 15, 20 and 25 um.

    python -m benchmarks.quality.beads ../shared/data/beads -o docs/results/beads.md

Real optics of another microscope (20x / 0.75, 1.37 um per pixel); nothing is simulated. The sharpest plane of a stack
is the truth. Input and output are each fitted to it by one scale and one offset, since a defocused bead's light is
spread out and lamp and bleaching change it, and are then compared as PSNR on the scale of the truth's range.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.report import made_with
from defocus import Engine
from defocus.engine.tiff.read import read_tiff
from defocus.training.evaluation.metrics import psnr

DISTANCES_UM = (5, 10, 15, 20, 25)
BORDER = 16  # pixels: planes were registered to one another, their rims are not all real


def read_stacks(folder: Path) -> dict[str, dict[float, np.ndarray]]:
    """Stacks by name, each the planes (Y, X) by distance from the sharpest plane in um, negative below it."""
    with open(folder / "planes.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    stacks: dict[str, dict[float, np.ndarray]] = defaultdict(dict)
    for row in rows:
        stacks[f"{row['field']}_{row['wavelength_slot']}"][float(row["z_position_um"])] = np.squeeze(
            read_tiff(folder / row["file"]).data
        )
    by_distance = {}
    for name, planes in stacks.items():
        focus = max(planes, key=lambda z: planes[z].astype(np.float64).var())
        by_distance[name] = {z - focus: plane for z, plane in planes.items()}
    return by_distance


def fitted(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`image` times the scale plus the offset that bring it nearest to `truth`."""
    flat = image.astype(np.float64).ravel()
    scale, offset = np.polyfit(flat, truth.astype(np.float64).ravel(), 1)
    return image * scale + offset


def measure(stacks: dict[str, dict[float, np.ndarray]], engine: Engine) -> Iterator[tuple[str, float, float, float]]:
    """(stack, distance, PSNR of the input, PSNR of the output) for every plane near one of the distances."""
    inner = (slice(BORDER, -BORDER),) * 2
    for name, planes in stacks.items():
        truth = planes[0.0][inner]
        for z, plane in sorted(planes.items()):
            if any(abs(abs(z) - wanted) < 1.5 for wanted in DISTANCES_UM):
                before, after = (psnr(truth, fitted(image[inner], truth)) for image in (plane, engine(plane)))
                yield name, z, before, after


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("-o", "--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    stacks = read_stacks(options.folder)
    with Engine.load(options.model, backend="cpu") as engine:
        rows = list(measure(stacks, engine))
        made = made_with(engine)
    method = " ".join((__doc__ or "").split("\n\n")[2].split())
    lines = [
        "# The default model on real bead stacks",
        "",
        "    python -m benchmarks.quality.beads BEADS -o docs/results/beads.md",
        "",
        f"{made}.",
        f"{len(stacks)} stacks of two fields. {method}",
        "",
        "| distance (um) | side | planes | input (dB) | output (dB) | gain (dB) | least gain |",
        "|---|---|---|---|---|---|---|",
    ]
    for wanted in DISTANCES_UM:
        for sign, side in ((-1, "below"), (1, "above")):
            near = [(before, after) for _, z, before, after in rows if abs(z - sign * wanted) < 1.5]
            if near:
                before, after = np.array(near).T
                lines.append(
                    f"| {wanted} | {side} | {len(near)} | {before.mean():.2f} | {after.mean():.2f} "
                    f"| {(after - before).mean():+.2f} | {(after - before).min():+.2f} |"
                )
    text = "\n".join([*lines, ""])
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
