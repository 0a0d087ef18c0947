"""Images wait here for the engine: a lone one has all of it, those that wait together share it, a stream each."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from time import perf_counter

import numpy as np

from ..errors import BackendError, DefocusError
from ..image.axes import plane_count
from ..image.memmap import is_disk_backed
from .options import Settings
from .tasks import ImageRequest

Asked = Callable[[], bool]


class RestorationFuture(Future[list[np.ndarray]]):
    """Images that were submitted together, and their future. `seconds`: how long the engine took, once it is done."""

    def __init__(self, requests: Sequence[ImageRequest], stop: Asked, abandoned: Asked) -> None:
        super().__init__()
        self.requests, self.stop, self.abandoned, self.seconds = list(requests), stop, abandoned, 0.0
        self.shapes = [request.data.shape for request in requests]
        self.planes = sum(plane_count(request.data.shape, request.axes) for request in requests)
        self.large = any(is_disk_backed(request.data) for request in requests)

    def alone(self) -> bool:
        """Whether it needs the whole engine: its tiles fill it, or a stream refused it before."""
        return self.large or self.running()

    def may_begin(self) -> bool:
        """Whether to work on it; what shall not be begun is cancelled."""
        if self.stop() or self.abandoned():
            self.cancel()  # unless it runs
        return self.running() or self.set_running_or_notify_cancel()

    def is_left(self) -> bool:
        """Whether to leave it between two tiles; what is in memory is soon done."""
        return self.abandoned() or (self.large and self.stop())

    def end(self, results: Sequence[np.ndarray | BaseException], seconds: float) -> None:
        """Tell what became of the images; one that failed fails all."""
        self.requests, self.seconds = [], seconds
        errors = [result for result in results if isinstance(result, BaseException)]
        if errors:
            self.set_exception(errors[0])
        else:
            self.set_result([result for result in results if isinstance(result, np.ndarray)])


# Images, whether to leave them between two tiles, whether others run beside them: of each its result or error.
Restore = Callable[[Sequence[ImageRequest], Asked, bool], list[np.ndarray | DefocusError]]


class RequestQueue:
    """Runs `restore` in `threads` for what is submitted, from any thread, in that order."""

    def __init__(self, restore: Restore, settings: Callable[[], Settings], threads: Executor) -> None:
        self._restore, self._settings, self._threads = restore, settings, threads
        self._pending: deque[RestorationFuture] = deque()
        self._running, self._exclusive = 0, False
        self._lock = threading.Lock()

    def submit(self, requests: Sequence[ImageRequest], stop: Asked, abandoned: Asked) -> RestorationFuture:
        restoration = RestorationFuture(requests, stop, abandoned)
        with self._lock:
            self._pending.append(restoration)
            self._dispatch()
        return restoration

    def _dispatch(self) -> None:
        """Begin whatever may run now."""
        settings = self._settings()
        while self._pending and not self._exclusive and self._running < settings.streams:
            first = self._pending[0]
            if self._running and first.alone():
                return
            group = [self._pending.popleft()]
            most = 1 if first.alone() else settings.batch
            while first.planes * len(group) < most and self._pending and self._pending[0].shapes == first.shapes:
                group.append(self._pending.popleft())  # they share batches
            lone = first.alone() or not self._pending
            self._exclusive = settings.streams == 1 or (lone and not self._running)
            self._running += 1
            self._threads.submit(self._run, group, self._exclusive)

    def _run(self, group: list[RestorationFuture], exclusive: bool) -> None:
        group = [restoration for restoration in group if restoration.may_begin()]
        requests = [request for restoration in group for request in restoration.requests]
        start = perf_counter()
        try:
            results = self._restore(
                requests, lambda: all(restoration.is_left() for restoration in group), not exclusive
            )
        except BaseException as error:
            results = [error] * len(requests)
        seconds = (perf_counter() - start) / max(1, len(group))  # all have the same shapes
        refused = not exclusive and any(isinstance(result, BackendError) for result in results)
        with self._lock:
            self._running, self._exclusive = self._running - 1, False
            for restoration in group if refused else ():  # they come first, in their order
                self._pending.insert(sum(pending.running() for pending in self._pending), restoration)
            self._dispatch()
        remaining = iter(results)
        for restoration in () if refused else group:
            restoration.end([next(remaining) for _ in restoration.requests], seconds)
