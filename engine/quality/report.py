"""The report: what is known of each plane of a file and of its output. No pixels here, see `assess`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from statistics import median
from typing import Any

# A plane is sharp already if the model sharpens it by less than this many px, raises its focus score by less than
# this factor, and leaves no place further from the input than this. By measurement (docs/results/near_focus.md,
# docs/results/trust.md): the blur is under 1.2 px in real planes in focus, and every plane that restoring makes worse
# has less than 1.0; where light is so scarce that the blur cannot be found, the factor still tells; a plane partly out
# of focus shows it in one place.
SHARP_BLUR_PX, SHARP_GAIN, SHARP_LOCAL_RESIDUAL = 1.5, 1.25, 0.06
# An output is doubtful that leaves more than this of its input unexplained, in all or in any one place: about one
# in fifty of the intact held-out outputs is.
DOUBTFUL_SHARE, DOUBTFUL_LOCAL_RESIDUAL = 0.03, 0.5
# So is one whose input does not look like fluorescence: docs/results/trust.md has the largest polarity of fluorescence
# planes and the least of transmitted light.
EVEN_POLARITY, DOUBTFUL_POLARITY = 0.5, 0.57

NUMBERS = ("focus_in", "focus_out", "fidelity", "max_local_residual", "blur_px", "polarity")  # of a PlaneReport
LISTED = 64  # planes listed one by one in a file's provenance


class Doubtful(StrEnum):
    """What is written of a plane whose output is doubtful."""

    ORIGINAL = "original"
    CORRECTED = "corrected"


@dataclass(frozen=True)
class PlaneReport:
    """What is known of one plane and its restored one; None where nothing stands above the noise to judge by.

    Attributes
    ----------
    focus_in, focus_out : float or None
        Focus score of the input and of the restored plane, cycles a pixel (`focus.focus_score`).
    fidelity : float or None
        Share of the input's structure that the restored plane, blurred again, explains: 1 is all.
    max_local_residual : float or None
        The largest unexplained share of a place of 32 x 32 px: 0 is best (`fidelity.Fidelity`).
    blur_px : float or None
        Radius of the blur between the restored plane and the input, px.
    copied : bool
        Whether the output is the input, bit for bit; `focus_out` and the rest then tell of the plane that was not
        used.
    polarity : float or None
        Of the input: near 0 where structures are brighter than their surroundings (fluorescence), near 1 where they
        are darker (`polarity.polarity`).
    image : int or None
        Which image of the file it belongs to, counted from 1, where there are several.
    """

    focus_in: float | None = None
    focus_out: float | None = None
    fidelity: float | None = None
    max_local_residual: float | None = None
    blur_px: float | None = None
    copied: bool = False
    polarity: float | None = None
    image: int | None = None

    @property
    def doubt(self) -> float | None:
        """Over 1: look at this output before you use it. None: it cannot be judged."""
        if self.fidelity is None or self.max_local_residual is None:
            return None
        darker = (self.polarity or 0.0) - EVEN_POLARITY
        return max(
            (1 - self.fidelity) / DOUBTFUL_SHARE,
            self.max_local_residual / DOUBTFUL_LOCAL_RESIDUAL,
            darker / (DOUBTFUL_POLARITY - EVEN_POLARITY),
        )

    @property
    def sharp(self) -> bool:
        """Whether the model found next to nothing to sharpen, anywhere."""
        if self.blur_px is None or self.max_local_residual is None or not self.focus_in:
            return False
        gain = (self.focus_out or 0.0) / self.focus_in
        return self.blur_px < SHARP_BLUR_PX and gain < SHARP_GAIN and self.max_local_residual < SHARP_LOCAL_RESIDUAL

    @property
    def verdict(self) -> str:
        """One of "no structure", "doubtful", "sharp" and "consistent"."""
        if self.doubt is None:
            return "no structure"
        if self.doubt > 1 and not (self.copied and self.sharp):
            return "doubtful"
        return "sharp" if self.sharp else "consistent"

    def as_dict(self) -> dict[str, Any]:
        """For JSON: numbers of four digits, and the verdict."""
        fields = {key: _short(value) for key, value in asdict(self).items()} | {"verdict": self.verdict}
        return fields if self.image is not None else {key: fields[key] for key in fields if key != "image"}


def summary(reports: Sequence[PlaneReport]) -> list[dict[str, Any]] | dict[str, Any]:
    """For a file's provenance: each report, or of more than 64 the extreme, the median and how many of each verdict."""
    if len(reports) <= LISTED:
        return [report.as_dict() for report in reports]
    result: dict[str, Any] = {"count": len(reports), "copied": sum(report.copied for report in reports)}
    for key in NUMBERS:
        values = [value for report in reports if (value := getattr(report, key)) is not None]
        extreme = max if key in ("max_local_residual", "polarity") else min
        result[key] = {extreme.__name__: _short(extreme(values)), "median": _short(median(values))} if values else None
    verdicts = [report.verdict for report in reports]
    return result | {"verdicts": {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))}}


def _short(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return round(value, 4) if math.isfinite(value) else None
