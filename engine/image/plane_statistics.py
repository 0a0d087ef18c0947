"""What is known of the planes of one image: found once, and handed from the engine to the report."""

from __future__ import annotations

import numpy as np

from .bands import extremes
from .hot_pixels import HotPixels, hot_pixels


class PlaneStatistics:
    """Extremes and hot pixels of the planes of one array, each found when it is first asked for.

    A plane is known by where it lies, so that any view of the array will do, whatever the order of its axes. The array
    must stay alive and unchanged as long as its statistics are used. One thread a plane at a time.
    """

    def __init__(self) -> None:
        self._extremes: dict[object, tuple[float, float]] = {}
        self._hot: dict[object, HotPixels] = {}

    def extremes(self, plane: np.ndarray) -> tuple[float, float]:
        """The least and the largest value of a plane (Y, X), or of a stack (..., Y, X); see `bands.extremes`."""
        key = _position(plane)
        if key not in self._extremes:
            self._extremes[key] = extremes(plane)
        return self._extremes[key]

    def hot_pixels(self, plane: np.ndarray) -> HotPixels:
        """The hot and dead pixels of a plane (Y, X); see `hot_pixels.hot_pixels`."""
        key = _position(plane)
        if key not in self._hot:
            self._hot[key] = hot_pixels(plane, self.extremes(plane))
        return self._hot[key]


def _position(plane: np.ndarray) -> object:
    return plane.__array_interface__["data"][0], plane.shape, plane.strides
