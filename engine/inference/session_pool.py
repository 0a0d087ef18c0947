"""The sessions of an engine: batches go through the network one on all threads, or several side by side.

Side by side they are faster together: a session on many threads waits at each layer for the slowest of them, which is
the one that shares its core with reading or writing (docs/explanation/performance.md).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Executor, wait
from contextlib import nullcontext
from math import prod

from .backends import Session, StreamsSession
from .options import Settings
from .tile_runner import Batch, TileRunner


class SessionPool:
    """A session, and the narrower ones that share its threads; `threads`, one more than streams, run those.

    The narrow ones are opened when they are needed first: for a single file the session alone is faster.
    """

    def __init__(self, session: Session, channels: int, threads: Executor) -> None:
        self._wide, self._threads = TileRunner(session, channels), threads
        self._narrow: list[TileRunner] | None = None  # not opened yet; empty: there are none
        self._idle: queue.SimpleQueue[TileRunner] = queue.SimpleQueue()
        self._opening, self._gathering = threading.Lock(), threading.Lock()

    @property
    def session(self) -> Session:
        """The one on all threads."""
        return self._wide.session

    def run(self, batches: Sequence[Batch], settings: Settings, shared: bool = False) -> None:
        """Restore batches, one in each stream at once, or one after the other where there are no streams, or no memory
        for all at once.

        With `shared` each takes one stream, or all where it needs all memory, and other threads may do the same; else
        nobody may meanwhile. Raises BackendError when the runtime fails; none of the batches is running any more then.
        """
        streams = settings.streams
        crowded = any(settings.needs_all_memory(_pixels(batch)) for batch in batches)
        if shared:
            self._open_streams(streams)
            for batch in batches:
                self._run_in_stream(batch, settings)
        elif crowded or len(batches) == 1 or streams == 1 or not self._open_streams(streams):
            for batch in batches:
                self._run_alone(batch, settings)
        else:
            futures = [self._threads.submit(self._run_in_stream, batch, settings) for batch in batches]
            wait(futures)
            for future in futures:
                future.result()

    def _run_in_stream(self, batch: Batch, settings: Settings) -> None:
        everything = bool(self._narrow) and settings.needs_all_memory(_pixels(batch))
        with self._gathering if everything else nullcontext():  # of two that gather each would wait for the other's
            runners = [self._idle.get() for _ in (self._narrow if everything and self._narrow else (0,))]
        try:
            if everything:
                self._run_alone(batch, settings)
                return
            if runners[0] is not self._wide:
                self._make_room([self._wide], settings.streams * _pixels(batch), settings)
            runners[0].restore(batch)
        finally:
            for runner in runners:
                self._idle.put(runner)

    def _run_alone(self, batch: Batch, settings: Settings) -> None:
        self._make_room(self._narrow or [], _pixels(batch), settings)
        self._wide.restore(batch)

    def _make_room(self, idle: Sequence[TileRunner], pixels: int, settings: Settings) -> None:
        """Let runners that nobody uses give back what they keep, if there is no memory for it beside so many pixels."""
        with self._opening:
            kept = sum(runner.kept_pixels for runner in idle)
            if kept and kept + pixels > settings.max_pixels:
                for runner in idle:
                    runner.trim()

    def close(self) -> None:
        """Free all sessions; nothing can be run after."""
        for runner in (self._wide, *(self._narrow or ())):
            runner.session.close()

    def _open_streams(self, count: int) -> bool:
        """Open the narrow sessions, once; whether there are any to be had."""
        with self._opening:
            if self._narrow is None:
                wide = self.session
                sessions = wide.streams(count) if isinstance(wide, StreamsSession) else ()
                self._narrow = [TileRunner(session, self._wide.channels) for session in sessions]
                for runner in self._narrow or [self._wide]:
                    self._idle.put(runner)
            return bool(self._narrow)


def _pixels(batch: Batch) -> int:
    return len(batch) * prod(batch[0].tile.shape)
