"""Assess every plane beside its restored one, and report on both; sharp planes may then be kept as they came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..image.axes import as_groups
from ..image.bands import bands
from ..image.memmap import one_by_one
from ..image.plane_statistics import PlaneStatistics
from ..threads import spread
from .fidelity import fidelity
from .focus import focus_score
from .polarity import polarity
from .report import PlaneReport


def assess(
    source: np.ndarray, result: np.ndarray, axes: str, statistics: PlaneStatistics | None = None
) -> tuple[PlaneReport, ...]:
    """Report on every plane of an image and of its restored one, both of `axes` and one shape, dtype and unit.

    Planes come in the order of the axes without Y and X. Nothing is changed. `statistics` are those of `source`, as
    far as they are known.
    """
    known = statistics or PlaneStatistics()
    pairs = _plane_pairs(source, result, axes)
    apart = map if pairs and one_by_one(source, pairs[0][0].size) else spread
    return tuple(apart(lambda pair: _assess_plane(*pair, known), pairs))


def keep_sharp_planes(
    source: np.ndarray, result: np.ndarray, axes: str, reports: Sequence[PlaneReport]
) -> tuple[PlaneReport, ...]:
    """Copy planes that are sharp already, or show nothing above their noise, from `source` into `result`.

    `reports` are those of `assess`; they come back with `copied` set where a plane was copied.
    """
    return _keep(source, result, axes, reports, lambda report: report.sharp or report.fidelity is None)


def keep_doubtful_planes(
    source: np.ndarray, result: np.ndarray, axes: str, reports: Sequence[PlaneReport]
) -> tuple[PlaneReport, ...]:
    """Copy planes whose output is doubtful from `source` into `result`; else as `keep_sharp_planes`."""
    return _keep(source, result, axes, reports, lambda report: report.verdict == "doubtful")


def _keep(
    source: np.ndarray,
    result: np.ndarray,
    axes: str,
    reports: Sequence[PlaneReport],
    wanted: Callable[[PlaneReport], bool],
) -> tuple[PlaneReport, ...]:
    result_reports = list(reports)
    for number, (before, after) in enumerate(_plane_pairs(source, result, axes)):
        report = reports[number]
        if not report.copied and wanted(report):
            for new, old in zip(bands(after), bands(before), strict=True):
                new[...] = old
            result_reports[number] = replace(report, copied=True)
    return tuple(result_reports)


def _plane_pairs(source: np.ndarray, result: np.ndarray, axes: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Views of each plane (Y, X) of both."""
    if source.size == 0:
        return []
    before, after = (as_groups(array, axes, 1)[..., 0, :, :] for array in (source, result))
    return [(before[index], after[index]) for index in np.ndindex(before.shape[:-2])]


def _assess_plane(before: np.ndarray, after: np.ndarray, statistics: PlaneStatistics) -> PlaneReport:
    ends = statistics.extremes(before)
    if ends[0] == ends[1]:
        return PlaneReport(copied=True)  # the engine gives flat planes back
    hot = statistics.hot_pixels(before)
    report = PlaneReport(focus_in=focus_score(before, hot, ends))
    if report.focus_in is None:
        return report
    report = replace(report, focus_out=focus_score(after, hot))
    match = fidelity(before, after, hot, ends)
    if match is None:
        return report
    return replace(
        report,
        fidelity=match.share_explained,
        max_local_residual=match.max_local_residual,
        blur_px=match.blur_px,
        polarity=polarity(before, hot, ends),
    )
