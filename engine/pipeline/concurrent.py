"""Several files at once: the next are read and the last written while the engine works.

One thread reads, the engine's own restore (`Engine.submit`), `WRITERS` threads assess, encode and write (the codecs
release the GIL), the caller's hands out what is done. Files and bytes in progress are bounded.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ..inference.request_queue import CancelToken
from .item import PipelineItem
from .jobs import Job, Outcome
from .steps import Stopped, discard, read_stage, requests_of, with_result, write_stage

if TYPE_CHECKING:
    from ..inference.engine import Engine

WRITERS = 2
_PATIENCE = 0.2  # s between two looks for signals: on Windows a thread that waits without end is not told of Ctrl-C


class _Budget:
    """Files and bytes in progress; whoever would go beyond waits, but one file is always let in."""

    def __init__(self, files: int, nbytes: int) -> None:
        self._most_files, self._most_bytes = files, nbytes
        self._files, self._bytes, self._over = 0, 0, False
        self._changed = threading.Condition()

    def take(self, files: int = 0, nbytes: int = 0) -> bool:
        """Wait until so much more may be in progress; False when all is over."""

        def fits() -> bool:
            light = not self._most_bytes or not self._bytes or self._bytes + nbytes <= self._most_bytes
            return self._over or (light and self._files + files <= self._most_files)

        with self._changed:
            self._changed.wait_for(fits)
            self._files, self._bytes = self._files + files, self._bytes + nbytes
            return not self._over

    def give_back(self, nbytes: int, over: bool = False) -> None:
        """A file of so many bytes is done, or all is over."""
        with self._changed:
            self._files, self._bytes, self._over = self._files - 1, self._bytes - nbytes, self._over or over
            self._changed.notify_all()


def run_concurrently(
    jobs: Iterable[Job], engine: Engine, keep_sharp: bool, ahead: int, memory: int, stop: Stopped
) -> Iterator[Outcome]:
    """See `run.pipeline`."""
    token = CancelToken(stop)
    # Files that may share a batch, or the engine, must have been read before their turn.
    budget = _Budget(2 * ahead + engine.settings.tiles_in_flight, memory)
    writers = ThreadPoolExecutor(WRITERS, "defocus-writer")
    # Bytes of a file and its outcome (None: it was left), or what broke; bytes are None at the end of the jobs.
    results: queue.SimpleQueue[tuple[int | None, Outcome | BaseException | None]] = queue.SimpleQueue()
    begun, done, complete = [0], 0, False

    def read() -> None:
        try:
            for job in jobs:
                if not budget.take(files=1):
                    return
                item = read_stage(job, memory)
                if not budget.take(nbytes=item.nbytes):
                    return
                restoration = engine.submit(requests_of(item), token)
                begun[0] += 1  # not before: where no thread can be had, nothing would come of it
                restoration.add_done_callback(partial(restored, item))
                del item  # while it waits for the next job, its pixels may go
            results.put((None, None))
        except BaseException as error:  # of the jobs themselves: the caller's own
            results.put((None, error))

    def restored(item: PipelineItem, restoration: Future[Any]) -> None:
        if restoration.cancelled() or token.abandoned:
            discard(item)
            results.put((item.nbytes, None))
        else:
            try:
                writers.submit(write, item, restoration)
            except RuntimeError as error:  # no thread can be had
                results.put((item.nbytes, error))

    def write(item: PipelineItem, restoration: Any) -> None:
        try:
            item = with_result(item, restoration.result, lambda: restoration.seconds)
            results.put((item.nbytes, write_stage(item, engine, keep_sharp)))
        except BaseException as error:
            results.put((item.nbytes, error))

    def next_result() -> tuple[int | None, Outcome | BaseException | None]:
        while True:
            with suppress(queue.Empty):
                return results.get(timeout=_PATIENCE)

    # A daemon: it may wait for a job that comes only when the caller has heard of an error.
    reader = threading.Thread(target=read, name="defocus-reader", daemon=True)
    reader.start()
    outcome: Outcome | BaseException | None = None
    try:
        while not (complete and done == begun[0]):
            nbytes, outcome = next_result()
            complete = complete or nbytes is None
            if nbytes is not None:
                done += 1
                budget.give_back(nbytes)
            if isinstance(outcome, BaseException):
                raise outcome
            if outcome is not None:
                yield outcome
    finally:
        token.abandoned = True
        budget.give_back(0, over=True)
        if not isinstance(outcome, BaseException):
            reader.join()
        while done < begun[0]:
            done += next_result()[0] is not None
        writers.shutdown(wait=True)
