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


class CancelToken:
    """Once `requested` says yes nothing more is begun; once it is `abandoned`, what was begun is left, too."""

    def __init__(self, requested: Callable[[], bool] = lambda: False) -> None:
        self._requested, self.abandoned = requested, False

    def requested(self) -> bool:
        return self.abandoned or self._requested()


class RestorationFuture(Future[list[np.ndarray]]):
    """Images that were submitted together, and their future. `seconds`: how long the engine took, once it is done."""

    def __init__(self, requests: Sequence[ImageRequest], token: CancelToken) -> None:
        super().__init__()
        self.requests, self.token, self.seconds = list(requests), token, 0.0
        self.shapes = [request.data.shape for request in requests]
        self.planes = sum(plane_count(request.data.shape, request.axes) for request in requests)
        self.size = sum(request.data.size for request in requests)
        self.large = any(is_disk_backed(request.data) for request in requests)  # its tiles fill the engine

    def may_begin(self) -> bool:
        """Whether to work on it; what shall not be begun is cancelled."""
        if not self.running() and self.token.requested():
            self.cancel()
        return self.running() or self.set_running_or_notify_cancel()

    def is_left(self) -> bool:
        """Whether to leave it between two tiles; what is in memory is soon done."""
        return self.token.requested() if self.large else self.token.abandoned

    def end(self, results: Sequence[np.ndarray | BaseException], seconds: float) -> None:
        """Tell what became of the images; one that failed fails all."""
        self.requests, self.seconds = [], seconds
        errors = [result for result in results if isinstance(result, BaseException)]
        if errors:
            self.set_exception(errors[0])
        else:
            self.set_result([result for result in results if isinstance(result, np.ndarray)])


# Images, whether to leave them between two tiles, whether others run beside them: of each its result or error.
Restore = Callable[[Sequence[ImageRequest], Callable[[], bool], bool], list[np.ndarray | DefocusError]]


class RequestQueue:
    """Runs `restore` in `threads` for what is submitted, from any thread, in that order."""

    def __init__(self, restore: Restore, settings: Callable[[], Settings], threads: Executor) -> None:
        self._restore, self._settings, self._threads = restore, settings, threads
        self._pending: deque[RestorationFuture] = deque()
        self._retries: deque[list[RestorationFuture]] = deque()  # refused by a stream, and may do with the whole engine
        self._running, self._exclusive = 0, False
        self._lock = threading.Lock()

    def submit(self, requests: Sequence[ImageRequest], token: CancelToken) -> RestorationFuture:
        restoration = RestorationFuture(requests, token)
        with self._lock:
            self._pending.append(restoration)
            self._dispatch()
        return restoration

    def _dispatch(self) -> None:
        """Begin whatever may run now."""
        settings = self._settings()
        while (self._retries or self._pending) and not self._exclusive and self._running < settings.streams:
            if self._running and (self._retries or self._pending[0].large):
                return
            if self._retries:
                group, self._exclusive = self._retries.popleft(), True
            else:
                group = self._next_group(settings.batch)
                alone = not self._running and (not self._pending or group[0].large)
                self._exclusive = alone or settings.streams == 1
            self._running += 1
            self._threads.submit(self._run, group, self._exclusive)

    def _next_group(self, batch: int) -> list[RestorationFuture]:
        """The next images, and those of the same shape behind them as far as a batch holds them."""
        first = self._pending.popleft()
        group, planes = [first], first.planes
        while planes < batch and self._pending and self._pending[0].shapes == first.shapes and not first.large:
            group.append(self._pending.popleft())
            planes += group[-1].planes
        return group

    def _run(self, group: list[RestorationFuture], exclusive: bool) -> None:
        group = [restoration for restoration in group if restoration.may_begin()]
        requests = [request for restoration in group for request in restoration.requests]
        start = perf_counter()
        results: Sequence[np.ndarray | BaseException]
        try:
            results = self._restore(requests, lambda: all(each.is_left() for each in group), not exclusive)
        except BaseException as error:
            results = [error] * len(requests)
        seconds = (perf_counter() - start) / max(1, sum(restoration.size for restoration in group))
        retry = not exclusive and any(isinstance(result, BackendError) for result in results)
        with self._lock:
            self._running, self._exclusive = self._running - 1, False
            if retry:
                self._retries.append(group)
            self._dispatch()
        remaining = iter(results)
        for restoration in () if retry else group:
            mine = [next(remaining) for _ in restoration.requests]
            restoration.end(mine, seconds * restoration.size)
