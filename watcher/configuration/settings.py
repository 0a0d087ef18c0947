"""What is watched and how, and the folders that cannot work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...engine.errors import InputError, first_line, shortage_error
from ...engine.files.companions import COMPANIONS
from ...engine.files.patterns import is_wanted
from ...engine.formats.names import output_path
from ...engine.model.card import Card
from ...engine.pipeline.channel_pattern import Pattern
from ...engine.pipeline.steps import MEMORY
from ..discovery.scanner import ScanTiming
from ..queue import Order


@dataclass(frozen=True)
class FolderSettings:
    """One folder that is watched, and how: all of this may differ from folder to folder.

    Attributes
    ----------
    acquisition, out : Path
        The folder that is watched, and where corrected files go (subfolders are mirrored).
    timing : ScanTiming
        Settling, rescan, patience, polling.
    retries : int
        How often a file that cannot be read is tried before it is quarantined.
    keep_sharp : bool
        Keep planes that are sharp already as they are, bit for bit.
    order : Order
        Which of the folder's waiting files comes next; several folders take turns.
    include, exclude : tuple of str
        Patterns (`*_w1*`, `plate2/*`) of paths below the folder, or of names: only those included (all if there are
        none) and not excluded are corrected.
    max_age : float
        Files that were last written more seconds ago than this are ignored; 0: none.
    min_free_mb : float
        Nothing is written while the output's disk has less room than this; 0: not looked at.
    keep_days : float
        Files of which nothing is left in the acquisition folder leave the journal after so many days; 0: never.
    channels : Pattern or None
        Which files of one channel each go together through a model of several channels.
    partner_wait : float
        s that a channel file waits for its partners before it is quarantined.
    keep_doubtful : bool
        Write planes whose output is doubtful as they came.
    companions : tuple of str
        Names of files that are copied beside the corrected ones; "none": none.
    """

    acquisition: Path
    out: Path
    timing: ScanTiming = field(default_factory=ScanTiming)
    retries: int = 3
    keep_sharp: bool = True
    order: Order = Order.OLDEST
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_age: float = 0.0
    min_free_mb: float = 0.0
    keep_days: float = 0.0
    channels: Pattern | None = None
    partner_wait: float = 60.0
    keep_doubtful: bool = False
    companions: tuple[str, ...] = COMPANIONS

    def output(self, relative: Path) -> Path:
        """Where the output of a file belongs, given its path below the acquisition folder."""
        return self.out / output_path(relative)

    def wants(self, relative: Path, mtime_ns: int, now: float) -> bool:
        """Whether a file is to be corrected, by its name and its age at `now` (s since 1970)."""
        if not is_wanted(relative, self.include, self.exclude):
            return False
        return not self.max_age or now - mtime_ns / 1e9 <= self.max_age

    def how(self, card: Card) -> str:
        """What an entry of the journal holds for: with another model, or another pattern, all is to be done anew."""
        return card.sha256 + (f" {self.channels.text}" if self.channels else "")


@dataclass(frozen=True)
class DaemonSettings:
    """What holds for the daemon as a whole.

    Attributes
    ----------
    folders : tuple of FolderSettings
        What is watched; one engine serves all.
    once : bool
        End when everything that is there has been dealt with.
    memory : int
        Bytes of pixels that may be in memory (see `run.pipeline`); 0: not limited.
    """

    folders: tuple[FolderSettings, ...]
    once: bool = False
    memory: int = MEMORY


def default_out(acquisition: Path) -> Path:
    """`ACQ_corrected` beside ACQ."""
    resolved = _resolved(acquisition)
    if not resolved.name:  # the root of a disk has no folder beside it
        raise InputError(acquisition, "is the root of a disk, so no output folder lies beside it", "give one with -o")
    return resolved.with_name(f"{resolved.name}_corrected")


def check_folders(watched: Sequence[FolderSettings], card: Card | None = None) -> None:
    """Refuse folders that cannot work (promise P1), before anything is made; with `card`, for a model.

    Raises
    ------
    InputError
        No such folder, one given twice, two with one output folder, or an output folder lies inside an acquisition
        folder, of this or another pair, or around it; the model takes no channel files by its pattern.
    """
    for folder in watched:
        _check_acquisition(folder.acquisition)
    taken: dict[Path, FolderSettings] = {}
    for folder in watched:
        other = taken.setdefault(_resolved(folder.out), folder)
        if other is not folder:
            _refuse_shared(other, folder)
    for folder in watched:
        for other in watched:
            _check_apart(other.acquisition, folder.out)
        if card is not None and folder.channels is not None:
            folder.channels.check(card)


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a link that leads to itself, too long a path, one with NUL
        raise InputError(path, f"is no path of a folder ({first_line(error)})", "check the path") from error


def _check_acquisition(acquisition: Path) -> None:
    if not os.path.exists(acquisition):  # also where its path is too long, or no path at all
        raise InputError(acquisition, "no such folder", "give the folder that the microscope writes to")
    if not acquisition.is_dir():
        raise InputError(acquisition, "a file, not a folder", "give the folder that the microscope writes to")
    try:
        next(acquisition.iterdir(), None)
    except OSError as error:
        unreadable = InputError(acquisition, f"cannot be read ({error.strerror})", "check its permissions")
        raise shortage_error(acquisition, "for looking into it", error) or unreadable from error


def _refuse_shared(folder: FolderSettings, other: FolderSettings) -> None:
    """Two folders with the same output: their files of one name would take each other's place."""
    if _resolved(folder.acquisition) == _resolved(other.acquisition):
        raise InputError(other.acquisition, "is given twice", "give each folder once")
    cause = f"is the output folder of both {folder.acquisition} and {other.acquisition}"
    raise InputError(other.out, cause, "give each its own output, in [[folders]] of the settings file")


def _check_apart(acquisition: Path, out: Path) -> None:
    inside, outside = _resolved(out), _resolved(acquisition)
    if inside == outside or outside in inside.parents:
        raise InputError(out, f"lies inside the acquisition folder {acquisition}", "choose another folder with -o")
    if inside in outside.parents:
        raise InputError(acquisition, f"lies inside the output folder {out}", "choose another folder with -o")
