"""The sessions of an engine: batches go through the network one on all threads, or several side by side.

Side by side they are faster together: a session on many threads waits at each layer for the slowest of them, which is
the one that shares its core with reading or writing (docs/explanation/performance.md).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Executor, wait
from math import prod

from ..errors import OutOfMemoryError
from .backends import Session, StreamsSession
from .options import Settings
from .tile_runner import Batch, TileRunner


class SessionPool:
    """A session, and the narrower ones that share its threads; `threads`, one more than streams, run those.

    The narrow ones are opened when they are needed first: for a single file the session alone is faster.
    """

    def __init__(self, session: Session, channels: int, threads: Executor) -> None:
        self.session, self._wide, self._threads = session, TileRunner(session, channels), threads
        self._narrow: list[TileRunner] = []  # once opened: the wide one where there are none
        self._idle: queue.SimpleQueue[TileRunner] = queue.SimpleQueue()  # of the narrow ones
        self._lock = threading.Lock()

    def run(self, batches: Sequence[Batch], settings: Settings, shared: bool = False) -> None:
        """Restore batches, side by side where there are streams and memory for all of them at once.

        With `shared` they take one stream, and other threads may do the same meanwhile; else nobody else may. Raises
        BackendError when the runtime fails, or what is to share needs all memory; no batch is running any more then.
        """
        pixels = max(len(batch) * prod(batch[0].tile.shape) for batch in batches)
        crowded = settings.needs_all_memory(pixels)
        if shared and crowded:
            raise OutOfMemoryError(self.session.description, "a tile needs all memory", "run it alone")
        wide = not shared and (crowded or len(batches) == 1 or settings.streams == 1)
        self._prepare(wide, pixels, settings)
        restore = self._wide.restore if wide else self._run_in_stream
        if wide or shared:
            for batch in batches:
                restore(batch)
            return
        futures = [self._threads.submit(restore, batch) for batch in batches]
        wait(futures)
        for future in futures:
            future.result()

    def _run_in_stream(self, batch: Batch) -> None:
        runner = self._idle.get()
        try:
            runner.restore(batch)
        finally:
            self._idle.put(runner)

    def _prepare(self, wide: bool, pixels: int, settings: Settings) -> None:
        """Open the streams; what idle sessions keep they give back if there is no memory for it beside such batches."""
        with self._lock:
            if not wide and not self._narrow:
                sessions = self.session.streams(settings.streams) if isinstance(self.session, StreamsSession) else ()
                self._narrow = [TileRunner(session, self._wide.channels) for session in sessions] or [self._wide]
                for runner in self._narrow:
                    self._idle.put(runner)
            busy = [self._wide] if wide else self._narrow
            idle = [runner for runner in (self._wide, *self._narrow) if runner not in busy]
            kept_pixels, needed = sum(runner.kept_pixels for runner in idle), pixels * (1 if wide else settings.streams)
            if kept_pixels and kept_pixels + needed > settings.max_pixels:
                for runner in idle:
                    runner.trim()

    def close(self) -> None:
        """Free all sessions; nothing can be run after."""
        for runner in {self._wide, *self._narrow}:
            runner.session.close()
