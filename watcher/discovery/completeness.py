"""When a file is complete (promise P5): nobody writes it, its structure is whole, its stat has not moved.

Stability is measured by our own monotonic clock between two looks at the same stat. Modification times are never
compared with "now": files are copied with old times, and clocks of shares run differently.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ...engine.errors import InputError
from ...engine.formats.dispatch import check_complete, is_blank
from ...engine.formats.names import is_store, readable
from ...engine.pipeline.batch import SUFFIXES
from ...engine.pipeline.steps import Stat, stat_of
from ...engine.tiff.integrity import UnfinishedError


class Completeness(Enum):
    """What a look at a waiting file says."""

    WAITING = "waiting"
    COMPLETE = "complete"
    BAD = "bad"
    GONE = "gone"


@dataclass
class PendingFile:
    """A file that may be complete.

    Attributes
    ----------
    stat : (size in bytes, mtime in ns)
        As last seen.
    since : float
        Monotonic time from which the stat has been the same.
    seen : float
        Monotonic time of what made us look: the close of the file, or its last change.
    closed : bool
        The system said that its writer closed it (or that it was moved here whole): no need to wait.
    problem : InputError or None
        Why it was not taken when last looked into.
    not_before : float
        Monotonic time before which it is not looked into again.
    """

    stat: Stat
    since: float
    seen: float
    closed: bool = False
    problem: InputError | None = None
    not_before: float = 0.0

    def due(self, settle: float) -> float:
        """Monotonic time at which it should be looked at again."""
        return max(self.seen if self.closed else self.since + settle, self.not_before)

    def changed(self, stat: Stat, now: float) -> None:
        """It has another size or time than before: the waiting starts anew."""
        self.stat, self.since, self.seen = stat, now, now
        self.closed, self.problem, self.not_before = False, None, 0.0

    def retry(self, now: float, settle: float) -> None:
        """Its structure was not whole: look again later, as its writer may only be pausing."""
        self.not_before = now + max(settle, 0.1)


def look(path: Path, waiting: PendingFile, now: float, settle: float, patience: float) -> Completeness:
    """Look at a file whose time has come, and update `waiting`.

    Parameters
    ----------
    now : float
        Monotonic time, s.
    settle : float
        How long, in s, a file must be unchanged where the system does not tell of its close.
    patience : float
        How long, in s, an unchanged file may be broken before it is bad: its writer may only be pausing.
    """
    try:
        stat = stat_of(path)
    except OSError:
        return Completeness.GONE
    if stat != waiting.stat:
        waiting.changed(stat, now)
        return Completeness.WAITING
    if not waiting.closed and now - waiting.since < settle:
        return Completeness.WAITING
    long = max(patience, settle)
    try:
        check_complete(path, finished=True)
        # Given its final size before its pixels came, and its writer is slow? Unless the system said that it is closed,
        # pixels that end in zeros are believed only after our whole patience.
        if not waiting.closed and now - waiting.since < long and is_blank(path):
            waiting.retry(now, settle)
            return Completeness.WAITING
    except InputError as problem:
        # Also a file that another program holds open without sharing, as cameras' software on Windows does.
        waiting.problem, waiting.closed = problem, False
        if now - waiting.since >= long:
            # One that only says that there is more to come is taken as it is: its acquisition was stopped.
            return Completeness.COMPLETE if isinstance(problem, UnfinishedError) else Completeness.BAD
        waiting.retry(now, settle)
        return Completeness.WAITING
    return Completeness.COMPLETE


def suffix_matches(name: str) -> bool:
    """Whether a name is that of a TIFF, or of a format whose reader is installed, and not a hidden or temporary one."""
    return (name.lower().endswith(SUFFIXES) or readable(name)) and not name.startswith((".", "~"))


def is_image(path: Path) -> bool:
    """Whether a path with such a name is a file, or a Zarr, which is a folder."""
    return path.is_dir() if is_store(path) else path.is_file()


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether a directory entry is a folder, not a link to one; one that cannot be looked at is none."""
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:  # file systems that do not say so in the listing are asked, and may fail
        return False


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether a directory entry is a file; an entry that vanishes meanwhile is none."""
    try:
        return entry.is_file()
    except OSError:
        return False
