"""Time as the daemon asks for it, so that tests can move it: settling, rescans, retries and pauses go by one clock."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """What tells the time, and waits."""

    def monotonic(self) -> float:
        """Seconds that only go forward; for intervals."""
        ...

    def time(self) -> float:
        """Seconds since 1970; for the age of files."""
        ...

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait until `event` is set, at most so long; whether it is set."""
        ...


class SystemClock:
    """The computer's own."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(max(seconds, 0.0))


SYSTEM_CLOCK = SystemClock()
