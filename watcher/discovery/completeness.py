"""When a file is complete (promise P5): nobody writes it, its structure is whole, its stat has not moved.

Stability is measured by our own monotonic clock between two looks at the same stat. Modification times are never
compared with "now": files are copied with old times, and clocks of shares run differently.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from ...engine.errors import InputError
from ...engine.files.version import digest, digest_of, open_regular
from ...engine.formats.dispatch import check_complete
from ...engine.formats.names import is_other, is_store, readable
from ...engine.pipeline.batch import own_output
from ...engine.pipeline.inputs import SUFFIXES
from ...engine.pipeline.steps import Stat, stat_of, version_of
from ...engine.tiff.integrity import (
    UnfinishedError,
    check_end,
    check_structure,
    ends_in_zeros,
    errors_as_input_error,
    unfinished,
)
from ...engine.tiff.pages import WAIT, structure
from ...engine.tiff.provenance import recorded


class Completeness(Enum):
    """What a look at a waiting file says."""

    WAITING = "waiting"
    COMPLETE = "complete"
    BAD = "bad"
    GONE = "gone"


@dataclass
class Inspection:
    """What a look into a file finds.

    Attributes
    ----------
    stat : (size in bytes, mtime in ns)
        Of the file that was opened.
    digest : str
        See `version.digest`; "" if it could not be read.
    own_output : bool
        Whether defocus made it.
    empty_end : bool
        Whether it ends in zeros, as a file does that was given its final size before its pixels came.
    problem : InputError or None
        Why it is not whole.
    """

    stat: Stat = (0, 0)
    digest: str = ""
    own_output: bool = False
    empty_end: bool = False
    problem: InputError | None = None

    @property
    def damage(self) -> InputError | None:
        """The problem, unless it only says that more is to come: such a file is used as it is in the end."""
        return None if isinstance(self.problem, UnfinishedError) else self.problem


def inspect(path: Path) -> Inspection:
    """Whatever is to be known of a file before it is taken; a TIFF is opened once for all of it."""
    inspection = Inspection()
    try:
        if is_other(path):
            with suppress(OSError):
                inspection.digest = digest(path)
            inspection.own_output = own_output(path)
            check_complete(path, finished=True)
            return inspection
        with errors_as_input_error(path), open_regular(path) as file:
            status = os.fstat(file.fileno())
            inspection.stat = version_of(status.st_size, status.st_mtime_ns)
            inspection.digest = digest_of(file)
            tiff = structure(file, status.st_size, path)
            check_structure(tiff, file, path)
            inspection.own_output = recorded(file, tiff.size, tiff.pages[0].directory) is not None
            inspection.empty_end = ends_in_zeros(tiff, file)
            check_end(tiff, path)
            if cause := unfinished(tiff, file):
                raise UnfinishedError(path, f"not complete: {cause}", WAIT)
    except InputError as problem:  # also one that another program holds open without sharing, as on Windows
        inspection.problem = problem
    return inspection


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
    inspection : Inspection
        What it held when last looked into.
    not_before : float
        Monotonic time before which it is not looked into again.
    """

    stat: Stat
    since: float
    seen: float
    closed: bool = False
    inspection: Inspection = field(default_factory=Inspection)
    not_before: float = 0.0

    def due(self, settle: float) -> float:
        """Monotonic time at which it should be looked at again."""
        return max(self.seen if self.closed else self.since + settle, self.not_before)

    def changed(self, stat: Stat, now: float) -> None:
        """It has another size or time than before: the waiting starts anew."""
        self.stat, self.since, self.seen = stat, now, now
        self.closed, self.inspection, self.not_before = False, Inspection(), 0.0

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
    try:
        waiting.inspection = inspection = inspect(path)
    except (OSError, MemoryError):  # of descriptors or memory there are too few: if that lasts, reading it tells
        if now - waiting.since >= max(patience, settle):
            return Completeness.COMPLETE
        waiting.retry(now, settle)
        return Completeness.WAITING
    if inspection.stat not in (stat, Inspection.stat):
        waiting.changed(inspection.stat, now)
        return Completeness.WAITING
    # Given its final size before its pixels came, and its writer is slow? Unless the system said that it is closed,
    # pixels that end in zeros are believed only after our whole patience.
    if inspection.problem is None and (waiting.closed or not inspection.empty_end):
        return Completeness.COMPLETE
    if now - waiting.since < max(patience, settle):
        waiting.closed = False
        waiting.retry(now, settle)
        return Completeness.WAITING
    return Completeness.COMPLETE if inspection.damage is None else Completeness.BAD


def suffix_matches(name: str) -> bool:
    """Whether a name is that of a TIFF, or of a format whose reader is installed, and not a hidden or temporary one."""
    return (name.lower().endswith(SUFFIXES) or readable(name)) and not name.startswith((".", "~"))


def is_image(path: Path) -> bool:
    """Whether a path with such a name is a file, or a Zarr, which is a folder."""
    return os.path.isdir(path) if is_store(path) else os.path.isfile(path)


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
