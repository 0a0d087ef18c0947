"""What the operating system tells of changes in the acquisition folder, through watchdog (promise P4).

They only make us look sooner. If the observer cannot start, dies, overflows or keeps silent, as on network shares,
the periodic rescan finds everything all the same.
"""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from watchdog.events import FileSystemEvent, FileSystemEventHandler

from ...engine.errors import shortage
from ...engine.formats.names import is_store
from ..clock import SYSTEM_CLOCK, Clock
from .completeness import suffix_matches

if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver

_WATCH = re.compile(r"^inotify wd:\S+ ino:([0-9a-f]+)", re.MULTILINE)
MOST = 10_000  # events that are kept; of more, the oldest are dropped and left to the rescan


@dataclass(frozen=True)
class FileEvent:
    """Something happened to a file; `closed` when its writer closed it or it was moved here whole."""

    path: Path
    closed: bool
    time: float  # monotonic


class FileEvents(FileSystemEventHandler):
    """Collects events from watchdog's thread; `take` and `wait` serve ours."""

    def __init__(self, folder: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self._folder, self._queue, self._clock = folder, deque[FileEvent](maxlen=MOST), clock
        self._wake = threading.Event()
        self._observer: BaseObserver | None = None

    def start(self) -> str | None:
        """Start observing; return why it cannot, in a few words, or None."""
        from watchdog.observers import Observer

        self.stop()
        observer = None
        try:
            observer = Observer()  # takes an inotify instance, of which a user has 128
            observer.schedule(self, str(self._folder), recursive=True)
            observer.start()
        except OSError as error:  # no instance, watch or descriptor left, a share that has none
            _end(observer)
            return error.strerror or str(error)
        except RecursionError:
            _end(observer)
            return "its folders are nested too deep"
        except RuntimeError as error:
            _end(observer)
            if (problem := shortage(error)) is None:
                raise
            return problem[0]
        self._observer = observer
        return None

    def alive(self) -> bool:
        """Whether the observer and the thread that reads the system's events still run."""
        observer = self._observer
        return observer is not None and observer.is_alive() and all(emitter.is_alive() for emitter in observer.emitters)

    def stop(self) -> None:
        """Stop observing, if it does."""
        observer, self._observer = self._observer, None
        _end(observer)

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
        """Wait until an event comes, at most so long."""
        self._clock.wait(self._wake, seconds)

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("opened", "closed_no_write", "deleted"):
            return
        moved = event.event_type == "moved"
        path = Path(os.fsdecode(event.dest_path if moved else event.src_path))
        if event.is_directory and not is_store(path):
            return
        if suffix_matches(path.name):
            self._queue.append(FileEvent(path, moved or event.event_type == "closed", self._clock.monotonic()))
            self._wake.set()


def _end(observer: BaseObserver | None) -> None:
    """Stop an observer, also one that did not start as a whole: some of its threads may run."""
    if observer is None:
        return
    with suppress(RuntimeError, OSError):
        observer.stop()
        observer.join(5)


def first_unobserved(folder: Path, inodes: Mapping[str, int]) -> Path | None:
    """A folder of a tree that the system sends no events of, although it sends those of `folder`.

    The system's watches may run out in the middle of a tree, of which watchdog says nothing; Linux lists those of a
    process. None also where that cannot be told: elsewhere, or on file systems with inodes of their own for watches.
    """
    observed = _observed_inodes()
    if inodes[os.fspath(folder)] not in observed:
        return None
    for path, inode in sorted(inodes.items()):
        with suppress(OSError):
            # A listing tells the inode under a mount, not its own.
            if inode not in observed and os.stat(path).st_ino not in observed:
                return Path(path)
    return None


def _observed_inodes() -> set[int]:
    """The inodes on which this process has inotify watches."""
    observed: set[int] = set()
    with suppress(OSError):
        for number in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if os.readlink(f"/proc/self/fd/{number}") == "anon_inode:inotify":
                    text = Path(f"/proc/self/fdinfo/{number}").read_text()
                    observed |= {int(match[1], 16) for match in _WATCH.finditer(text)}
    return observed
