"""Arrivals: a generator of the files in an acquisition folder that are complete and not yet dealt with.

Events make it quick, a periodic rescan makes it sure (promise P4). Nothing in the folder is ever changed (P1).
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ...engine.errors import InputError, printable
from ...engine.pipeline.steps import Stat, stat_of
from .completeness import Completeness, PendingFile, is_file, is_folder, look, suffix_matches
from .fs_events import FileEvents

LONGEST_WAIT = 0.5  # s until `stop` is looked at again


@dataclass(frozen=True)
class Arrival:
    """A file that is complete, or that is bad (`problem`) and has stayed so beyond our patience.

    Attributes
    ----------
    relative : Path
        Path below the acquisition folder.
    stat : (size in bytes, mtime in ns)
        The version that was found complete.
    seen : float
        Monotonic time at which its writer closed it, or it last changed as far as we know.
    recalled : bool
        It has not come now: it was dealt with before, and comes along for the sake of its partner (see `partners`).
    others : tuple of Arrival
        The files that belong together with it: it holds the first channel, they the next ones, in order.
    """

    path: Path
    relative: Path
    stat: Stat
    seen: float
    problem: InputError | None = None
    recalled: bool = False
    others: tuple[Arrival, ...] = ()

    def each(self) -> tuple[Arrival, ...]:
        """Its files one by one, in the order of channels."""
        return (replace(self, others=()), *self.others)

    @property
    def name(self) -> str:
        """`relative` as it is shown and written down."""
        return printable(self.relative.as_posix())


@dataclass(frozen=True)
class ScanTiming:
    """How arrivals are looked for; all in seconds.

    Attributes
    ----------
    settle : how long a file must be unchanged where the system does not tell of its close.
    rescan : time between two looks at the whole folder.
    patience : how long an unchanged file may be broken before it is quarantined.
    polling : rescans only, without the system's events, for network shares that send none.
    """

    settle: float = 2.0
    rescan: float = 5.0
    patience: float = 30.0
    polling: bool = False


def arrivals(
    folder: Path,
    stop: threading.Event,
    known: Callable[[Path, Stat, bool], bool],
    pace: ScanTiming | None = None,
    until: Callable[[], bool] | None = None,
    warn: Callable[[str], None] = lambda text: None,
    beat: Callable[[bool], None] = lambda reachable: None,
) -> Iterator[Arrival]:
    """Yield each complete file below `folder`, oldest first, until `stop` is set.

    Parameters
    ----------
    known : function (relative path, stat, from_event) -> bool
        Whether this version has been yielded or dealt with. `from_event` says that the system told of a change, so that
        the content may be another although the stat is the same.
    until : function () -> bool, optional
        Asked before each rescan; if it says yes and the rescan finds nothing that is not known, that is the end.
    warn : function (str)
        Told, in a line, when the folder cannot be reached or is not observed.
    beat : function (bool)
        Called each time around, with whether the folder can be reached.
    """
    pace = pace or ScanTiming()
    waiting: dict[Path, PendingFile] = {}
    watcher = FolderWatcher(folder, pace, warn)
    next_scan = time.monotonic()
    try:
        while not stop.is_set():
            for event in watcher.events.take():
                _notice(folder, event.path, waiting, known, event.time, event.closed, from_event=True)
            now = time.monotonic()
            if now >= next_scan:
                may_end = until is not None and until()
                for path in watcher.scan():
                    _notice(folder, path, waiting, known, time.monotonic(), closed=False, from_event=False)
                if may_end and watcher.reachable and not waiting:
                    return
                next_scan = now + pace.rescan
            beat(watcher.reachable)
            yield from _ready(folder, waiting, pace)
            due = min((one.due(pace.settle) for one in waiting.values()), default=next_scan)
            watcher.events.wait(min(max(due, now + 0.02), next_scan, now + LONGEST_WAIT) - time.monotonic())
    finally:
        watcher.events.stop()


def scan(folder: Path, skipped: Callable[[Path, OSError], None] = lambda path, error: None) -> Iterator[Path]:
    """The TIFF files below a folder; linked folders are not entered.

    `skipped` is told of a subfolder that has gone, or cannot be read. Raises OSError if the folder itself cannot.
    """
    folders = [folder]
    while folders:
        current = folders.pop()
        try:
            entries = list(os.scandir(current))
        except OSError as error:
            if current == folder:
                raise
            skipped(current, error)
            continue
        for entry in entries:
            if is_folder(entry):
                if not entry.name.startswith("."):
                    folders.append(Path(entry.path))
            elif suffix_matches(entry.name) and is_file(entry):
                yield Path(entry.path)


class FolderWatcher:
    """Events and rescans of one folder, and whether it can be reached."""

    def __init__(self, folder: Path, pace: ScanTiming, warn: Callable[[str], None]) -> None:
        self.folder, self.events, self.reachable = folder, FileEvents(folder), True
        self._polling, self._warn = pace.polling, warn
        self._told: str | None = None
        self._mounted = False
        self._identity: tuple[int, int] | None = None
        self._skipped: dict[Path, OSError] = {}

    def scan(self) -> list[Path]:
        """The files that are there; none while the folder cannot be reached."""
        try:
            found = self._listed()
            if self._observe():
                found = self._listed()  # what came between the two has sent no event
        except OSError as error:
            if self.reachable:
                self._warn(f"{self.folder}: cannot be reached ({error.strerror}); waiting for it to come back")
            self.reachable = False
            self.events.stop()  # it watches a folder that is not there any more
            return []
        if not self.reachable:
            self._warn(f"{self.folder}: is back")
            self.reachable = True
        return found

    def _listed(self) -> list[Path]:
        """Raises OSError if the folder cannot be listed, or is the empty place that an unmounted share leaves."""
        there = os.stat(self.folder)
        mounted = os.path.ismount(self.folder)
        if self._mounted and not mounted:
            raise OSError(errno.ENODEV, "no longer mounted")
        self._mounted = mounted
        if self._identity not in (None, (there.st_dev, there.st_ino)):
            self.events.stop()  # another folder is in its place; the observer sees the old one
        self._identity = there.st_dev, there.st_ino
        before, self._skipped = self._skipped, {}
        found = list(scan(self.folder, self._skipped.__setitem__))
        for path, error in self._skipped.items():
            if path not in before and not isinstance(error, FileNotFoundError):
                self._warn(f"{path}: cannot be read ({error.strerror}); its files wait, the rest goes on")
        return found

    def _observe(self) -> bool:
        """Start the observer if it does not run; whether it was started."""
        if self._polling or self.events.alive():
            return False
        reason = self.events.start()
        if reason and reason != self._told:
            self._warn(f"{self.folder}: the system does not tell of new files ({reason}); looking every rescan")
        self._told = reason
        return reason is None


def _notice(
    folder: Path,
    path: Path,
    waiting: dict[Path, PendingFile],
    known: Callable[[Path, Stat, bool], bool],
    now: float,
    closed: bool,
    from_event: bool,
) -> None:
    """Start or go on waiting for a file that was told of or found; what `scan` would not find is nothing of ours."""
    try:
        stat = stat_of(path)
        relative = path.relative_to(folder)
    except (OSError, ValueError):
        waiting.pop(path, None)
        return
    if from_event and (not path.is_file() or any(part.startswith(".") for part in relative.parts[:-1])):
        waiting.pop(path, None)
        return
    one = waiting.get(path)
    if one is None:
        if not known(relative, stat, from_event):
            waiting[path] = PendingFile(stat, since=now, seen=now, closed=closed)
        return
    if stat != one.stat:
        one.changed(stat, now)
    if closed:
        one.closed, one.seen, one.not_before = True, now, 0.0


def _ready(folder: Path, waiting: dict[Path, PendingFile], pace: ScanTiming) -> Iterator[Arrival]:
    """Look at the files whose time has come; those that are complete or bad leave the waiting."""
    now = time.monotonic()
    found = []
    for path, one in list(waiting.items()):
        if one.due(pace.settle) > now:
            continue
        state = look(path, one, now, pace.settle, pace.patience)
        if state is Completeness.WAITING:
            continue
        del waiting[path]
        if state is not Completeness.GONE:
            problem = one.problem if state is Completeness.BAD else None
            found.append(Arrival(path, path.relative_to(folder), one.stat, one.seen, problem))
    yield from sorted(found, key=lambda arrival: (arrival.stat[1], arrival.relative))
