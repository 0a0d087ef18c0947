"""What each file of a folder is doing, from the first sight of it until its outcome is recorded: one place for it.

A path may be seen in a newer version while an older one is on its way: it is pending and, say, running at once.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ..engine.pipeline.jobs import Job
from ..engine.pipeline.steps import Stat
from .discovery.arrival import Arrival
from .discovery.completeness import PendingFile
from .journal_entry import JournalEntry

Group = tuple[str, ...]


class Stage(StrEnum):
    """What a file that is complete is doing."""

    WAITING = "waiting"  # for a partner, or for room in the queue
    QUEUED = "queued"
    RUNNING = "running"


@dataclass
class ChannelGroup:
    """The files of a group that are there, by channel; `since`: monotonic time at which the last one came."""

    members: dict[str, Arrival] = field(default_factory=dict)
    since: float = 0.0

    @property
    def newest_ns(self) -> int:
        """The latest modification time, ns."""
        return max(arrival.stat[1] for arrival in self.members.values())


@dataclass
class _TrackedFile:
    pending: PendingFile | None = None  # a version that is not known to be complete
    stage: Stage | None = None  # of the version `stat`, which is
    stat: Stat = (0, 0)
    row: JournalEntry | None = None  # what the journal knew when it was found
    looked_up: bool = False


class FileTracker:
    """The files of one folder that are on their way. Its methods may be called from any thread.

    Attributes
    ----------
    groups : dict
        Files that wait for the other files of their group; used by the thread that finds files alone.
    """

    def __init__(self) -> None:
        self.groups: dict[Group, ChannelGroup] = {}
        self._files: dict[Path, _TrackedFile] = {}
        self._jobs: dict[Path, tuple[Arrival, ...]] = {}  # the files of each, by the target of the first
        self._not_before: dict[Path, float] = {}
        self._backlog: dict[Path, Stat] = {}  # what was there before anybody looked, and is not done
        self._lock = threading.Lock()

    def look_up(self, path: Path, row: JournalEntry | None) -> None:
        """Keep what the journal knows of a path that has work to be done."""
        with self._lock:
            file = self._files.setdefault(path, _TrackedFile())
            file.row, file.looked_up = row, True

    def row(self, path: Path) -> tuple[bool, JournalEntry | None]:
        """Whether the journal was asked for a path on its way, and what it knew."""
        with self._lock:
            file = self._files.get(path)
            return (file.looked_up, file.row) if file else (False, None)

    def observe(self, path: Path, pending: PendingFile) -> None:
        """A version has been seen that may not be complete."""
        with self._lock:
            self._files.setdefault(path, _TrackedFile()).pending = pending

    def pending(self) -> list[tuple[Path, PendingFile]]:
        """The files that may not be complete."""
        with self._lock:
            return [(path, file.pending) for path, file in self._files.items() if file.pending is not None]

    def pending_file(self, path: Path) -> PendingFile | None:
        """What is known of a path that may not be complete."""
        with self._lock:
            file = self._files.get(path)
            return file.pending if file else None

    def discard_pending(self, path: Path) -> None:
        """A path is looked at no more: it is gone, or its version goes on as an arrival."""
        with self._lock:
            if (file := self._files.get(path)) is not None:
                file.pending = None
                self._tidy(path, file)

    def move(self, arrival: Arrival, stage: Stage) -> None:
        """The files of an arrival are complete, and wait or are queued."""
        with self._lock:
            for member in arrival.each():
                file = self._files.setdefault(member.path, _TrackedFile())
                file.stage, file.stat = stage, member.stat

    def start(self, job: Job, arrivals: tuple[Arrival, ...]) -> None:
        """The files of a job are being corrected."""
        with self._lock:
            self._jobs[job.target] = arrivals
            for arrival in arrivals:
                file = self._files.setdefault(arrival.path, _TrackedFile())
                file.stage, file.stat = Stage.RUNNING, arrival.stat

    def finish(self, job: Job) -> tuple[Arrival, ...] | None:
        """Take a job out, and give its files, which are to be dropped; None if it is not of this folder."""
        with self._lock:
            return self._jobs.pop(job.target, None)

    def unfinished(self) -> list[tuple[Arrival, ...]]:
        """The files of each job that is being corrected."""
        with self._lock:
            return list(self._jobs.values())

    def drop(self, arrival: Arrival) -> None:
        """The files of an arrival are on their way no more; a newer version of one of them stays."""
        with self._lock:
            for member in arrival.each():
                file = self._files.get(member.path)
                if file is not None and file.stat == member.stat:
                    file.stage, file.stat = None, (0, 0)
                    self._tidy(member.path, file)

    def holds(self, path: Path, stat: Stat) -> bool:
        """Whether this version is complete and on its way."""
        with self._lock:
            file = self._files.get(path)
            return file is not None and file.stage is not None and file.stat == stat

    def on_its_way(self, path: Path) -> bool:
        """Whether any version of a path is complete and on its way."""
        with self._lock:
            file = self._files.get(path)
            return file is not None and file.stage is not None

    def busy(self, path: Path) -> bool:
        """Whether a version of a path is queued or running: a newer one waits, or the older might be written last."""
        with self._lock:
            file = self._files.get(path)
            return file is not None and file.stage in (Stage.QUEUED, Stage.RUNNING)

    @property
    def running(self) -> bool:
        """Whether a job is being corrected."""
        with self._lock:
            return bool(self._jobs)

    @property
    def idle(self) -> bool:
        """Whether every complete file has been dealt with."""
        with self._lock:
            return all(file.stage is None for file in self._files.values())

    @property
    def waiting(self) -> int:
        """How many files wait for a partner."""
        return sum(len(group.members) for group in self.groups.values())

    def counts(self) -> Counter[str]:
        """How many files are "pending", and in each stage."""
        with self._lock:
            counts = Counter(file.stage.value for file in self._files.values() if file.stage is not None)
            counts["pending"] = sum(file.pending is not None for file in self._files.values())
            return counts

    def begin_backlog(self) -> list[tuple[Path, int]]:
        """The folder has been looked at for the first time, or again: what was found there, as (path, bytes)."""
        with self._lock:
            found = {
                path: file.pending.stat
                for path, file in self._files.items()
                if file.pending is not None and not file.pending.closed
            }
            self._backlog |= found
            return [(path, stat[0]) for path, stat in found.items()]

    def in_backlog(self, path: Path, stat: Stat) -> bool:
        """Whether this version was there before anybody looked, so that nobody knows when it came."""
        with self._lock:
            return self._backlog.get(path) == stat

    def leave_backlog(self, path: Path) -> int | None:
        """A path is done; how many of the backlog are left, None if it was not of them."""
        with self._lock:
            return None if self._backlog.pop(path, None) is None else len(self._backlog)

    def prune_backlog(self) -> int | None:
        """Forget files of the backlog that have vanished; how many are left, None if none has vanished."""
        with self._lock:
            paths = list(self._backlog)
        left = [self.leave_backlog(path) for path in paths if not os.path.lexists(path)]
        return left[-1] if left else None

    def put_off(self, path: Path, until: float) -> None:
        """Leave a path alone until a monotonic time."""
        with self._lock:
            self._not_before[path] = until

    def is_put_off(self, path: Path, now: float) -> bool:
        """Whether a path is to be left alone for a while."""
        with self._lock:
            until = self._not_before.get(path)
            if until is not None and now >= until:
                del self._not_before[path]
            return until is not None and now < until

    def _tidy(self, path: Path, file: _TrackedFile) -> None:
        if file.pending is None and file.stage is None:
            del self._files[path]
