"""The queue: a folder's files that are complete and wait for the engine, bounded and in order (promise P10)."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")
LENGTH = 256


class Order(StrEnum):
    """Which of the waiting files comes next, by the time it was written."""

    OLDEST = "oldest"
    NEWEST = "newest"


class ArrivalQueue(Generic[T]):
    """A bounded queue between threads, ordered by a number.

    With `OLDEST` the thread that puts waits while it is full. With `NEWEST` the oldest leaves it instead (`drop` is
    told): whoever wants the newest image first must not wait behind a backlog, and a rescan finds what has left.
    `changed` is notified of every change; several queues may share one, so that a thread can wait for all of them.
    """

    def __init__(
        self,
        order: Order = Order.OLDEST,
        length: int = LENGTH,
        drop: Callable[[T], None] = lambda item: None,
        changed: threading.Condition | None = None,
    ) -> None:
        self._order, self._length, self._drop = order, length, drop
        self._heap: list[tuple[float, int, T]] = []
        self._count = 0
        self._changed = changed or threading.Condition()

    def __len__(self) -> int:
        with self._changed:
            return len(self._heap)

    def put(self, item: T, time: float, stop: threading.Event, waits: Callable[[], None] = lambda: None) -> None:
        """Add an item; waits while the queue is full (`OLDEST`), but not beyond `stop`, and calls `waits` meanwhile."""
        dropped = None
        with self._changed:
            while self._order is Order.OLDEST and len(self._heap) >= self._length:
                if stop.is_set():
                    return
                waits()
                self._changed.wait(0.5)
            self._count += 1
            heapq.heappush(self._heap, (time if self._order is Order.OLDEST else -time, self._count, item))
            if len(self._heap) > self._length:
                last = max(self._heap)
                self._heap.remove(last)
                heapq.heapify(self._heap)
                dropped = last[2]
            self._changed.notify_all()
        if dropped is not None:
            self._drop(dropped)

    def get(self, timeout: float) -> T | None:
        """The next item, or None if none came within `timeout` seconds."""
        with self._changed:
            if not self._heap and timeout > 0:
                self._changed.wait(timeout)
            if not self._heap:
                return None
            item = heapq.heappop(self._heap)[2]
            self._changed.notify_all()
            return item
