"""Whether the daemon lives: each of its loops beats, and the folders are within reach and have room."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LOOP_STUCK = 120.0  # s without a beat of a loop; a rescan of a large share may take its time
FILE_STUCK = 1800.0  # s on one file without progress


class Health:
    """What `/healthz` and the service manager's watchdog ask. Its methods may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._heartbeats: dict[str, float] = {}
        self._files: dict[str, float] = {}
        self._problems: dict[str, str] = {}

    def reset(self) -> None:
        """A new stretch begins: what was known of the loops, files and folders of the last one is forgotten."""
        with self._lock:
            self._heartbeats, self._files, self._problems = {}, {}, {}

    def heartbeat(self, loop: str) -> None:
        """A loop has come around."""
        with self._lock:
            self._heartbeats[loop] = self._clock()

    def loop_finished(self, loop: str) -> None:
        """A loop has ended as it should."""
        with self._lock:
            self._heartbeats.pop(loop, None)

    def file_started(self, name: str) -> None:
        """A file is in progress."""
        with self._lock:
            self._files[name] = self._clock()

    def file_progress(self) -> None:
        """The files in progress take long, but there is progress."""
        with self._lock:
            self._files = dict.fromkeys(self._files, self._clock())

    def file_finished(self, name: str) -> None:
        """It is done."""
        with self._lock:
            self._files.pop(name, None)

    def set_problem(self, thing: str, text: str | None) -> None:
        """Something is wrong with a thing (a folder out of reach, a full disk) until told None."""
        with self._lock:
            if text is None:
                self._problems.pop(thing, None)
            else:
                self._problems[thing] = text

    def problems(self) -> list[str]:
        """What is wrong now, a line each; empty if all is well."""
        now = self._clock()
        with self._lock:
            problems = list(self._problems.values())
            busy = dict(self._files)
            for loop, last in self._heartbeats.items():
                # The engine's loop does not come around while it has its hands full.
                if now - last > LOOP_STUCK and not (loop == "engine" and busy):
                    problems.append(f"{loop}: no sign of life for {now - last:.0f} s")
            for name, since in busy.items():
                if now - since > FILE_STUCK:
                    problems.append(f"{name}: in progress for {now - since:.0f} s")
        return problems

    def stuck(self) -> bool:
        """Whether a loop hangs: then only a restart helps. A missing share or a full disk heal by themselves."""
        with self._lock:
            lasting = len(self._problems)
        return len(self.problems()) > lasting
