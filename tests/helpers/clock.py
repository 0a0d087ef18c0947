"""A clock that stands still until a test moves it."""

from __future__ import annotations

import threading


class ManualClock:
    """Takes the place of `defocus.watcher.clock.SystemClock`; its methods may be called from any thread."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now, self._moved = now, threading.Condition()
        self._waiting: dict[int, tuple[threading.Event, float]] = {}

    def monotonic(self) -> float:
        return self._now

    def time(self) -> float:
        return 1.7e9 + self._now

    def advance(self, seconds: float) -> None:
        """Let time go on; whoever waits for that wakes up."""
        with self._moved:
            self._now += seconds
            self._moved.notify_all()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Until `event` is set or the clock has been moved so far; an event is noticed within some ms."""
        with self._moved:
            end = self._now + seconds
            self._waiting[threading.get_ident()] = event, end
            while not event.is_set() and self._now < end:
                self._moved.wait(0.005)
            del self._waiting[threading.get_ident()]
        return event.is_set()

    def idle(self) -> bool:
        """Whether a thread waits for a time that is still to come: it has done what was due until now."""
        with self._moved:
            return any(end > self._now and not event.is_set() for event, end in self._waiting.values())
