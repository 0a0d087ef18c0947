"""Lanes: batches of tiles go through the network, one on all threads of a processor, or several side by side.

Side by side they are faster together: a session on many threads waits at each layer for the slowest of them, which is
the one that shares its core with reading or writing (docs/explanation/performance.md).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from math import isfinite, prod

import numpy as np

from ..errors import BackendError
from ..image.normalization import clip_with_remainder, from_unit, to_unit
from ..image.tiling import extract, pixel_positions
from .backends import Session, StreamsSession, Uint16Session, not_finite
from .buffer import Buffer
from .options import Settings
from .tasks import TileTask

Batch = list[TileTask]  # of one shape


class Lanes:
    """A session, and the narrower ones that share its threads.

    Those are opened when they are needed first: for a single file the session alone is faster.
    """

    def __init__(self, session: Session, channels: int) -> None:
        self._whole = Lane(session, channels)
        self._narrow: list[Lane] = []
        self._free: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None
        self._opening, self._gathering = threading.Lock(), threading.Lock()
        self._alone = not isinstance(session, StreamsSession)
        if self._alone:
            self._free.put(self._whole)

    @property
    def session(self) -> Session:
        """The one on all threads."""
        return self._whole.session

    def run(self, batches: Sequence[Batch], settings: Settings) -> None:
        """Restore batches, one in each stream at once, or one after the other where there are no streams, or no memory
        for all at once.

        Nobody else may run one meanwhile. Raises BackendError when the runtime fails; none of the batches is running
        any more then.
        """
        streams = settings.streams
        crowded = any(settings.needs_all_memory(_pixels(batch)) for batch in batches)
        if crowded or len(batches) == 1 or streams == 1 or not self._open(streams):
            for batch in batches:
                self._restore_alone(batch, settings)
            return
        self._make_room([self._whole], streams * max(map(_pixels, batches)), settings)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(streams, "defocus-stream")
        abreast = len(self._narrow)
        for first in range(0, len(batches), abreast):
            pairs = zip(self._narrow, batches[first : first + abreast], strict=False)
            running = [self._threads.submit(lane.restore, batch) for lane, batch in pairs]
            wait(running)
            for one in running:
                one.result()

    def run_one(self, batch: Batch, settings: Settings) -> None:
        """Restore a batch in one of the streams, while other threads do the same; waits until one is free, or all are
        where it needs all memory.

        Raises BackendError when the runtime fails.
        """
        if self._open(settings.streams) and settings.needs_all_memory(_pixels(batch)):
            with self._gathering:  # of two threads that gather lanes each would wait for the other's
                lanes = [self._free.get() for _ in self._narrow]
            try:
                self._restore_alone(batch, settings)
            finally:
                for lane in lanes:
                    self._free.put(lane)
            return
        lane = self._free.get()
        try:
            if lane is not self._whole:
                self._make_room([self._whole], settings.streams * _pixels(batch), settings)
            lane.restore(batch)
        finally:
            self._free.put(lane)

    def close(self) -> None:
        """Free all sessions; nothing can be run after."""
        if self._threads is not None:
            self._threads.shutdown(wait=True)
        for lane in (self._whole, *self._narrow):
            lane.session.close()

    def _restore_alone(self, batch: Batch, settings: Settings) -> None:
        self._make_room(self._narrow, _pixels(batch), settings)
        self._whole.restore(batch)

    def _make_room(self, idle: Sequence[Lane], pixels: int, settings: Settings) -> None:
        """Let lanes that nobody runs give back what they keep, if there is no memory for that beside so many pixels."""
        with self._opening:
            kept = sum(lane.kept_pixels for lane in idle)
            if kept and kept + pixels > settings.max_pixels:
                for lane in idle:
                    lane.trim()

    def _open(self, streams: int) -> bool:
        """Open the streams, once; whether there are any to be had."""
        with self._opening:
            if not self._narrow and not self._alone:
                assert isinstance(self.session, StreamsSession)
                self._narrow = [Lane(session, self._whole.channels) for session in self.session.streams(streams)]
                self._alone = not self._narrow
                for lane in self._narrow or [self._whole]:
                    self._free.put(lane)
            return not self._alone


class Lane:
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
        self.kept_pixels = max(self.kept_pixels, _pixels(batch))
        session = self.session
        if isinstance(session, Uint16Session) and all(_same_counts(piece, session) for piece in batch):
            self._restore_counts(session, batch, shape)
            return
        units = self._batch.array(shape, np.float32)
        for unit, piece in zip(units, batch, strict=True):
            for channel, intensity in enumerate(piece.intensities):
                if intensity.flat:
                    unit[channel] = 0
                else:
                    to_unit(self._cut(piece, channel), intensity, out=unit[channel])
        units, remainder = clip_with_remainder(units)
        restored = session.run(units)
        if restored.shape != units.shape:
            cause = f"gave shape {restored.shape} for {units.shape}"
            raise BackendError(session.description, cause, "export the model again with defocus-export")
        if not (isfinite(restored.min()) and isfinite(restored.max())):  # NaN comes through both
            raise not_finite(session.description)
        if remainder is not None:
            restored += remainder
        for unit, piece in zip(restored, batch, strict=True):
            source, target, tile = piece.source, piece.target, piece.tile
            for channel, intensity in enumerate(piece.intensities):
                core = (channel, *tile.target)
                if intensity.flat:
                    target[core] = source[core]
                else:
                    from_unit(unit[(channel, *tile.source)], intensity, target.dtype, out=target[core])
            _keep_hot(piece)

    def _restore_counts(self, session: Uint16Session, batch: Batch, shape: tuple[int, ...]) -> None:
        """The same where the session converts the counts itself."""
        taken = self._batch.array(shape, np.uint16)
        for counts, piece in zip(taken, batch, strict=True):
            for channel, plane in enumerate(counts):
                plane[:] = self._cut(piece, channel)
        restored = session.run_uint16(taken, [piece.intensities for piece in batch])
        for counts, piece in zip(restored, batch, strict=True):
            for plane, target in zip(counts, piece.target, strict=True):
                target[piece.tile.target] = plane[piece.tile.source]
            _keep_hot(piece)

    def _cut(self, piece: TileTask, channel: int) -> np.ndarray:
        """The pixels that a tile sees of a channel, hot ones replaced by their neighbours' median; valid until the
        next."""
        plane, tile = piece.source[channel], piece.tile
        room = self._edge.array(tile.shape, plane.dtype)
        seen = extract(plane, tile, room)
        if piece.hot[channel]:
            if seen is not room:
                np.copyto(room, seen)
            for y, x, median in piece.hot[channel]:
                room[pixel_positions(tile, plane.shape, y, x)] = median
            seen = room
        return seen


def _pixels(batch: Batch) -> int:
    return len(batch) * prod(batch[0].tile.shape)


def _keep_hot(piece: TileTask) -> None:
    """Give the hot pixels of a tile's core back as they were."""
    top, bottom, left, right = piece.tile.core
    for channel, hot in enumerate(piece.hot):
        for y, x, _ in hot:
            if top <= y < bottom and left <= x < right:
                piece.target[channel, y, x] = piece.source[channel, y, x]


def _same_counts(piece: TileTask, session: Uint16Session) -> bool:
    """Whether a piece goes from counts that the session takes to counts of the same kind."""
    return piece.source.dtype == piece.target.dtype and session.takes_uint16(piece.source.dtype)
