"""The pipeline's stages side by side: the next files are read and the last ones written while the engine works.

One thread reads, `WRITERS` threads judge, encode and write (the codecs release the GIL), the caller's own runs the
engine. What is in hand is bounded in files and in bytes.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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


def overlapped(
    jobs: Iterable[Job], engine: Engine, only_defocused: bool, ahead: int, memory: int, stop: Stopped
) -> Iterator[Outcome]:
    """See `pipeline.pipeline`; outcomes come in the order in which files are done.

    If the caller leaves early, what is being written is finished and nothing more is begun.
    """
    budget = _Budget(2 * ahead + 1, memory)
    # What comes from the reader (Piece, None: no more, an exception) and from the writers (Outcome and its bytes).
    news: queue.SimpleQueue[Piece | BaseException | tuple[Outcome, int] | None] = queue.SimpleQueue()

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
            try:
                item = news.get(timeout=_PATIENCE)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            if item is None:
                more = False
            elif isinstance(item, Piece):
                if stop():
                    budget.leave(item.nbytes)
                    continue
                unwritten += 1
                writers.submit(write, infer_stage(item, engine, stop))
            else:
                outcome, size = item
                unwritten -= 1
                budget.leave(size)
                yield outcome
    finally:
        budget.end()
        writers.shutdown(wait=True)
        reader.join()
