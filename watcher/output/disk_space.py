"""Whether the output folder can be written to (promises P8, P9): before a file is written, and after one has failed."""

from __future__ import annotations

import logging
import math
import shutil
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ...engine.errors import DefocusError, ErrorCode, OutputError
from ...engine.files.atomic import commit
from ..alerts.health import Health
from ..clock import SYSTEM_CLOCK, Clock
from ..events import WatchEvent
from .lock import FolderLock

MEGABYTE = 10**6
PAUSE = 5.0  # s between two looks at an output that cannot be written to

log = logging.getLogger("defocus.watcher.output")


class OutputGuard:
    """Pauses a folder while its output cannot be written to, and goes on by itself.

    If the output is there, is ours, has `min_free_mb` MB of room, takes a small file, and its disk is not full for one
    image after the other, what fails is the fault of a file. The folder is paused, too, while there are too few file
    descriptors or threads for one image after the other. Methods may be called from any thread.
    """

    def __init__(
        self,
        out: Path,
        min_free_mb: float = 0.0,
        report: Callable[[WatchEvent], None] = lambda event: None,
        health: Health | None = None,
        once: bool = False,
        lock: FolderLock | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """With `once`, trouble is raised: nobody would come to mend it."""
        self._out, self._least, self._report, self._once = out, min_free_mb, report, once
        self._health, self._owner, self._clock = health or Health(), lock, clock
        self._lock = threading.Lock()
        self._next_look = 0.0  # monotonic; 0: the output can be written to
        self._told = False  # of the pause, and not yet that it is over
        self._short = 0  # how often room, descriptors or threads were too few since something was written

    @property
    def file_pause(self) -> float:
        """Seconds until a file is tried again whose output failed: when a pause has ended, others come before it.

        0 with `once`, which ends where nothing more is to be done.
        """
        return 0.0 if self._once else 2 * PAUSE

    def paused(self) -> bool:
        """Whether it could not be written to when last looked at; cheap, to be called often."""
        return self._next_look > 0 and not self.available()

    def available(self) -> bool:
        """Whether it can be written to; looked at only now and then while it cannot.

        Raises OutputError with `once`.
        """
        with self._lock:
            if self._clock.monotonic() < self._next_look:
                return False
            error = missing_room(self._out, self._least, self._owner)
            self._health.set_problem(f"{self._out} room", str(error) if error else None)
            if error is None and self._next_look:
                error = why_not_writable(self._out)
            if error is not None:
                if self._once:
                    raise error
                self._pause(error)
            elif self._next_look:
                self._next_look = 0.0
                if self._short < 2:  # else a small file fits, and whether an image does is still to be seen
                    self._resume()
            return error is None

    def is_to_blame(self, size: int, error: DefocusError) -> bool:
        """Whether a file failed because the whole folder cannot be written to, or for too little of something; then the
        folder is paused.

        It is tried with a small file. A disk that has room for that is full if two outputs in a row did not fit, be
        they of one file; `size` bytes are what its input takes, and one larger than the whole disk does not count.
        Descriptors and threads are too few if they were for two in a row. A file that was in progress when the folder
        was paused failed for the same reason, also if that has passed meanwhile. Raises `error` with `once` if it is.
        """
        full = error.code is ErrorCode.DISK_FULL and size <= _capacity(self._out)
        short = full or error.code is ErrorCode.SHORTAGE
        with self._lock:
            self._health.set_problem(f"{self._out} writing", str(error))  # until a write has worked
            self._short += short
            if why_not_writable(self._out) is None and not (short and self._short > 1) and not self._next_look:
                return False
            if self._once:
                raise error
            self._pause(error)
            return True

    def worked(self) -> None:
        """An output was written."""
        with self._lock:
            self._short = 0
            self._health.set_problem(f"{self._out} writing", None)
            if self._next_look == 0:
                self._resume()

    def _pause(self, error: DefocusError) -> None:
        if not self._told:
            self._told = True
            self._report(WatchEvent("paused", text=str(error), code=error.code))
            log.info("paused: %s", error)
        self._next_look = self._clock.monotonic() + PAUSE

    def _resume(self) -> None:
        if self._told:
            self._told = False
            self._report(WatchEvent("warning", text=f"{self._out}: can be written to again"))


def missing_room(out: Path, least_mb: float, lock: FolderLock | None = None) -> OutputError | None:
    """Why nothing should be written below `out` now; None if it is there and has `least_mb` MB free."""
    if lock is not None and (lost := lock.why_lost()):
        return lost
    if least_mb <= 0:
        return None
    try:
        free = shutil.disk_usage(out).free
    except OSError:
        return None  # the write itself will tell
    if free >= least_mb * MEGABYTE:
        return None
    cause = f"only {free / MEGABYTE:.0f} MB free, waiting for {least_mb:g} MB"
    return OutputError(out, cause, "free some space", ErrorCode.DISK_FULL)


def _capacity(out: Path) -> float:
    """Bytes of the whole disk, used or free."""
    try:
        return shutil.disk_usage(out).total
    except OSError:
        return math.inf


def why_not_writable(out: Path) -> DefocusError | None:
    """Why a small file cannot be written into a folder; None if it can."""
    probe = out / f".defocus-probe-{uuid.uuid4().hex[:12]}"
    try:
        with commit(probe) as temporary:
            temporary.write_bytes(bytes(4096))
    except DefocusError as error:
        return OutputError(out, error.cause, error.remedy, error.code)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return None
