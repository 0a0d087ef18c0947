"""Where the default model fails, as a picture of drawn specimens: input, output, truth.

    python -m benchmarks.quality.failures -o docs/models/default/failures.png

Rows: fine texture 34 um out of focus, a dim plane (20 photons at the peak), two layers 14 um apart, a plane with
brightfield contrast, and a blur that is not defocus (the stage moved during the exposure).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter1d

from defocus import Engine
from defocus.training.evaluation.heldout import CAMERA, OPTICS
from defocus.training.evaluation.metrics import psnr
from defocus.training.physics.optics import defocus
from defocus.training.physics.specimen import draw_cells, draw_filaments

SHAPE, SHOWN, PEAK = (256, 256), 192, 1500.0


def cases() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(title, recorded plane uint16, truth float) of each failure."""
    rng = np.random.default_rng(3)
    texture = draw_filaments(SHAPE, rng, 90) * 400
    yield "fine texture\n34 um", CAMERA.expose(defocus(texture, OPTICS, 34), rng), texture
    cells = draw_cells(SHAPE, rng, 12, 13.0) * PEAK
    dim = cells * (20 / CAMERA.photons_per_count / PEAK)
    yield "20 photons\n16 um", CAMERA.expose(defocus(dim, OPTICS, 16), rng), dim
    other = draw_cells(SHAPE, rng, 12, 13.0) * PEAK
    thick = defocus(cells, OPTICS, 8) + defocus(other, OPTICS, 22)
    yield "two layers\n8 and 22 um", CAMERA.expose(thick, rng), cells + defocus(other, OPTICS, 14)
    bright = 3000 + 6 * (gaussian_filter(cells, 1) - gaussian_filter(cells, 3))
    yield "brightfield\n16 um", CAMERA.expose(defocus(bright, OPTICS, 16), rng), bright
    moved = uniform_filter1d(cells, 31, axis=1)
    yield "moved stage\nin focus", CAMERA.expose(moved, rng), cells


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("-o", "--out", type=Path, required=True, help="PNG to write")
    options = parser.parse_args()
    found = list(cases())
    figure, axes = plt.subplots(len(found), 3, figsize=(6.2, 2.05 * len(found)), layout="constrained")
    margin = (SHAPE[0] - SHOWN) // 2
    window = (slice(margin, margin + SHOWN),) * 2
    with Engine.load(options.model, backend="cpu") as engine:
        for row, (title, seen, truth) in zip(axes, found, strict=True):
            truth = truth + CAMERA.offset
            restored = engine(seen)
            low, high = np.percentile(truth[window], (0.5, 99.8))
            for axis, image in zip(row, (seen, restored, truth), strict=True):
                axis.imshow(image[window], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
                axis.set_xticks([])
                axis.set_yticks([])
                if image is not truth:
                    axis.set_xlabel(f"{psnr(truth[window], image[window]):.1f} dB", fontsize=7)
            row[0].set_ylabel(title, fontsize=8)
    for axis, title in zip(axes[0], ("input", "output", "truth"), strict=True):
        axis.set_title(title, fontsize=9)
    figure.savefig(options.out, dpi=100, metadata={"Software": None})
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
