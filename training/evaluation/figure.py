"""The comparison figure (input, every method, truth, error maps, a line profile, for each distance) and the scatter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from .methods import Method
from .metrics import data_range, psnr
from .scores import INPUT, Score, methods_in
from .suite import Case, Suite

FORMATS = ("png", "pdf")
ERROR_SHARE = 0.25  # of the truth's range is the end of the error map's scale


def comparison(suite: Suite, field: str, methods: Sequence[Method], out: Path, side: int = 192) -> list[Path]:
    """Draw one field: for each distance a row of images, a row of error maps and a profile. Returns the files.

    Shows the middle `side` x `side` pixels of the first channel; the profile runs along the row of the truth that
    varies most.
    """
    cases = [case for case in suite.cases if case.name == field and case.z_um]
    columns = ["input", *(method.title for method in methods), "truth"]
    figure, axes = plt.subplots(
        3 * len(cases),
        len(columns),
        figsize=(1.9 * len(columns), 5.4 * len(cases)),
        squeeze=False,
        layout="constrained",
    )
    for block, case in enumerate(cases):
        window = _window(case, side)
        truth = case.sharp[0][window]
        images = [case.seen[0][window], *(method.restore(case)[0][window] for method in methods), truth]
        row = int(np.argmax(truth.astype(np.float64).std(axis=1)))
        low, high = np.percentile(truth, (0.5, 99.8))
        for column, (title, image) in enumerate(zip(columns, images, strict=True)):
            image = np.asarray(image, np.float32)
            shown, error, profile = axes[3 * block : 3 * block + 3, column]
            shown.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            figures = "" if title == "truth" else f"\n{psnr(truth, image):.2f} dB"
            shown.set_title(_wrapped(title) + figures, fontsize=7)
            limit = ERROR_SHARE * data_range(truth)
            error.imshow(image - truth, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            shown.axhline(row, color="tab:orange", linewidth=0.4)
            profile.plot(truth[row], color="0.6", linewidth=0.8)
            profile.plot(image[row], color="tab:orange", linewidth=0.8)
            profile.set_ylim(low - 0.1 * (high - low), high + 0.3 * (high - low))
            for axis in (shown, error, profile):
                axis.set_xticks([])
                axis.set_yticks([])
            if column == 0:
                for axis, label in zip((shown, error, profile), (f"{case.z_um} um", "error", "profile"), strict=True):
                    axis.set_ylabel(label, fontsize=8)
    return _save(figure, out, f"figure_{field}")


def scatter(scores: Sequence[Score], out: Path) -> list[Path]:
    """Draw the gain in PSNR of every field, a panel for each distance. Returns the files."""
    before = {(row.field, row.z_um): row.psnr for row in scores if row.method == INPUT}
    names = [name for name in methods_in(scores) if name != INPUT]
    distances = sorted({z for _, z in before if z})
    figure, axes = plt.subplots(
        1,
        len(distances),
        figsize=(3.2 * len(distances), 0.32 * len(names) + 1.2),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, z in zip(axes[0], distances, strict=True):
        for height, name in enumerate(reversed(names)):
            gains = [row.psnr - before[row.field, z] for row in scores if row.method == name and row.z_um == z]
            axis.plot(gains, [height] * len(gains), "o", markersize=3, alpha=0.6)
            axis.plot([np.mean(gains)], [height], "k|", markersize=9)
        axis.axvline(0, color="0.7", linewidth=0.8)
        axis.set_title(f"{z} um", fontsize=9)
        axis.set_xlabel("gain (dB)", fontsize=8)
    axes[0][0].set_yticks(range(len(names)), list(reversed(names)), fontsize=7)
    return _save(figure, out, "scatter")


def _window(case: Case, side: int) -> tuple[slice, slice]:
    height, width = case.sharp.shape[1:]
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    return slice(top, top + side), slice(left, left + side)


def _wrapped(title: str) -> str:
    return title.replace(" (", "\n(").replace(", ", ",\n")


def _save(figure, out: Path, name: str) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{name}.{kind}" for kind in FORMATS]
    for path in paths:
        # Without the date the same figures give the same file.
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
        figure.savefig(path, dpi=60, metadata=metadata)
    plt.close(figure)
    return paths
