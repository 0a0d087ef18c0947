"""The pipeline's stages side by side: the next files are read and the last ones written while the engine works.

One thread reads, one for each of the engine's streams runs it, `WRITERS` threads judge, encode and write (the codecs
release the GIL), the caller's own hands out what is done. What is in hand is bounded in files and in bytes.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import BackendError
from .jobs import Job, Outcome
from .steps import PipelineItem, Stopped, infer_stage, read_stage, write_stage
from .turns import Turns

if TYPE_CHECKING:
    from ..inference.engine import Engine

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


# An outcome (None: the file was left) and its bytes, how many files there were, what broke.
_Item = tuple[Outcome | None, int] | int | BaseException


class _News:
    """What the other threads tell the caller's; `put` may be called from any of them."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self.put = self._queue.put

    def get(self) -> _Item:
        """The next one; waits for it."""
        while True:
            with suppress(queue.Empty):
                return self._queue.get(timeout=_PATIENCE)


def overlapped(
    jobs: Iterable[Job], engine: Engine, keep_sharp: bool, ahead: int, memory: int, stop: Stopped
) -> Iterator[Outcome]:
    """See `pipeline.pipeline`; outcomes come in the order in which files are done.

    If the caller leaves early, what is being written is finished, what is being restored is left between two tiles, and
    nothing more is begun.
    """
    # Files that may share a batch, or the engine, must have been read before their turn.
    budget = _Budget(2 * ahead + engine.settings.tiles_in_flight, memory)
    news, turns = _News(), Turns(engine.settings.streams)
    writers = ThreadPoolExecutor(WRITERS, "defocus-writer")

    def read() -> None:
        count = 0
        try:
            for job in jobs:
                if not budget.enter():
                    return
                piece = read_stage(job, memory)
                if not budget.weigh(piece.nbytes):
                    return
                turns.put(piece)
                count += 1
                del piece  # while it waits for the next job, its pixels may go
            news.put(count)
        except BaseException as error:  # of the jobs themselves: the caller's own
            news.put(error)
        finally:
            turns.complete()

    def over() -> bool:
        return turns.over

    def restore() -> None:
        try:
            while turn := turns.take(engine.settings):
                pieces, alone = turn
                try:
                    left = stop()
                    if not left:
                        pieces = infer_stage(turn.pieces, engine, stop, not alone, over)
                        if not alone and any(isinstance(piece.outcome.error, BackendError) for piece in pieces):
                            turns.alone()  # it may find a way when it has the engine to itself
                            pieces = infer_stage(turn.pieces, engine, stop, False, over)
                finally:
                    turns.done()
                for piece in pieces:
                    if left or turns.over:
                        news.put((None, piece.nbytes))
                    else:
                        writers.submit(write, piece)
                del turn, pieces, piece  # likewise
        except BaseException as error:
            news.put(error)

    def write(piece: PipelineItem) -> None:
        try:
            news.put((write_stage(piece, engine, keep_sharp), piece.nbytes))
        except BaseException as error:
            news.put(error)

    threads = [threading.Thread(target=read, name="defocus-reader", daemon=True)]
    for number in range(engine.settings.streams):
        threads.append(threading.Thread(target=restore, name=f"defocus-engine-{number}", daemon=True))
    for thread in threads:
        thread.start()
    done, count, broken = 0, None, False
    try:
        while done != count:
            item = news.get()
            if isinstance(item, BaseException):
                broken = True
                raise item
            if isinstance(item, int):
                count = item
                continue
            outcome, size = item
            done += 1
            budget.leave(size)
            if outcome is not None:
                yield outcome
    finally:
        budget.end()
        turns.end()
        # The reader may wait for a job that comes only when the caller has heard of the error.
        for thread in threads[1:] if broken else threads:
            thread.join()
        writers.shutdown(wait=True)
