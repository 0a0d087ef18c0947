"""Tiles: a plane cut into overlapping pieces of one shape, whose cores cover it exactly once.

A tile is a core plus its halo. Origins are multiples of the network's `multiple`, so that poolings fall on the same
pixels as in the whole plane; where the halo is as wide as the receptive field, cores equal the whole plane's result.
Lengths are pixels, (top, bottom, left, right) half-open ranges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Tile:
    """One piece of a plane.

    Attributes
    ----------
    outer : (top, bottom, left, right)
        What the network sees, in the padded plane; sides are multiples of `multiple`.
    core : (top, bottom, left, right)
        What is kept of its result, inside the unpadded plane.
    """

    outer: Box
    core: Box

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of `outer`."""
        top, bottom, left, right = self.outer
        return bottom - top, right - left

    @property
    def target(self) -> tuple[slice, slice]:
        """The core in the plane."""
        top, bottom, left, right = self.core
        return slice(top, bottom), slice(left, right)

    @property
    def source(self) -> tuple[slice, slice]:
        """The core in the tile's own result."""
        top, bottom, left, right = self.core
        y, x = self.outer[0], self.outer[2]
        return slice(top - y, bottom - y), slice(left - x, right - x)


def plan(height: int, width: int, tile: int, halo: int, multiple: int = 16) -> list[Tile]:
    """Cut a plane of `height` x `width` px into tiles of at most `tile` x `tile` px, all of one shape, row by row.

    `halo` is rounded up, `tile` down to a multiple of `multiple`. A plane that fits into one tile is one tile.

    Raises
    ------
    ValueError
        The plane is empty, or the tile leaves no core between two halos.
    """
    rows = _ranges(height, tile, halo, multiple)
    columns = _ranges(width, tile, halo, multiple)
    return [Tile((*outer_y, *outer_x), (*core_y, *core_x)) for outer_y, core_y in rows for outer_x, core_x in columns]


def extract(plane: np.ndarray, tile: Tile, out: np.ndarray | None = None) -> np.ndarray:
    """The pixels that a tile sees: (..., Y, X) to (..., *tile.shape), mirrored beyond the bottom and right edge.

    Inside the plane it is a view; beyond its edges `out` (or a new array) takes them. A plane smaller than its padding
    is continued by its last row or column instead.
    """
    top, bottom, left, right = tile.outer
    height, width = plane.shape[-2:]
    if bottom <= height and right <= width:
        return plane[..., top:bottom, left:right]
    if out is None:
        out = np.empty((*plane.shape[:-2], *tile.shape), plane.dtype)
    rows, columns = _mirrored(max(top, height), bottom, height), _mirrored(max(left, width), right, width)
    inside = plane[..., top : min(bottom, height), left : min(right, width)]
    y, x = inside.shape[-2:]
    out[..., :y, :x] = inside
    out[..., y:, :x] = plane[..., rows, left : left + x]
    out[..., :y, x:] = plane[..., top : top + y, columns]
    out[..., y:, x:] = plane[..., rows[:, None], columns]
    return out


def pixel_positions(tile: Tile, shape: tuple[int, int], y: int, x: int) -> tuple[np.ndarray, np.ndarray]:
    """Where in a tile, as `extract` gives it, a pixel of a plane of `shape` shows: rows (n, 1) and columns (m,)."""
    top, bottom, left, right = tile.outer
    rows, columns = (_sources(*ends) for ends in ((top, bottom, shape[0]), (left, right, shape[1])))
    return np.flatnonzero(rows == y)[:, None], np.flatnonzero(columns == x)


def round_up(length: int, multiple: int) -> int:
    """`length` rounded up to a multiple."""
    return -(-length // multiple) * multiple


def smallest_tile(halo: int, multiple: int) -> int:
    """The least tile that `plan` takes: a core of one multiple between two halos."""
    return 2 * round_up(halo, multiple) + multiple


def _ranges(length: int, tile: int, halo: int, multiple: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Along one axis: ((outer start, stop), (core start, stop)) of each tile."""
    if length < 1:
        raise ValueError(f"a plane of {length} px")
    halo, tile, padded = round_up(halo, multiple), tile // multiple * multiple, round_up(length, multiple)
    if padded <= tile:
        return [((0, padded), (0, length))]
    if tile < smallest_tile(halo, multiple):
        raise ValueError(f"a tile of {tile} px leaves no core between halos of {halo} px")
    # As few tiles as possible, then as small as that number allows: two of 712 px rather than two of 1024 for 1040 px.
    count = -(-(padded - 2 * halo) // (tile - 2 * halo))
    tile = round_up(-(-(padded - 2 * halo) // count), multiple) + 2 * halo
    ranges, start = [], 0
    while start < length:
        outer = min(max(start - halo, 0), padded - tile)
        stop = length if outer + tile == padded else outer + tile - halo
        ranges.append(((outer, outer + tile), (start, stop)))
        start = stop
    return ranges


def _sources(start: int, stop: int, size: int) -> np.ndarray:
    """Where all rows (or columns) start..stop come from."""
    return np.concatenate([np.arange(start, min(stop, size)), _mirrored(max(start, size), stop, size)])


def _mirrored(start: int, stop: int, size: int) -> np.ndarray:
    """Where rows (or columns) start..stop beyond an axis of `size` come from: mirrored without repeating the edge."""
    beyond = np.arange(start, stop)
    return 2 * (size - 1) - beyond if stop - size < size else np.full(len(beyond), size - 1)
