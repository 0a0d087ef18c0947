"""A file in a line: what the reports of its planes, as they stand in a journal or a provenance, come to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from .report import NUMBERS, PlaneReport

# Names of journals and provenances that were written before.
_FORMER = {"worst": "max_local_residual"}
_FORMER_VERDICTS = {"explained": "consistent"}


@dataclass(frozen=True)
class FileOverview:
    """What is known of a file.

    Attributes
    ----------
    planes, kept, doubtful : int
        How many there are, how many were kept bit for bit, and how many are doubtful.
    blur_px, fidelity : float or None
        Medians over the planes that can be judged.
    doubt : float or None
        The largest of its planes: over 1, look at it before you use it.
    """

    planes: int = 0
    kept: int = 0
    doubtful: int = 0
    blur_px: float | None = None
    fidelity: float | None = None
    doubt: float | None = None

    @property
    def verdict(self) -> str:
        """One of "doubtful" (a plane is), "kept" (all planes are), "no structure" (none tells) and "restored"."""
        if self.doubtful:
            return "doubtful"
        if self.planes and self.kept == self.planes:
            return "kept"
        return "no structure" if self.doubt is None else "restored"


def overview(summary: object) -> FileOverview:
    """The overview of what `report.summary` gave, now or formerly; an empty one of anything else."""
    if isinstance(summary, list):
        reports = [plane_report(plane) for plane in summary if isinstance(plane, dict)]
        doubts = [report.doubt for report in reports if report.doubt is not None]
        return FileOverview(
            len(reports),
            sum(report.copied for report in reports),
            sum(report.verdict == "doubtful" for report in reports),
            _median([report.blur_px for report in reports]),
            _median([report.fidelity for report in reports]),
            max(doubts, default=None),
        )
    if not isinstance(summary, dict):
        return FileOverview()
    by_name = {_FORMER.get(name, name): value for name, value in summary.items()}
    worst = plane_report(
        {
            "fidelity": _of(by_name.get("fidelity"), "min"),
            "max_local_residual": _of(by_name.get("max_local_residual"), "max"),
            "polarity": _of(by_name.get("polarity"), "max"),
        }
    )
    verdicts = by_name.get("verdicts")
    return FileOverview(
        _whole(by_name.get("count")),
        _whole(by_name.get("copied")),
        _whole(verdicts.get("doubtful")) if isinstance(verdicts, dict) else 0,
        _of(by_name.get("blur_px"), "median"),
        _of(by_name.get("fidelity"), "median"),
        worst.doubt,
    )


def plane_report(plane: Mapping[str, Any]) -> PlaneReport:
    """A plane's report from its JSON, of this version or a former one; what is no number is not known."""
    values = {_FORMER.get(name, name): value for name, value in plane.items()}
    numbers = {name: _number(values.get(name)) for name in NUMBERS}
    image = values.get("image")
    image = image if isinstance(image, int) and not isinstance(image, bool) else None
    return PlaneReport(copied=values.get("copied") is True, image=image, **numbers)


def verdict_of(plane: Mapping[str, Any]) -> str:
    """The verdict that stands in a plane's JSON, by today's name."""
    stated = str(plane.get("verdict") or plane_report(plane).verdict)
    return _FORMER_VERDICTS.get(stated, stated)


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _of(value: object, key: str) -> float | None:
    return _number(value.get(key)) if isinstance(value, dict) else None


def _number(value: object) -> float | None:
    """A number as a float; None for what is none, and for those that no JSON holds."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
