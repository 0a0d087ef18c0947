"""One batch of tiles: cut, taken to unit range, through the network, back to counts, and its cores put into place."""

from __future__ import annotations

from math import isfinite, prod

import numpy as np

from ..errors import BackendError
from ..image.normalization import clip_with_remainder, from_unit, to_unit
from ..image.tiling import extract, pixel_positions
from .backends import ExactSession, Session, Uint16Session, not_finite
from .buffer import Buffer
from .tasks import TileTask

Batch = list[TileTask]  # of one shape


class TileRunner:
    """A session and the memory that it works in; one batch at a time."""

    def __init__(self, session: Session, channels: int) -> None:
        self.session, self.channels = session, channels
        self._batch, self._edge = Buffer(), Buffer()  # of a batch, and of a tile at the plane's edge
        self.kept_pixels = 0  # of the largest batch, for which the session keeps memory

    def trim(self) -> None:
        """Give back what is kept from batch to batch. Nobody may be running one."""
        self.session.trim()
        self._batch, self._edge, self.kept_pixels = Buffer(), Buffer(), 0

    def restore(self, batch: Batch) -> None:
        """Run one batch of tiles and put their cores into place. Raises BackendError when the runtime fails."""
        shape = (len(batch), self.channels, *batch[0].tile.shape)
        self.kept_pixels = max(self.kept_pixels, len(batch) * prod(batch[0].tile.shape))
        session = self.session
        if isinstance(session, Uint16Session) and all(_same_counts(task, session) for task in batch):
            self._restore_counts(session, batch, shape)
            return
        units = self._batch.array(shape, np.float32)
        for unit, task in zip(units, batch, strict=True):
            for channel, intensity in enumerate(task.intensities):
                if intensity.flat:
                    unit[channel] = 0
                else:
                    to_unit(self._cut(task, channel), intensity, out=unit[channel])
        units, remainder = clip_with_remainder(units)
        cut = any(task.tile.core != (0, task.source.shape[-2], 0, task.source.shape[-1]) for task in batch)
        run = session.run_exact if cut and isinstance(session, ExactSession) else session.run
        restored = run(units)
        if restored.shape != units.shape:
            cause = f"gave shape {restored.shape} for {units.shape}"
            raise BackendError(session.description, cause, "export the model again with defocus-export")
        if not (isfinite(restored.min()) and isfinite(restored.max())):  # NaN comes through both
            raise not_finite(session.description)
        if remainder is not None:
            restored += remainder
        for unit, task in zip(restored, batch, strict=True):
            source, target, tile = task.source, task.target, task.tile
            for channel, intensity in enumerate(task.intensities):
                core = (channel, *tile.target)
                if intensity.flat:
                    target[core] = source[core]
                else:
                    from_unit(unit[(channel, *tile.source)], intensity, target.dtype, out=target[core])
            _keep_hot(task)

    def _restore_counts(self, session: Uint16Session, batch: Batch, shape: tuple[int, ...]) -> None:
        """The same where the session converts the counts itself."""
        taken = self._batch.array(shape, np.uint16)
        for counts, task in zip(taken, batch, strict=True):
            for channel, plane in enumerate(counts):
                plane[:] = self._cut(task, channel)
        restored = session.run_uint16(taken, [task.intensities for task in batch])
        for counts, task in zip(restored, batch, strict=True):
            for plane, target in zip(counts, task.target, strict=True):
                target[task.tile.target] = plane[task.tile.source]
            _keep_hot(task)

    def _cut(self, task: TileTask, channel: int) -> np.ndarray:
        """The pixels that a tile sees of a channel, hot ones replaced by their neighbours' median; valid until the
        next."""
        plane, tile = task.source[channel], task.tile
        space = self._edge.array(tile.shape, plane.dtype)
        seen = extract(plane, tile, space)
        if task.hot[channel]:
            if seen is not space:
                np.copyto(space, seen)
            for y, x, median in task.hot[channel]:
                space[pixel_positions(tile, plane.shape, y, x)] = median
            seen = space
        return seen


def _keep_hot(task: TileTask) -> None:
    """Give the hot pixels of a tile's core back as they were."""
    top, bottom, left, right = task.tile.core
    for channel, hot in enumerate(task.hot):
        for y, x, _ in hot:
            if top <= y < bottom and left <= x < right:
                task.target[channel, y, x] = task.source[channel, y, x]


def _same_counts(task: TileTask, session: Uint16Session) -> bool:
    """Whether a task goes from counts that the session takes to counts of the same kind."""
    return task.source.dtype == task.target.dtype and session.takes_uint16(task.source.dtype)
