"""Bands: going through the pixels of an image that may lie on disk, without holding more of it than a few rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .memmap import drop_resident_pages

_VALUES = 1 << 22  # of a band


def planes(values: np.ndarray) -> Iterator[np.ndarray]:
    """Each plane (Y, X) of (..., Y, X)."""
    for index in np.ndindex(values.shape[:-2]):
        yield values[index]


def bands(values: np.ndarray) -> Iterator[np.ndarray]:
    """Each plane of (..., Y, X) in bands of whole rows, at most 4 million values or one row."""
    rows = max(1, _VALUES // max(1, values.shape[-1]))
    for plane in planes(values):
        for top in range(0, plane.shape[0], rows):
            yield plane[top : top + rows]
            drop_resident_pages(plane)


def extremes(values: np.ndarray) -> tuple[float, float]:
    """The least and the largest of (..., Y, X), not empty; NaN where there is one."""
    ends = [(band.min(), band.max()) for band in bands(values)]
    return float(np.min([least for least, _ in ends])), float(np.max([most for _, most in ends]))


def same(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether two arrays (..., Y, X, samples) hold the same values."""
    flat = (array.reshape(*array.shape[:-2], -1) for array in (before, after))
    return all(np.array_equal(band, other) for band, other in zip(*map(bands, flat), strict=True))
