"""The comparison figure (two distances; a field, a zoom, error maps, a line profile) and the scatter of all fields."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from .heldout import OPTICS
from .methods import Method
from .metrics import data_range, psnr
from .scores import INPUT, Score, methods_in
from .suite import Case, Suite

FORMATS = ("png", "pdf")
ERROR_SHARE = 0.25  # of the truth's range is the end of the error map's scale
SHOWN = ("rl", "care", "residual-4", "default")  # of many methods, so that the panels are large enough to be read
SHOWN_UM = (16, 28)
BAR_UM = 20


def comparison(suite: Suite, field: str, methods: Sequence[Method], out: Path, side: int = 192) -> list[Path]:
    """Draw one field at two distances: rows of images, of a zoom, of error maps and of a profile. Returns the files.

    Columns are the input, Richardson-Lucy, CARE, N = 4 as in the paper and the model in the package, as far as
    `methods` has them (all of it if it has none), and the truth. Shows the middle `side` x `side` pixels of the first
    channel; the zoom is the part of the truth that varies most, and so is the row of the profile.
    """
    chosen = [method for method in methods if method.name in SHOWN] or list(methods)
    columns = ["input", *(method.title for method in chosen), "truth"]
    cases = _cases(suite, field)
    figure, axes = plt.subplots(
        4 * len(cases),
        len(columns),
        figsize=(2.0 * len(columns), 7.4 * len(cases)),
        height_ratios=(1, 1, 1, 0.6) * len(cases),
        squeeze=False,
        layout="constrained",
    )
    for block, case in enumerate(cases):
        window = _window(case, side)
        truth = case.sharp[0][window]
        images = [case.seen[0][window], *(method.restore(case)[0][window] for method in chosen), truth]
        row = int(np.argmax(truth.astype(np.float64).std(axis=1)))
        top, left, width = _richest(truth)
        low, high = np.percentile(truth, (0.5, 99.8))
        limit = ERROR_SHARE * data_range(truth)
        for column, (title, image) in enumerate(zip(columns, images, strict=True)):
            image = np.asarray(image, np.float32)
            shown, zoomed, error, profile = axes[4 * block : 4 * block + 4, column]
            for axis, part in ((shown, image), (zoomed, image[top : top + width, left : left + width])):
                axis.imshow(part, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            figures = "" if title == "truth" else f"\n{psnr(truth, image):.2f} dB"
            shown.set_title(_wrapped(title) + figures, fontsize=9)
            shown.add_patch(Rectangle((left - 0.5, top - 0.5), width, width, fill=False, color="tab:orange"))
            shown.axhline(row, color="tab:orange", linewidth=0.5)
            error.imshow(image - truth, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            profile.plot(truth[row], color="0.6", linewidth=1)
            profile.plot(image[row], color="tab:orange", linewidth=1)
            profile.set_ylim(low - 0.1 * (high - low), high + 0.3 * (high - low))
            for axis in (shown, zoomed, error, profile):
                axis.set_xticks([])
                axis.set_yticks([])
        labels = (f"{case.z_um:g} um", "zoom", f"error, ±{ERROR_SHARE:.0%}", "profile")
        for axis, label in zip(axes[4 * block : 4 * block + 4, 0], labels, strict=True):
            axis.set_ylabel(label, fontsize=9)
        _scale_bar(axes[4 * block, 0], truth.shape)
    return _save(figure, out, f"figure_{field}")


def _cases(suite: Suite, field: str) -> list[Case]:
    """The field at the distances that are shown, or as near to them as it has them; none twice."""
    cases = {case.z_um: case for case in suite.cases if case.name == field and case.z_um}
    nearest = dict.fromkeys(min(cases, key=lambda z: abs(z - wanted)) for wanted in SHOWN_UM)
    return [cases[z] for z in nearest]


def _richest(truth: np.ndarray) -> tuple[int, int, int]:
    """(top, left, width) of the third of a plane (Y, X) that varies most."""
    width = min(truth.shape) // 3
    places = [
        (y, x)
        for y in range(0, truth.shape[0] - width + 1, max(1, width // 2))
        for x in range(0, truth.shape[1] - width + 1, max(1, width // 2))
    ]
    top, left = max(places, key=lambda at: float(truth[at[0] : at[0] + width, at[1] : at[1] + width].std()))
    return top, left, width


def _scale_bar(axis: Axes, shape: tuple[int, ...]) -> None:
    length = BAR_UM / OPTICS.pixel_um
    y, x = 0.92 * shape[0], 0.06 * shape[1]
    axis.plot([x, x + length], [y, y], color="white", linewidth=3, solid_capstyle="butt")
    axis.text(x, y - 0.02 * shape[0], f"{BAR_UM} um", color="white", fontsize=8, va="bottom")


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
