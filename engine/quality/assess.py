"""The judge: looks at every plane beside its restored one, reports on both, and keeps what is sharp as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..image.axes import as_groups
from ..image.bands import extremes
from ..image.hot_pixels import hot_pixels
from .fidelity import fidelity
from .focus import focus_score
from .report import PlaneReport


def assess(source: np.ndarray, result: np.ndarray, axes: str, keep_sharp: bool = False) -> tuple[PlaneReport, ...]:
    """Report on every plane of an image and of its restored one, both of `axes` and one shape, dtype and unit.

    Planes come in the order of the axes without Y and X. With `keep_sharp`, planes that are sharp already, or
    show nothing above their noise, are copied from `source` into `result`.
    """
    if source.size == 0:
        return ()
    before, after = (as_groups(array, axes, 1)[..., 0, :, :] for array in (source, result))
    return tuple(_assess(before[index], after[index], keep_sharp) for index in np.ndindex(before.shape[:-2]))


def _assess(seen: np.ndarray, restored: np.ndarray, keep_sharp: bool) -> PlaneReport:
    least, most = extremes(seen)
    if least == most:
        return PlaneReport(copied=True)  # the engine gives flat planes back
    hot = hot_pixels(seen, (least, most))
    report = PlaneReport(focus_in=focus_score(seen, hot))
    if report.focus_in is not None:
        report = replace(report, focus_out=focus_score(restored, hot))
        found = fidelity(seen, restored, hot)
        if found is not None:
            report = replace(report, fidelity=found.explained, worst=found.worst, blur_px=found.blur_px)
    if keep_sharp and (report.sharp or report.fidelity is None):
        restored[...] = seen
        return replace(report, copied=True)
    return report
