"""Several files at once: the next are read and the last written while the engine works.

One thread reads, the engine's own restore (`Engine.submit`), others assess, encode and write what is restored,
`WRITERS` at once (the codecs release the GIL), the caller's hands out what is done. Files and bytes are bounded.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress

from ..inference.engine import Engine
from ..inference.request_queue import RestorationFuture
from ..threads import thread_pool
from .item import PipelineItem
from .jobs import Job, Outcome
from .steps import Stopped, discard, read_stage, requests_of, with_result, write_stage

WRITERS = 2
_PATIENCE = 0.2  # s between two looks for signals: on Windows a thread that waits without end is not told of Ctrl-C


def run_concurrently(
    jobs: Iterable[Job], engine: Engine, keep_sharp: bool, ahead: int, memory: int, stop: Stopped
) -> Iterator[Outcome]:
    """See `run.pipeline`."""
    left = threading.Event()  # set: the caller wants no more
    # Files that may share a batch, or the engine, must have been read before their turn.
    files = 2 * ahead + engine.settings.tiles_in_flight
    places, writing = threading.Semaphore(files), threading.Semaphore(WRITERS)
    workers = thread_pool(files, "defocus-writer")
    begun: dict[Future[Outcome | None], int] = {}  # what is not done, with the bytes of each
    ended: queue.SimpleQueue[Future[Outcome | None] | None] = queue.SimpleQueue()  # None: that was all
    broken: list[BaseException] = []  # what the jobs raised

    def read() -> None:
        try:
            for job in jobs:
                places.acquire()
                if left.is_set():
                    break
                item = read_stage(job, memory)
                while memory and begun and sum([*begun.values()]) + item.nbytes > memory:  # one is always let in
                    wait([*begun], return_when=FIRST_COMPLETED)
                future = workers.submit(finish, item, engine.submit(requests_of(item), stop, left.is_set))
                begun[future] = item.nbytes
                future.add_done_callback(begun.pop)
                future.add_done_callback(ended.put)
                del item  # while it waits for the next job, its pixels may go
        except BaseException as error:
            broken.append(error)
        workers.shutdown()
        ended.put(None)

    def finish(item: PipelineItem, restoration: RestorationFuture) -> Outcome | None:
        """The outcome of a file that the engine restores; None if it was left."""
        wait([restoration])
        if restoration.cancelled() or left.is_set():
            return discard(item)
        with writing:
            item = with_result(item, restoration.result, lambda: restoration.seconds)
            return write_stage(item, engine, keep_sharp)

    def next_ended() -> Future[Outcome | None] | None:
        while True:
            with suppress(queue.Empty):
                return ended.get(timeout=_PATIENCE)

    # A daemon: it may wait for a job that comes only when the caller has heard of an error.
    reader = threading.Thread(target=read, name="defocus-reader", daemon=True)
    reader.start()
    future = None
    try:
        while (future := next_ended()) is not None:
            places.release()
            if (outcome := future.result()) is not None:
                yield outcome
        if broken:
            raise broken[0]
    finally:
        left.set()
        places.release()
        if future is None or future.exception() is None:
            reader.join()
        workers.shutdown()
