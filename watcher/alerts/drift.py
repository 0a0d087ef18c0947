"""Whether a microscope has drifted out of focus: the median blur of its last files, one odd image being no drift."""

from __future__ import annotations

from collections import deque
from statistics import median

RECENT = 5  # files


class Drift:
    """The blur of the last files of one folder, against `threshold_px`; 0: never drifted."""

    def __init__(self, threshold_px: float) -> None:
        self._threshold = threshold_px
        self._blurs: deque[float] = deque(maxlen=RECENT)

    def add(self, blur_px: float | None) -> None:
        """Take a file in; None, one without structure, tells nothing."""
        if blur_px is not None:
            self._blurs.append(blur_px)

    @property
    def blur_px(self) -> float | None:
        """The median blur of the last files; None until there are enough."""
        return median(self._blurs) if len(self._blurs) == RECENT else None

    @property
    def drifted(self) -> bool:
        blur = self.blur_px
        return bool(self._threshold) and blur is not None and blur > self._threshold
