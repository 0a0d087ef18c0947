"""Tasks: an image that is to be restored, as the tiles that the network is to see, each with its intensities."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import numpy as np

from ..image.axes import as_groups, channel_axis, check_axes
from ..image.hot_pixels import HotPixels
from ..image.memmap import Allocator, in_memory, one_by_one
from ..image.normalization import Intensity, check_dtype, measure
from ..image.plane_statistics import PlaneStatistics
from ..image.tiling import Tile
from ..model.card import Card
from ..threads import spread
from .options import Settings


class ImageRequest(NamedTuple):
    """An image for `Engine.restore_many` and `Engine.submit`; see `Engine.__call__` for each.

    Without `out`, `allocate` says where the result goes, once its turn has come. What the engine finds out about the
    planes of `data` it leaves in `statistics`, or takes from there.
    """

    data: np.ndarray
    axes: str | None = None
    name: object = "image"
    out: np.ndarray | None = None
    allocate: Allocator = in_memory
    statistics: PlaneStatistics | None = None


class TileTask(NamedTuple):
    """One tile of one group (C, Y, X), where its core goes, and the intensity and the hot pixels of each channel."""

    source: np.ndarray
    target: np.ndarray
    intensities: tuple[Intensity, ...]
    hot: tuple[HotPixels, ...]
    tile: Tile


class ImageTask:
    """An image, where its result goes, and the way from one to the other.

    Attributes
    ----------
    data, result : array
        Of one shape and dtype.
    """

    def __init__(self, image: ImageRequest, card: Card) -> None:
        """Raises InputError if the model does not take the image."""
        self.data, self.name = np.asarray(image.data), image.name
        check_dtype(self.data.dtype, self.name)
        self._axes = check_axes(self.data.shape, image.axes, self.name)
        self.result = image.allocate(self.data.shape, self.data.dtype) if image.out is None else image.out
        if self.result.shape != self.data.shape or self.result.dtype != self.data.dtype:
            actual, wanted = (f"{array.dtype} {array.shape}" for array in (self.result, self.data))
            raise ValueError(f"out is {actual}, the image {wanted}")
        self._card, self._statistics = card, image.statistics or PlaneStatistics()
        self._source, self._target = (
            as_groups(array, self._axes, card.channels, self.name) for array in (self.data, self.result)
        )

    def tile_count(self, settings: Settings) -> int:
        """How many tiles `tile_tasks` gives at most: none for what is flat."""
        if self._source.size == 0:
            return 0
        *groups, _, height, width = self._source.shape
        return prod(groups) * len(settings.tiles_for(height, width, self._card.multiple))

    def tile_tasks(self, settings: Settings) -> Iterator[TileTask]:
        """The tiles of every group (channels, Y, X) that has something to restore; the others are copied.

        Raises InputError at a plane that holds no numbers.
        """
        source, target = self._source, self._target
        if source.size == 0:
            return
        height, width = source.shape[-2:]
        tiles = settings.tiles_for(height, width, self._card.multiple)
        statistics = self._statistics
        find = self._per_plane
        if settings.per == "stack":
            find = _PerStack(source, self._axes, self._card, self.name, statistics)

        def measured(index: tuple[int, ...]) -> tuple[tuple[Intensity, ...], tuple[HotPixels, ...]]:
            intensities = find(source[index], index)
            flat = all(intensity.flat for intensity in intensities)
            return intensities, () if flat else tuple(statistics.hot_pixels(plane) for plane in source[index])

        indices = list(np.ndindex(source.shape[:-3]))
        # Planes of a stack wait for its one intensity.
        apart = map if settings.per == "stack" or one_by_one(self.data, height * width) else spread
        for index, (intensities, hot) in zip(indices, apart(measured, indices), strict=True):
            if not hot:
                target[index] = source[index]
                continue
            for tile in tiles:
                yield TileTask(source[index], target[index], intensities, hot, tile)

    def _per_plane(self, group: np.ndarray, index: tuple[int, ...]) -> tuple[Intensity, ...]:
        where = f"{self.name} plane {index}" if len(index) and any(index) else self.name
        return tuple(measure(plane, self._card.intensity, where, self._statistics.extremes) for plane in group)


class _PerStack:
    """One intensity for all planes of a stack, but one a channel: dyes have nothing to do with one another."""

    def __init__(self, source: np.ndarray, axes: str, card: Card, name: object, statistics: PlaneStatistics) -> None:
        self._source, self._card, self._name, self._statistics = source, card, name, statistics
        others = [letter for letter in axes if letter not in "YX"]
        channel = channel_axis(axes)
        # With one channel at a time the channel axis is among the leading ones of (..., 1, Y, X).
        self._position = others.index(channel) if channel and card.channels == 1 else None
        self._by_channel: dict[int, tuple[Intensity, ...]] = {}

    def __call__(self, group: np.ndarray, index: tuple[int, ...]) -> tuple[Intensity, ...]:
        key = 0 if self._position is None else index[self._position]
        if key not in self._by_channel:
            stack = self._source if self._position is None else self._source[(slice(None),) * self._position + (key,)]
            self._by_channel[key] = tuple(
                measure(stack[..., channel, :, :], self._card.intensity, self._name, self._statistics.extremes)
                for channel in range(self._card.channels)
            )
        # A flat plane stays as it is, also among others.
        return tuple(
            Intensity(intensity.offset, 0.0) if len(set(self._statistics.extremes(plane))) == 1 else intensity
            for plane, intensity in zip(group, self._by_channel[key], strict=True)
        )
