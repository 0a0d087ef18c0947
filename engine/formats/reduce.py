"""A level of a pyramid from the one above it: means, or every n-th pixel where the input has it so."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..image.memmap import Allocator, drop_resident_pages


def reduced(data: np.ndarray, before: Any, small: Any, place: Allocator) -> np.ndarray:
    """A level made anew, plane by plane.

    Parameters
    ----------
    data : array (..., Y, X)
        The level above, as it is now.
    before, small : array-like (..., Y, X)
        The level above, and this one, as they were; whole planes of them are read.
    place : Allocator
        Where the result goes.
    """
    shape = tuple(small.shape)
    out = place(shape, data.dtype)
    edges = [np.arange(new + 1) * old // new for new, old in zip(shape, data.shape, strict=True)]
    every_nth = None
    for index in np.ndindex(shape[:-2]):
        spans = [
            (int(edge[at]), max(int(edge[at]) + 1, int(edge[at + 1]))) for edge, at in zip(edges, index, strict=False)
        ]
        first = tuple(start for start, _ in spans)
        if every_nth is None:
            every_nth = np.array_equal(before[first][np.ix_(edges[-2][:-1], edges[-1][:-1])], small[index])
        if every_nth:
            out[index] = data[first][np.ix_(edges[-2][:-1], edges[-1][:-1])]
        else:
            block = data[tuple(slice(start, stop) for start, stop in spans)]
            out[index] = _means(block.reshape(-1, *block.shape[-2:]), edges[-2], edges[-1], out.dtype)
        drop_resident_pages(data, out)
    return out


def _means(planes: np.ndarray, rows: np.ndarray, columns: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Means over planes (N, Y, X) and over the pixels between the edges."""
    sums = sum(plane.astype(np.float64) for plane in planes)
    sums = np.add.reduceat(np.add.reduceat(sums, rows[:-1], axis=0), columns[:-1], axis=1)
    counts = np.maximum(1, np.diff(rows))[:, None] * np.maximum(1, np.diff(columns)) * len(planes)
    mean = sums / counts
    return np.rint(mean).astype(dtype) if dtype.kind in "iu" else mean.astype(dtype)
