"""Turns: who may use the engine when. A lone file has all of it; files that wait together share it, a stream each."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

from ..inference.options import Settings
from .steps import PipelineItem


class Turn(NamedTuple):
    """Files that go through the engine together, and whether nothing else does meanwhile."""

    pieces: list[PipelineItem]
    alone: bool


class Turns:
    """Files that have been read and wait for the engine. All methods may be called from any thread."""

    def __init__(self, threads: int) -> None:
        """`threads` threads take turns."""
        self._most = threads
        self._waiting: deque[PipelineItem] = deque()
        self._running, self._asking = 0, 0
        self._alone = self._complete = self.over = False
        self._changed = threading.Condition()

    def put(self, piece: PipelineItem) -> None:
        """A file has been read."""
        with self._changed:
            self._waiting.append(piece)
            self._changed.notify_all()

    def complete(self) -> None:
        """No more files come."""
        with self._changed:
            self._complete = True
            self._changed.notify_all()

    def end(self) -> None:
        """Nobody gets another turn."""
        with self._changed:
            self.over = True
            self._changed.notify_all()

    def take(self, settings: Settings) -> Turn | None:
        """Wait for a turn; None when there are no more. Each ends with `done`."""
        streams = min(self._most, settings.streams)
        with self._changed:
            self._changed.wait_for(lambda: self._may(streams))
            if self.over or not self._waiting:
                return None
            pieces = [self._waiting.popleft()]
            first = pieces[0]
            planes = settings.batch - first.outcome.planes
            while planes > 0 and self._waiting and _alike(first, self._waiting[0]):
                pieces.append(self._waiting.popleft())
                planes -= pieces[-1].outcome.planes
            self._alone = streams == 1 or (not self._running and (not self._waiting or _large(first)))
            self._running += 1
            return Turn(pieces, self._alone)

    def alone(self) -> None:
        """Make a shared turn one that nobody shares; waits for the others to end theirs."""
        with self._changed:
            self._running -= 1
            self._asking += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._running)
            self._asking -= 1
            self._running, self._alone = 1, True

    def done(self) -> None:
        """A turn is over."""
        with self._changed:
            self._running -= 1
            self._alone = False
            self._changed.notify_all()

    def _may(self, streams: int) -> bool:
        if self.over:
            return True
        if not self._waiting:
            return self._complete
        if self._alone or self._asking or self._running >= streams:
            return False
        return not self._running or not _large(self._waiting[0])


def _large(piece: PipelineItem) -> bool:
    """Whether it lies on disk meanwhile: its tiles share the engine by themselves."""
    return bool(piece.images) and not piece.nbytes


def _alike(one: PipelineItem, other: PipelineItem) -> bool:
    """Whether two files may share a batch."""
    return one.outcome.shape == other.outcome.shape and bool(one.nbytes) and bool(other.nbytes)
