"""Arrivals: a generator of the files in an acquisition folder that are complete and not yet dealt with.

Events make it quick, a periodic rescan makes it sure (promise P4). Nothing in the folder is ever changed (P1).
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...engine.errors import DefocusError, ErrorCode, InputError, shortage, shortage_error
from ...engine.formats.names import is_store
from ...engine.formats.other_formats import other_formats
from ...engine.pipeline.steps import Stat, stat_of
from ..clock import SYSTEM_CLOCK, Clock
from ..tracker import FileTracker
from .arrival import Arrival
from .completeness import Completeness, PendingFile, is_file, is_folder, is_image, look, suffix_matches
from .fs_events import FileEvents, first_unobserved

LONGEST_WAIT = 0.5  # s until `stop` is looked at again
_LOOKING = "for looking for files"
BUSY_WAIT = 0.1  # s until a file is looked at again whose older version is being corrected


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
    timing: ScanTiming | None = None,
    until: Callable[[], bool] | None = None,
    warn: Callable[[str], None] = lambda text: None,
    on_pass: Callable[[bool], None] = lambda reachable: None,
    tracker: FileTracker | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Iterator[Arrival]:
    """Yield each complete file below `folder`, oldest first, until `stop` is set.

    Parameters
    ----------
    known : function (relative path, stat, from_event) -> bool
        Whether this version has been yielded or dealt with. `from_event` says that the system told of a change, so that
        the content may be another although the stat is the same.
    until : function () -> bool, optional
        Asked before each rescan; if it says yes and the rescan finds nothing that is not known, that is the end. There
        is an end then, too, if the folder cannot be reached for `timing.patience`.
    warn : function (str)
        Told, in a line, when the folder cannot be reached or is not observed.
    on_pass : function (bool)
        Called each time around, with whether the folder can be reached.
    tracker : FileTracker, optional
        Where files that may not be complete are kept. While it says that a path is busy, no newer version is yielded.

    Raises
    ------
    DefocusError
        With `until`: the folder cannot be reached.
    """
    timing, tracker = timing or ScanTiming(), tracker or FileTracker()
    watcher = FolderWatcher(folder, timing, warn, clock)
    next_scan = clock.monotonic()
    try:
        while not stop.is_set():
            for event in watcher.events.take():
                _notice(folder, event.path, tracker, known, event.time, event.closed, from_event=True)
            now = clock.monotonic()
            if now >= next_scan:
                may_end = until is not None and until()
                for path in watcher.scan():
                    _notice(folder, path, tracker, known, clock.monotonic(), closed=False, from_event=False)
                if may_end and watcher.reachable and not tracker.pending():
                    return
                if until is not None and watcher.lost and now - watcher.lost_since >= timing.patience:
                    raise _unreachable(folder, watcher.lost)
                next_scan = now + timing.rescan
            on_pass(watcher.reachable)
            yield from _ready(folder, tracker, timing, clock.monotonic())
            due = min((pending.due(timing.settle) for _, pending in tracker.pending()), default=next_scan)
            watcher.events.wait(min(max(due, now + 0.02), next_scan, now + LONGEST_WAIT) - clock.monotonic())
    finally:
        watcher.events.stop()


def scan(
    folder: Path,
    skipped: Callable[[Path, OSError], None] = lambda path, error: None,
    entered: Callable[[str, int], None] = lambda path, inode: None,
) -> Iterator[Path]:
    """The TIFF files below a folder, and those of formats that can be read; linked folders are not entered.

    `skipped` is told of a subfolder that has gone, or cannot be read; `entered` of those that were listed, with their
    inodes. Raises OSError if the folder itself cannot be listed.
    """
    # As text: in a tree of thousands of levels, a Path for each takes longer than the disk does.
    folders = [(os.fspath(folder), 0)]
    while folders:
        current, inode = folders.pop()
        try:
            entries = list(os.scandir(current))
        except OSError as error:
            if current == os.fspath(folder):
                raise
            skipped(Path(current), error)
            continue
        entered(current, inode)
        for entry in entries:
            if is_folder(entry) and not is_store(Path(entry.name)):
                if not entry.name.startswith("."):
                    folders.append((entry.path, entry.inode()))
            elif suffix_matches(entry.name) and (is_store(Path(entry.name)) or is_file(entry)):
                yield Path(entry.path)


class FolderWatcher:
    """Events and rescans of one folder, and whether it can be reached.

    Attributes
    ----------
    lost, lost_since : OSError or None, float
        Why it cannot be reached, and since when (monotonic).
    """

    def __init__(self, folder: Path, timing: ScanTiming, warn: Callable[[str], None], clock: Clock) -> None:
        self.folder, self.events, self._clock = folder, FileEvents(folder, clock), clock
        self.lost: OSError | None = None
        self.lost_since = 0.0
        self._polling, self._warn = timing.polling, warn
        self._no_events_reason: str | None = None  # why the system tells of nothing, as was last said
        self._mounted = False
        self._told_formats = False
        self._identity: tuple[int, int] | None = None
        self._skipped: dict[Path, OSError] = {}
        self._unobserved: Path | None = None  # a subfolder without a watch at the last look
        self._told_unobserved = False

    def scan(self) -> list[Path]:
        """The files that are there; none while the folder cannot be reached."""
        try:
            files = self._listed()
            if self._observe():
                files = self._listed()  # what came between the two has sent no event
            if not files and not self._told_formats and (line := other_formats(self.folder)):
                self._warn(line)
                self._told_formats = True
        except OSError as error:
            if self.reachable:
                self.lost_since = self._clock.monotonic()
                lack = shortage_error(self.folder, _LOOKING, error)
                cause = f"cannot be reached ({error.strerror}); waiting for it to come back"
                self._warn(str(lack or f"{self.folder}: {cause}"))
            self.lost = error
            self.events.stop()  # it watches a folder that is not there any more
            return []
        if not self.reachable:
            self._warn(f"{self.folder}: is back")
            self.lost = None
        return files

    @property
    def reachable(self) -> bool:
        return self.lost is None

    def _listed(self) -> list[Path]:
        """Raises OSError if the folder cannot be listed, or is the empty place that an unmounted share leaves."""
        status = os.stat(self.folder)
        mounted = os.path.ismount(self.folder)
        if self._mounted and not mounted:
            raise OSError(errno.ENODEV, "no longer mounted")
        self._mounted = mounted
        if self._identity not in (None, (status.st_dev, status.st_ino)):
            self.events.stop()  # another folder is in its place; the observer sees the old one
        self._identity = status.st_dev, status.st_ino
        before, self._skipped = self._skipped, {}
        inodes: dict[str, int] = {}
        files = list(scan(self.folder, self._skipped.__setitem__, inodes.__setitem__))
        for path, error in self._skipped.items():
            if shortage(error):
                raise error
            if path not in before and not isinstance(error, FileNotFoundError):
                self._warn(f"{path}: cannot be read ({error.strerror}); its files wait, the others are corrected")
        self._check_unobserved(inodes | {os.fspath(self.folder): status.st_ino})
        return files

    def _check_unobserved(self, inodes: dict[str, int]) -> None:
        """Say once that subfolders send no events: the system's watches may run out below the folder, in silence."""
        if self._polling or not self.events.alive():
            return
        unobserved = first_unobserved(self.folder, inodes)
        if unobserved is None:
            self._told_unobserved = False
        elif unobserved == self._unobserved and not self._told_unobserved:  # one that was just made gets its watch
            self._told_unobserved = True
            cause = "no watch left for it: raise fs.inotify.max_user_watches"
            self._warn(_deaf(unobserved, cause))
        self._unobserved = unobserved

    def _observe(self) -> bool:
        """Start the observer if it does not run; whether it was started."""
        if self._polling or self.events.alive():
            return False
        reason = self.events.start()
        if reason and reason != self._no_events_reason:
            self._warn(_deaf(self.folder, reason))
        self._no_events_reason = reason
        return reason is None


def _unreachable(folder: Path, error: OSError) -> DefocusError:
    cause, remedy = f"cannot be reached ({error.strerror})", "check the folder or its share, then start again"
    return shortage_error(folder, _LOOKING, error) or InputError(folder, cause, remedy, ErrorCode.UNREADABLE)


def _deaf(folder: Path, cause: str) -> str:
    return f"{folder}: the system does not tell defocus about new files ({cause}); they are found by rescans"


def _notice(
    folder: Path,
    path: Path,
    tracker: FileTracker,
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
        tracker.discard_pending(path)
        return
    if from_event and (not is_image(path) or any(part.startswith(".") for part in relative.parts[:-1])):
        tracker.discard_pending(path)
        return
    pending = tracker.pending_file(path)
    if pending is None:
        if not known(relative, stat, from_event):
            tracker.observe(path, PendingFile(stat, since=now, seen=now, closed=closed))
        return
    if stat != pending.stat:
        pending.changed(stat, now)
    if closed:
        pending.closed, pending.seen, pending.not_before = True, now, 0.0


def _ready(folder: Path, tracker: FileTracker, timing: ScanTiming, now: float) -> Iterator[Arrival]:
    """Look at the files whose time has come; those that are complete or bad are pending no more."""
    ready = []
    for path, pending in tracker.pending():
        if pending.due(timing.settle) > now:
            continue
        if tracker.busy(path):  # of two versions at once, the older might be written last
            pending.not_before = now + BUSY_WAIT
            continue
        state = look(path, pending, now, timing.settle, timing.patience)
        if state is Completeness.WAITING:
            continue
        if state is Completeness.GONE:
            tracker.discard_pending(path)
            continue
        inspection = pending.inspection
        facts = (inspection.damage, inspection.digest, inspection.own_output)
        ready.append(Arrival(path, path.relative_to(folder), pending.stat, pending.seen, *facts))
    for arrival in sorted(ready, key=lambda arrival: (arrival.stat[1], arrival.relative)):
        yield arrival
        tracker.discard_pending(arrival.path)
