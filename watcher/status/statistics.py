"""What the page and the metrics tell: the microscopes, the daemon and its health."""

from __future__ import annotations

import bisect
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ...engine.errors import OutputError
from ...engine.inference.engine import Engine
from ...engine.inference.gpu.driver import find_gpu, why_no_gpu
from ..alerts.health import Health
from ..configuration.settings import FolderSettings
from ..events import WatchEvent
from ..journal import path_of
from ..tally import Backlog
from .folder_statistics import FolderStatistics, MicroscopeSettings
from .history import forget, is_corrected

SHOWN_NOTES = 5


class State:
    """Events in, a picture out. Its methods may be called from any thread.

    Attributes
    ----------
    version : int
        Another one whenever something has happened that `picture` tells of.
    """

    def __init__(
        self,
        folders: Sequence[FolderSettings],
        health: Health,
        microscopes: Sequence[MicroscopeSettings] = (),
        drift_px: float = 0.0,
    ) -> None:
        self.folders, self.health, self.drift_px = tuple(folders), health, drift_px
        self.phase, self.model, self.backend = "starting", "", ""
        self.queued, self.version = 0, 0
        self._started, self._backlog = time.time(), Backlog()
        self._notes: deque[tuple[float, str]] = deque(maxlen=SHOWN_NOTES)
        self._lock = threading.Lock()
        self._gpu = why_no_gpu() or find_gpu().name
        named = _named(folders, microscopes)
        self.microscopes = [
            FolderStatistics(folder, microscope, drift_px) for folder, microscope in zip(folders, named, strict=True)
        ]

    def begin(self, engine: Engine) -> None:
        """The model is loaded, the watching starts."""
        with self._lock:
            self.phase, self.model, self.backend = "watching", engine.card.name, engine.description
            self.version += 1

    def see(self, event: WatchEvent) -> None:
        """Take an event in."""
        with self._lock:
            self.version += 1
            self._backlog.see(event, time.monotonic())
            if event.kind in ("paused", "warning"):
                self._notes.append((time.time(), event.text))
            if event.kind != "warning":
                self.queued = event.queued
            owner = next(
                (microscope for microscope in self.microscopes if microscope.settings.acquisition == event.folder), None
            )
            if owner is not None:
                owner.see(event)

    def tag(self) -> str:
        """Another text whenever `picture` would be another: what costs nothing is looked at, and nothing else."""
        problems = self.health.problems()
        with self._lock:
            live = [(microscope.rate(), microscope.free_lately()) for microscope in self.microscopes]
            return f"{self._started:.6f} {self.version} {live} {problems}"

    def picture(self) -> dict[str, Any]:
        """Everything that the page shows, ready for JSON; the points of the plots apart."""
        problems = self.health.problems()
        with self._lock:
            rest = self._backlog.seconds() if self._backlog.left else None
            folders = [
                microscope.picture()
                | {"rate_per_min": round(microscope.rate(), 1), "free_bytes": microscope.free_lately()}
                for microscope in self.microscopes
            ]
            return {
                "phase": self.phase,
                "started": round(self._started, 1),
                "model": self.model,
                "backend": self.backend,
                "gpu": self._gpu,
                "queue": max(self.queued, self._backlog.left),  # what is there at the start fills more than a queue
                "backlog_s": None if rest is None else round(rest),
                "total": sum(folder["total"] for folder in folders),
                "done": sum(folder["done"] for folder in folders),
                "failed": sum(folder["failed"] for folder in folders),
                "drift_px": self.drift_px,
                "notes": [[round(when, 1), text] for when, text in reversed(self._notes)],
                "problems": problems,
                "folders": folders,
            }

    def points(self, folder: int, after: float) -> list[list[Any]]:
        """The points of a folder's plot that are newer than `after`, s since 1970, in the order of time."""
        with self._lock:
            points = self.microscopes[folder].points
            first = bisect.bisect_right(points, after, key=lambda point: round(point.time, 1))
            return [point.as_list() for point in points[first:]]

    def pair(self, folder: int, relative: str) -> tuple[Path, Path] | None:
        """A corrected file before and after; None for what was not corrected here.

        No path of a visitor becomes one of the disk: it must be one that the daemon has written down.
        """
        settings = self.folders[folder]
        with self._lock:
            fresh = any(point.file == relative for point in reversed(self.microscopes[folder].points[-20:]))
        path = path_of(relative)
        if PurePosixPath(path).is_absolute() or ".." in path.parts or "\0" in relative:
            return None
        return (
            (settings.acquisition / path, settings.output(path))
            if fresh or is_corrected(settings.out, relative)
            else None
        )

    def retry(self, folder: int, file: str | None = None, code: str | None = None) -> int:
        """Forget that a file, or every file of a reason, was quarantined, so that the next rescan takes it.

        Returns how many. Raises OutputError if the journal cannot be written, or is damaged, which the daemon mends.
        """
        microscope = self.microscopes[folder]
        with self._lock:
            wanted = [
                failure.file
                for failure in microscope.failures.values()
                if failure.file == file or (file is None and failure.code == code)
            ]
        try:
            count = forget(microscope.settings.out, wanted) if wanted else 0
        except (sqlite3.Error, OSError) as error:
            raise OutputError(
                microscope.settings.out, f"its journal cannot be written ({error})", "try again later"
            ) from error
        with self._lock:
            for name in wanted:
                microscope.failures.pop(name, None)
            self.version += 1
        return count


def _named(folders: Sequence[FolderSettings], given: Sequence[MicroscopeSettings]) -> list[MicroscopeSettings]:
    """A name for each, the folder's where none is given, and no name twice."""
    taken: Counter[str] = Counter()
    named = []
    for index, folder in enumerate(folders):
        microscope = given[index] if index < len(given) else MicroscopeSettings()
        name = microscope.name or folder.acquisition.resolve().name or str(folder.acquisition)
        taken[name] += 1
        named.append(MicroscopeSettings(f"{name} ({taken[name]})" if taken[name] > 1 else name, microscope.optics))
    return named
