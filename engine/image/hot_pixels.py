"""Hot and dead pixels: the few that stick out of everything around them, and that no optics could have made.

One pixel of 65535 on a dark plane has more energy than the specimen, and the network draws rings around it. It is given
their neighbours' median instead, the output has them as they were, and the report leaves them out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .bands import bands
from .memmap import drop_resident_pages

_REACH = 10.0  # times the plane's range, beyond it: the default network draws rings from 20 on
_FEW = 16  # more of them are a specimen
_SAMPLE = 4096  # pixels that the range is found from
# Of its height that a neighbour of a hot pixel may have. A point in focus in the middle of a pixel of 0.645 um gives
# its neighbours 5 % at NA 0.55 and 2.3 % at NA 0.75, and more anywhere else.
_SHARE = 0.02


class HotPixel(NamedTuple):
    """Where one is in a plane, and the median of its neighbours."""

    y: int
    x: int
    median: float


HotPixels = Sequence[HotPixel]


def hot_pixels(plane: np.ndarray, ends: tuple[float, float]) -> HotPixels:
    """The hot and dead pixels of a plane (Y, X) of any real dtype, finite; any memory it takes is that of a few rows.

    `ends` are its `extremes`, which the callers have or need themselves.

    Such a pixel lies far outside the plane's range, from the 1st to the 99th percentile, and alone there. Where more
    than a few do, there are none.
    """
    low, high = _range(plane)
    reach = _REACH * (high - low)
    least, most = ends
    if not reach or (low - reach <= least and most <= high + reach):
        return ()
    places: list[tuple[int, int]] = []
    top = 0
    for band in bands(plane):
        places += [(top + y, x) for y, x in np.argwhere((band > high + reach) | (band < low - reach)).tolist()]
        if len(places) > _FEW:
            return ()
        top += len(band)
    return tuple(_alone(plane, places, low, high))


def without(view: np.ndarray, corner: tuple[int, int], hot: HotPixels) -> np.ndarray:
    """A view of a plane whose first pixel is `corner` (y, x): itself, or a copy whose hot pixels are their medians."""
    height, width = view.shape
    inside = [(y - corner[0], x - corner[1], median) for y, x, median in hot]
    inside = [(y, x, median) for y, x, median in inside if 0 <= y < height and 0 <= x < width]
    if not inside:
        return view
    copy = view.copy()
    for y, x, median in inside:
        copy[y, x] = median
    return copy


def _range(plane: np.ndarray) -> tuple[float, float]:
    """The 1st and the 99th percentile, roughly."""
    step = max(1, math.isqrt(plane.size // _SAMPLE))
    sample = plane[::step, ::step].ravel()
    drop_resident_pages(plane)
    ends = sample.size // 100, sample.size - 1 - sample.size // 100
    low, high = np.partition(sample, ends)[list(ends)]  # np.percentile takes ten times as long
    return float(low), float(high)


def _alone(plane: np.ndarray, places: Sequence[tuple[int, int]], low: float, high: float) -> Iterator[HotPixel]:
    """Those that are alone."""
    for y, x in places:
        rows, columns = slice(max(0, y - 1), y + 2), slice(max(0, x - 1), x + 2)
        around = plane[rows, columns]
        itself = (y - rows.start) * around.shape[1] + x - columns.start
        neighbours = sorted(float(value) for value in np.delete(around, itself))
        value = float(plane[y, x])
        nearest, level = (neighbours[-1], high) if value > high else (neighbours[0], low)
        if (nearest - level) / (value - level) < _SHARE:
            yield HotPixel(y, x, neighbours[len(neighbours) // 2])  # a whole number where counts are
