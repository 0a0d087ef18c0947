"""Polarity: are structures brighter than what surrounds them, as in fluorescence, or darker, as in transmitted light?

The default model has seen fluorescence only. The fidelity of its output does not tell: a blur explains a brightfield
plane as well as any other.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from ..image.bands import extremes
from ..image.hot_pixels import HotPixels
from .focus import scaled, span, windows

_SIDE, _MOST = 768, 4  # windows of a large plane, px
_BINNED = 4  # px: most of the noise is gone, no structure is
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
    views = (scaled(view, scale) for view in windows(plane, _SIDE, _MOST, hot))
    values = np.concatenate([_above_surroundings(view).ravel() for view in views])
    least, middle, most = np.percentile(values, _ENDS)
    return float((middle - least) / (most - least)) if most > least else 0.5


def _above_surroundings(view: np.ndarray) -> np.ndarray:
    height, width = (length // _BINNED for length in view.shape)
    whole = view[: height * _BINNED, : width * _BINNED]
    binned = whole.reshape(height, _BINNED, width, _BINNED).mean(axis=(1, 3))
    return binned - gaussian_filter(binned, _SURROUNDINGS)
