"""Whether the daemon lives: each of its loops beats, and the folders are within reach and have room."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LOOP_STUCK = 120.0  # s without a beat of a loop; a rescan of a large share may take its time
FILE_STUCK = 1800.0  # s on one file


class Health:
    """What `/healthz` and the service manager's watchdog ask. Its methods may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._beats: dict[str, float] = {}
        self._file: tuple[str, float] | None = None
        self._troubles: dict[str, str] = {}

    def beat(self, loop: str) -> None:
        """A loop has come around."""
        with self._lock:
            self._beats[loop] = self._clock()

    def ended(self, loop: str) -> None:
        """A loop has ended as it should."""
        with self._lock:
            self._beats.pop(loop, None)

    def working(self, name: str | None) -> None:
        """The file in hand; None when it is done."""
        with self._lock:
            self._file = None if name is None else (name, self._clock())

    def trouble(self, thing: str, text: str | None) -> None:
        """Something is wrong with a thing (a folder out of reach, a full disk) until told None."""
        with self._lock:
            if text is None:
                self._troubles.pop(thing, None)
            else:
                self._troubles[thing] = text

    def problems(self) -> list[str]:
        """What is wrong now, a line each; empty if all is well."""
        now = self._clock()
        with self._lock:
            found = list(self._troubles.values())
            busy = self._file
            for loop, last in self._beats.items():
                # The engine's loop does not come around while it works on a file.
                if now - last > LOOP_STUCK and not (loop == "engine" and busy):
                    found.append(f"{loop}: no sign of life for {now - last:.0f} s")
            if busy and now - busy[1] > FILE_STUCK:
                found.append(f"{busy[0]}: in hand for {now - busy[1]:.0f} s")
        return found

    def stuck(self) -> bool:
        """Whether a loop hangs: then only a restart helps. A missing share or a full disk heal by themselves."""
        with self._lock:
            troubles = len(self._troubles)
        return len(self.problems()) > troubles
