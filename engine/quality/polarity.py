"""Polarity: are structures brighter than what surrounds them, as in fluorescence, or darker, as in transmitted light?

The default model has seen fluorescence only. The fidelity of its output does not tell: a blur explains a brightfield
plane as well as any other. Everything is computed on pixels binned 4 x 4: most of the noise is gone, no structure is.
"""

from __future__ import annotations

import numpy as np

from ..image.bands import extremes
from ..image.fourier import smoothed
from ..image.hot_pixels import HotPixels
from .focus import JUDGED, even, halved, span, windows

_SURROUNDINGS = 16.0  # binned px, standard deviation: uneven light is wider, a cell at 20x is narrower
_ENDS = (0.5, 50, 99.5)  # percentiles: the darkest structures, the middle, the brightest


def polarity(plane: np.ndarray, hot: HotPixels = (), ends: tuple[float, float] | None = None) -> float:
    """Where the median of a plane (Y, X) lies between its darkest and its brightest structures, surroundings taken off.

    Any real dtype, finite, at least 16 px wide; large planes are judged by four windows of 768 px, and `hot` pixels do
    not count. `ends` are its `extremes`, where they are known.

    Returns
    -------
    float
        0: all structures are brighter than their surroundings. 1: all are darker. 0.5: as many of either, or none.
    """
    scale = span(ends or extremes(plane))
    values = np.concatenate([_above_surroundings(view, scale).ravel() for view in windows(plane, *JUDGED, hot)])
    least, middle, most = np.percentile(values, _ENDS)
    return float((middle - least) / (most - least)) if most > least else 0.5


def _above_surroundings(view: np.ndarray, scale: float) -> np.ndarray:
    binned = halved(even(halved(even(view, scale)), 1.0))
    return binned - smoothed(binned, _SURROUNDINGS)
