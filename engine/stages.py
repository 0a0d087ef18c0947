"""The pipeline's stages side by side: the next files are read and the last ones written while the engine works.

One thread reads, `WRITERS` threads judge, encode and write (the codecs release the GIL), the caller's own runs the
engine. What is in hand is bounded in files and in bytes.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from .jobs import Job, Outcome
from .pipeline import Piece, Stopped, infer_stage, read_stage, write_stage

if TYPE_CHECKING:
    from .engine import Engine

WRITERS = 2
_PATIENCE = 0.2  # s between two looks for signals: on Windows a thread that waits without end is not told of Ctrl-C


class _Budget:
    """Counts files and bytes in hand; whoever would go beyond waits, but one file is always let in."""

    def __init__(self, files: int, size: int) -> None:
        self._files, self._size = files, size
        self._held, self._bytes = 0, 0
        self._changed = threading.Condition()
        self._over = False

    def enter(self) -> bool:
        """Take a place for a file; False when all is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._held < self._files)
            self._held += 1
            return not self._over

    def weigh(self, size: int) -> bool:
        """Take bytes for it; False when all is over."""
        with self._changed:
            free = lambda: self._over or not self._size or not self._bytes or self._bytes + size <= self._size  # noqa: E731
            self._changed.wait_for(free)
            self._bytes += size
            return not self._over

    def leave(self, size: int) -> None:
        """The file is done."""
        with self._changed:
            self._held -= 1
            self._bytes -= size
            self._changed.notify_all()

    def end(self) -> None:
        """Let go whoever waits."""
        with self._changed:
            self._over = True
            self._changed.notify_all()


# What comes from the reader (Piece, None: no more, an exception) and from the writers (Outcome and its bytes).
_Item = Piece | BaseException | tuple[Outcome, int] | None


class _News:
    """What the other threads tell the engine's; `put` may be called from any of them."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._kept: deque[_Item] = deque()
        self.put = self._queue.put

    def get(self) -> _Item:
        """The next one; waits for it."""
        while not self._kept:
            with suppress(queue.Empty):
                self._kept.append(self._queue.get(timeout=_PATIENCE))
        return self._kept.popleft()

    def neighbours(self, piece: Piece, planes: int) -> list[Piece]:
        """Files of the same shape that have been read already, to make up `planes` with it; nobody is waited for."""
        found: list[Piece] = []
        planes -= piece.outcome.planes
        while planes > 0 and piece.nbytes:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if isinstance(item, Piece) and item.outcome.shape == piece.outcome.shape and item.nbytes:
                found.append(item)
                planes -= item.outcome.planes
            else:
                self._kept.append(item)
        return found


def overlapped(
    jobs: Iterable[Job], engine: Engine, only_defocused: bool, ahead: int, memory: int, stop: Stopped
) -> Iterator[Outcome]:
    """See `pipeline.pipeline`; outcomes come in the order in which files are done.

    If the caller leaves early, what is being written is finished and nothing more is begun.
    """
    # Files that may share a batch must have been read before their turn.
    budget = _Budget(2 * ahead + engine.settings.together, memory)
    news = _News()

    def read() -> None:
        try:
            for job in jobs:
                if not budget.enter():
                    return
                piece = read_stage(job, memory)
                if not budget.weigh(piece.nbytes):
                    return
                news.put(piece)
            news.put(None)
        except BaseException as error:  # of the jobs themselves: the caller's own
            news.put(error)

    def write(piece: Piece) -> None:
        try:
            news.put((write_stage(piece, engine, only_defocused), piece.nbytes))
        except BaseException as error:
            news.put(error)

    reader = threading.Thread(target=read, name="defocus-reader", daemon=True)
    reader.start()
    writers = ThreadPoolExecutor(WRITERS, "defocus-writer")
    unwritten, more = 0, True
    try:
        while more or unwritten:
            item = news.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                more = False
            elif isinstance(item, Piece):
                pieces = [item, *news.neighbours(item, engine.settings.together)]
                if stop():
                    for piece in pieces:
                        budget.leave(piece.nbytes)
                    continue
                for piece in infer_stage(pieces, engine, stop):
                    unwritten += 1
                    writers.submit(write, piece)
            else:
                outcome, size = item
                unwritten -= 1
                budget.leave(size)
                yield outcome
    finally:
        budget.end()
        writers.shutdown(wait=True)
        reader.join()
