"""What the operating system tells of changes in the acquisition folder, through watchdog (promise P4).

They only make us look sooner. If the observer cannot start, dies, overflows or keeps silent, as on network shares,
the periodic rescan finds everything all the same.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from watchdog.events import FileSystemEvent, FileSystemEventHandler

from .completeness import suffix_matches

MOST = 10_000  # events that are kept; of more, the oldest are dropped and left to the rescan


@dataclass(frozen=True)
class FileEvent:
    """Something happened to a file; `closed` when its writer closed it or it was moved here whole."""

    path: Path
    closed: bool
    time: float  # monotonic


class FileEvents(FileSystemEventHandler):
    """Collects events from watchdog's thread; `take` and `wait` serve ours."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._queue = folder, deque[FileEvent](maxlen=MOST)
        self._wake = threading.Event()
        self._observer: Any = None

    def start(self) -> str | None:
        """Start observing; return why it cannot, in a few words, or None."""
        from watchdog.observers import Observer

        self.stop()
        try:
            observer = Observer()  # takes an inotify instance, of which a user has 128
            observer.schedule(self, str(self._folder), recursive=True)
            observer.start()
        except OSError as error:  # no instance, watch or descriptor left, a share that has none
            return error.strerror or str(error)
        self._observer = observer
        return None

    def alive(self) -> bool:
        """Whether the observer and the thread that reads the system's events still run."""
        observer = self._observer
        return observer is not None and observer.is_alive() and all(one.is_alive() for one in observer.emitters)

    def stop(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            with suppress(RuntimeError):
                observer.stop()
                observer.join(5)

    def take(self) -> list[FileEvent]:
        """The events that have come since, one a file: its last time, and whether it was closed meanwhile."""
        self._wake.clear()
        taken: dict[Path, FileEvent] = {}
        with suppress(IndexError):
            while True:
                event = self._queue.popleft()
                before = taken.get(event.path)
                taken[event.path] = event if before is None else replace(event, closed=event.closed or before.closed)
        return list(taken.values())

    def wait(self, seconds: float) -> None:
        """Wait until a hint comes or `wake` is called, at most so long."""
        self._wake.wait(max(seconds, 0))

    def wake(self) -> None:
        self._wake.set()

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.is_directory or event.event_type in ("opened", "closed_no_write", "deleted"):
            return
        moved = event.event_type == "moved"
        path = Path(os.fsdecode(event.dest_path if moved else event.src_path))
        if suffix_matches(path.name):
            self._queue.append(FileEvent(path, moved or event.event_type == "closed", time.monotonic()))
            self._wake.set()
