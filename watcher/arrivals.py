"""Arrivals: a generator of the files in an acquisition folder that are complete and not yet dealt with.

Hints make it quick, a periodic rescan makes it sure (promise P4). Nothing in the folder is ever changed (P1).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..engine.errors import InputError
from ..engine.pipeline import Stat, stat_of
from .completeness import State, Waiting, is_file, look, suffix_matches
from .hints import Hints

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


@dataclass(frozen=True)
class Pace:
    """How arrivals are looked for; all in seconds.

    Attributes
    ----------
    settle : how long a file must be unchanged where the system does not tell of its close.
    rescan : time between two looks at the whole folder.
    patience : how long an unchanged file may be broken before it is set aside.
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
    pace: Pace | None = None,
    until: Callable[[], bool] | None = None,
    warn: Callable[[str], None] = lambda text: None,
    beat: Callable[[bool], None] = lambda reachable: None,
) -> Iterator[Arrival]:
    """Yield each complete file below `folder`, oldest first, until `stop` is set.

    Parameters
    ----------
    known : function (relative path, stat, hinted) -> bool
        Whether this version has been yielded or dealt with. `hinted` says that the system told of a change, so that
        the content may be another although the stat is the same.
    until : function () -> bool, optional
        Asked before each rescan; if it says yes and the rescan finds nothing that is not known, that is the end.
    warn : function (str)
        Told, in a line, when the folder cannot be reached or is not observed.
    beat : function (bool)
        Called each time around, with whether the folder can be reached.
    """
    pace = pace or Pace()
    waiting: dict[Path, Waiting] = {}
    eyes = _Eyes(folder, pace, warn)
    next_scan = time.monotonic()
    try:
        while not stop.is_set():
            for hint in eyes.hints.take():
                _notice(folder, hint.path, waiting, known, hint.time, hint.closed, hinted=True)
            now = time.monotonic()
            if now >= next_scan:
                may_end = until is not None and until()
                for path in eyes.scan():
                    _notice(folder, path, waiting, known, time.monotonic(), closed=False, hinted=False)
                if may_end and eyes.reachable and not waiting:
                    return
                next_scan = now + pace.rescan
            beat(eyes.reachable)
            yield from _ready(folder, waiting, pace)
            due = min((one.due(pace.settle) for one in waiting.values()), default=next_scan)
            eyes.hints.wait(min(max(due, now + 0.02), next_scan, now + LONGEST_WAIT) - time.monotonic())
    finally:
        eyes.hints.stop()


def scan(folder: Path) -> Iterator[Path]:
    """The TIFF files below a folder, by name; linked folders are not entered. Raises OSError if it cannot be read."""
    folders = [folder]
    while folders:
        current = folders.pop()
        try:
            entries = list(os.scandir(current))
        except OSError:
            if current == folder:
                raise
            continue  # a subfolder that has gone, or that is not ours to read
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith("."):
                    folders.append(Path(entry.path))
            elif suffix_matches(entry.name) and is_file(entry):
                yield Path(entry.path)


class _Eyes:
    """Hints and rescans of one folder, and whether it can be reached."""

    def __init__(self, folder: Path, pace: Pace, warn: Callable[[str], None]) -> None:
        self.folder, self.hints, self.reachable = folder, Hints(folder), True
        self._polling, self._warn = pace.polling, warn
        self._told: str | None = None

    def scan(self) -> list[Path]:
        try:
            found = list(scan(self.folder))
        except OSError as error:
            if self.reachable:
                self._warn(f"{self.folder}: cannot be reached ({error.strerror}); waiting for it to come back")
            self.reachable = False
            self.hints.stop()  # it watches a folder that is not there any more
            return []
        if not self.reachable:
            self._warn(f"{self.folder}: is back")
            self.reachable = True
        if not self._polling and not self.hints.alive():
            reason = self.hints.start()
            if reason and reason != self._told:
                self._warn(f"{self.folder}: the system does not tell of new files ({reason}); looking every rescan")
            self._told = reason
            # What came between the scan and the start of the observer has sent no event.
            found = list(scan(self.folder)) if reason is None else found
        return found


def _notice(
    folder: Path,
    path: Path,
    waiting: dict[Path, Waiting],
    known: Callable[[Path, Stat, bool], bool],
    now: float,
    closed: bool,
    hinted: bool,
) -> None:
    """Start or go on waiting for a file that was hinted at or found."""
    try:
        stat = stat_of(path)
        relative = path.relative_to(folder)
    except (OSError, ValueError):
        waiting.pop(path, None)
        return
    one = waiting.get(path)
    if one is None:
        if not known(relative, stat, hinted):
            waiting[path] = Waiting(stat, since=now, seen=now, closed=closed)
        return
    if stat != one.stat:
        one.changed(stat, now)
    if closed:
        one.closed, one.seen, one.not_before = True, now, 0.0


def _ready(folder: Path, waiting: dict[Path, Waiting], pace: Pace) -> Iterator[Arrival]:
    """Look at the files whose time has come; those that are complete or bad leave the waiting."""
    now = time.monotonic()
    found = []
    for path, one in list(waiting.items()):
        if one.due(pace.settle) > now:
            continue
        state = look(path, one, now, pace.settle, pace.patience)
        if state is State.WAITING:
            continue
        del waiting[path]
        if state is not State.GONE:
            problem = one.problem if state is State.BAD else None
            found.append(Arrival(path, path.relative_to(folder), one.stat, one.seen, problem))
    yield from sorted(found, key=lambda arrival: (arrival.stat[1], arrival.relative))
