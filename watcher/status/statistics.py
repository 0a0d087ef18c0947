"""What the page and the metrics tell: a microscope a folder, gathered from the journals and the daemon's events."""

from __future__ import annotations

import bisect
import shutil
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ...engine.errors import ErrorCode, InputError, OutputError
from ...engine.inference.engine import Engine
from ...engine.inference.gpu.driver import find_gpu, why_no_gpu
from ...engine.quality.overview import overview
from ...engine.quality.report import summary
from ...engine.tiff.optics import Optics, read_optics
from ..drift import Drift
from ..events import WatchEvent
from ..health import Health
from ..settings import FolderSettings
from .history import Failure, Point, forget, is_corrected, read_history, thin

RATE_WINDOW = 60.0  # s
SHOWN_FAILURES = 20  # of a reason
SHOWN_DOUBTFUL = 24
SHOWN_NOTES = 5
OPTICS_AGE = 60.0  # s after which a file is asked anew for the optics: objectives are changed
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)  # s
FREE_AGE = 30.0  # s that the free room of a disk stands: others write to it all the time
_POINTS = 3000  # points of a folder before they are thinned


@dataclass
class Histogram:
    """Counts of times in `BUCKETS`, as Prometheus wants them."""

    counts: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))
    count: int = 0
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        for index, bound in enumerate(BUCKETS):
            self.counts[index] += seconds <= bound


@dataclass(frozen=True)
class Microscope:
    """How a folder is called on the page, and what its settings say of the optics; None: what its files say."""

    name: str = ""
    optics: Optics = field(default_factory=Optics)


class FolderStatistics:
    """One microscope: what was there before this start, and what came of the events since.

    Not thread-safe: `State` holds its lock around every call.
    """

    def __init__(self, settings: FolderSettings, microscope: Microscope, drift_px: float) -> None:
        self.settings, self.microscope = settings, microscope
        self.counts: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.latency, self.stages = Histogram(), dict[str, Histogram]()
        self.bytes, self.waiting = 0, 0
        self.last_planes: list[dict[str, Any]] = []
        self.optics = microscope.optics
        self.drift = Drift(drift_px)
        history = read_history(settings.out)
        self.before = history.done  # corrected before this start, as far as it is remembered
        self.points: list[Point] = history.points
        self.failures: dict[str, Failure] = {one.file: one for one in reversed(history.failures)}  # the newest last
        for point in self.points[-50:]:
            self.drift.add(point.known.blur_px)
        self._latencies: deque[float] = deque(maxlen=500)
        self._done: deque[float] = deque(maxlen=2000)
        self._next_optics = 0.0
        self._free: tuple[float, int | None] = -FREE_AGE, None  # when it was asked for
        if self.points:
            self._look_at_optics(self.points[-1].file)

    def see(self, event: WatchEvent) -> None:
        """Take an event of this folder in."""
        if event.kind == "waiting":
            self.waiting = event.waiting
            return
        self.counts[event.kind] += 1
        if event.kind == "quarantined":
            code = (event.code or ErrorCode.INTERNAL).value
            self.failed[code] += 1
            self.failures.pop(event.relative, None)
            self.failures[event.relative] = Failure(time.time(), event.relative, code, event.text)
        elif event.kind in ("done", "skipped", "retry"):
            self.failures.pop(event.relative, None)
        if event.kind == "done" and event.outcome is not None:
            self._corrected(event)

    def rate(self) -> float:
        """Files a minute."""
        now = time.monotonic()
        return sum(now - moment < RATE_WINDOW for moment in self._done) * 60 / RATE_WINDOW

    def free(self) -> int | None:
        """Bytes free on the output's disk; None: not known."""
        try:
            return shutil.disk_usage(self.settings.out).free
        except OSError:
            return None

    def free_lately(self) -> int | None:
        """The same, as it was in the last half minute, to 10 MB."""
        now = time.monotonic()
        if now - self._free[0] >= FREE_AGE:
            free = self.free()
            self._free = now, None if free is None else free // 10**7 * 10**7
        return self._free[1]

    def picture(self) -> dict[str, Any]:
        """What the page shows of it, ready for JSON."""
        ordered = sorted(self._latencies)
        last = self.points[-1] if self.points else None
        doubtful = [point for point in self.points if point.known.doubtful]
        return {
            "name": self.microscope.name,
            "acquisition": str(self.settings.acquisition),
            "out": str(self.settings.out),
            "total": self.before + self.counts["done"],
            "done": self.counts["done"],
            "retried": self.counts["retry"],
            "waiting": self.waiting if self.settings.channels is not None else None,
            "latency_p50_s": _quantile(ordered, 0.5),
            "latency_p95_s": _quantile(ordered, 0.95),
            "um_per_px": self.optics.defocus_um_per_px,
            "pixel_size_um": self.optics.pixel_size_um,
            "drift_blur_px": self.drift.blur_px,
            "drifted": self.drift.drifted,
            "last": last.as_list() if last else None,
            "points": len(self.points),
            "doubtful": [point.as_list() for point in reversed(doubtful[-SHOWN_DOUBTFUL:])],
            "doubtful_count": len(doubtful),
            "failed": len(self.failures),
            "failures": self._groups(),
        }

    def _groups(self) -> list[dict[str, Any]]:
        """The quarantined files by reason, the newest first, and of each reason the newest ones."""
        groups: dict[str, dict[str, Any]] = {}
        for failure in reversed(self.failures.values()):
            group = groups.setdefault(failure.code, {"code": failure.code, "count": 0, "files": []})
            group["count"] += 1
            if len(group["files"]) < SHOWN_FAILURES:
                group["files"].append([round(failure.time, 1), failure.file, failure.reason])
        return list(groups.values())

    def _corrected(self, event: WatchEvent) -> None:
        outcome = event.outcome
        assert outcome is not None
        self.latency.add(event.latency)
        self._latencies.append(event.latency)
        self._done.append(time.monotonic())
        for stage, seconds in outcome.seconds.items():
            self.stages.setdefault(stage, Histogram()).add(seconds)
        if outcome.job.stat:
            self.bytes += outcome.job.stat[0]
        self.last_planes = [report.as_dict() for report in outcome.reports]
        known = overview(summary(outcome.reports))
        self.drift.add(known.blur_px)
        self.points.append(Point(time.time(), event.relative, known))
        if len(self.points) > _POINTS:
            kept = set(thin([(point.time, point.file) for point in self.points]))
            self.points = [point for point in self.points if (point.time, point.file) in kept]
        if time.monotonic() > self._next_optics:
            self._look_at_optics(event.relative)

    def _look_at_optics(self, relative: str) -> None:
        """Ask a corrected file, which lies near and has the tags of its input; the settings go before."""
        self._next_optics = time.monotonic() + OPTICS_AGE
        try:
            found = read_optics(self.settings.out / relative)
        except (InputError, OSError, ValueError):
            return
        said = self.microscope.optics
        self.optics = Optics(
            said.pixel_size_um or found.pixel_size_um,
            said.na or found.na,
            said.refractive_index or found.refractive_index,
        )


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
        microscopes: Sequence[Microscope] = (),
        drift_px: float = 0.0,
    ) -> None:
        self.folders, self.health, self.drift_px = tuple(folders), health, drift_px
        self.phase, self.model, self.backend = "starting", "", ""
        self.queued, self.version = 0, 0
        self._started = time.time()
        self._notes: deque[tuple[float, str]] = deque(maxlen=SHOWN_NOTES)
        self._lock = threading.Lock()
        self._gpu = why_no_gpu() or find_gpu().name
        named = _named(folders, microscopes)
        self.microscopes = [
            FolderStatistics(one, microscope, drift_px) for one, microscope in zip(folders, named, strict=True)
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
            if event.kind in ("paused", "warning"):
                self._notes.append((time.time(), event.text))
            if event.kind != "warning":
                self.queued = event.queued
            owner = next((one for one in self.microscopes if one.settings.acquisition == event.folder), None)
            if owner is not None:
                owner.see(event)

    def tag(self) -> str:
        """Another text whenever `picture` would be another: what costs nothing is looked at, and nothing else."""
        problems = self.health.problems()
        with self._lock:
            live = [(one.rate(), one.free_lately()) for one in self.microscopes]
            return f"{self._started:.6f} {self.version} {live} {problems}"

    def picture(self) -> dict[str, Any]:
        """Everything that the page shows, ready for JSON; the points of the plots apart."""
        problems = self.health.problems()
        with self._lock:
            folders = [
                one.picture() | {"rate_per_min": round(one.rate(), 1), "free_bytes": one.free_lately()}
                for one in self.microscopes
            ]
            return {
                "phase": self.phase,
                "started": round(self._started, 1),
                "model": self.model,
                "backend": self.backend,
                "gpu": self._gpu,
                "queue": self.queued,
                "total": sum(one["total"] for one in folders),
                "done": sum(one["done"] for one in folders),
                "failed": sum(one["failed"] for one in folders),
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
        one = self.folders[folder]
        with self._lock:
            fresh = any(point.file == relative for point in reversed(self.microscopes[folder].points[-20:]))
        path = PurePosixPath(relative)
        if path.is_absolute() or ".." in path.parts or not (fresh or is_corrected(one.out, relative)):
            return None
        return one.acquisition / relative, one.out / relative

    def retry(self, folder: int, file: str | None = None, code: str | None = None) -> int:
        """Forget that a file, or every file of a reason, was quarantined, so that the next rescan takes it.

        Returns how many. Raises OutputError if the journal cannot be written, or is damaged, which the daemon mends.
        """
        one = self.microscopes[folder]
        with self._lock:
            wanted = [
                failure.file
                for failure in one.failures.values()
                if failure.file == file or (file is None and failure.code == code)
            ]
        try:
            count = forget(one.settings.out, wanted) if wanted else 0
        except (sqlite3.Error, OSError) as error:
            raise OutputError(
                one.settings.out, f"its journal cannot be written ({error})", "try again later"
            ) from error
        with self._lock:
            for name in wanted:
                one.failures.pop(name, None)
            self.version += 1
        return count


def _named(folders: Sequence[FolderSettings], given: Sequence[Microscope]) -> list[Microscope]:
    """A name for each, the folder's where none is given, and no name twice."""
    taken: Counter[str] = Counter()
    named = []
    for index, one in enumerate(folders):
        microscope = given[index] if index < len(given) else Microscope()
        name = microscope.name or one.acquisition.resolve().name or str(one.acquisition)
        taken[name] += 1
        named.append(Microscope(f"{name} ({taken[name]})" if taken[name] > 1 else name, microscope.optics))
    return named


def _quantile(ordered: list[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None
