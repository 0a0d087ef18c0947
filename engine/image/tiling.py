"""Tiles: a plane cut into overlapping pieces of one shape, whose cores cover it exactly once.

A tile is a core plus its halo. Origins are multiples of the network's `multiple`, so that poolings fall on the same
pixels as in the whole plane; where the halo is as wide as the receptive field, cores equal the whole plane's result.
Lengths are pixels, (top, bottom, left, right) half-open ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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


def plan(
    height: int, width: int, tile: int | None, halo: int, multiple: int = 16, pixels: int | None = None
) -> list[Tile]:
    """Cut a plane of `height` x `width` px into tiles of one shape, row by row, with the least computed twice.

    Parameters
    ----------
    tile : int or None
        The longest side of a tile, rounded down to a multiple of `multiple`; None: any.
    halo : int
        Rounded up to a multiple of `multiple`. It is only there where a tile has a neighbour.
    pixels : int or None
        The most pixels of a tile, halo included; None: any. It gives way where it leaves no core between two halos.

    Raises
    ------
    ValueError
        The plane is empty, or `tile` leaves no core between two halos.
    """
    if min(height, width) < 1:
        raise ValueError(f"a plane with a side of {min(height, width)} px")
    halo, padded = round_up(halo, multiple), (round_up(height, multiple), round_up(width, multiple))
    longest = max(padded) if tile is None else tile // multiple * multiple
    if max(padded) > longest < smallest_tile(halo, multiple):
        raise ValueError(f"a tile of {longest} px leaves no core between halos of {halo} px")
    rows, columns = _counts(*padded, longest, halo, multiple, pixels)
    return [
        Tile((*outer_y, *outer_x), (*core_y, *core_x))
        for outer_y, core_y in _ranges(height, rows, halo, multiple)
        for outer_x, core_x in _ranges(width, columns, halo, multiple)
    ]


def computed_pixels(tiles: Sequence[Tile]) -> int:
    """How many pixels the network sees for a plan; more than the plane has, by what lies in halos and padding."""
    height, width = tiles[0].shape
    return len(tiles) * height * width


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


@lru_cache(maxsize=256)
def _counts(height: int, width: int, longest: int, halo: int, multiple: int, pixels: int | None) -> tuple[int, int]:
    """How many rows and columns of tiles compute least; of a padded plane."""
    smallest = smallest_tile(halo, multiple)
    fewest_rows, fewest_columns = (_fewest(length, longest, halo, multiple) for length in (height, width))
    widest = _side(width, fewest_columns, halo, multiple)
    candidates: list[tuple[int, int, int, int]] = []  # pixels computed, tiles, rows, columns
    for rows in range(fewest_rows, height // multiple + 1):
        side, columns = _side(height, rows, halo, multiple), fewest_columns
        if pixels is not None and side * widest > pixels:
            room = pixels // side // multiple * multiple
            columns = _fewest(width, room, halo, multiple) if room >= smallest else 0
        if columns:
            candidates.append(
                (rows * side * columns * _side(width, columns, halo, multiple), rows * columns, rows, columns)
            )
        if columns == fewest_columns or side <= smallest:
            break  # more rows would only add halos
    if not candidates:  # no core fits: the smallest tile that has one
        return _fewest(height, smallest, halo, multiple), _fewest(width, smallest, halo, multiple)
    return min(candidates)[2:]


def _fewest(length: int, tile: int, halo: int, multiple: int) -> int:
    """How many tiles of at most `tile` px a padded length needs."""
    return 1 if length <= tile else -(-(length - 2 * halo) // (tile - 2 * halo))


def _side(length: int, count: int, halo: int, multiple: int) -> int:
    """How long `count` tiles over a padded length are: as small as their number allows."""
    return length if count == 1 else round_up(-(-(length - 2 * halo) // count), multiple) + 2 * halo


def _ranges(length: int, count: int, halo: int, multiple: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Along one axis: ((outer start, stop), (core start, stop)) of each tile."""
    padded = round_up(length, multiple)
    tile = _side(padded, count, halo, multiple)
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
