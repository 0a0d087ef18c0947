"""One microscope in numbers: what its journal holds, and what came of its files since the start."""

from __future__ import annotations

import shutil
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...engine.errors import ErrorCode, InputError
from ...engine.formats.dispatch import read_optics
from ...engine.tiff.optics import RecordedOptics
from ..alerts.drift import Drift
from ..configuration.settings import FolderSettings
from ..events import WatchEvent
from .history import Failure, Point, read_history, thin

RATE_WINDOW = 60.0  # s
SHOWN_FAILURES = 20  # of a reason
SHOWN_DOUBTFUL = 24
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
class MicroscopeSettings:
    """How a folder is called on the page, and what its settings say of the optics; None: what its files say."""

    name: str = ""
    optics: RecordedOptics = field(default_factory=RecordedOptics)


class FolderStatistics:
    """One microscope: what was there before this start, and what came of the events since.

    Not thread-safe: `State` holds its lock around every call.
    """

    def __init__(self, settings: FolderSettings, microscope: MicroscopeSettings, drift_px: float) -> None:
        self.settings, self.microscope = settings, microscope
        self.counts: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.latency, self.stages = Histogram(), dict[str, Histogram]()
        self.bytes, self.waiting, self.left = 0, 0, 0
        self.last_planes: list[dict[str, Any]] = []
        self.optics = microscope.optics
        self.drift = Drift(drift_px)
        history = read_history(settings.out)
        self.before = history.done  # corrected before this start, as far as it is remembered
        self.points: list[Point] = history.points
        self.failures: dict[str, Failure] = {
            failure.file: failure for failure in reversed(history.failures)
        }  # the newest last
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
        if event.left is not None:
            self.left = event.left
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
        if self._free[1] is None or now - self._free[0] >= FREE_AGE:  # the page is older than the output folder
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
            "left": self.left,
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
        if event.latency is not None:
            self.latency.add(event.latency)
            self._latencies.append(event.latency)
        self._done.append(time.monotonic())
        for stage, seconds in outcome.seconds.items():
            self.stages.setdefault(stage, Histogram()).add(seconds)
        if outcome.job.stat:
            self.bytes += outcome.job.stat[0]
        self.last_planes = [report.as_dict() for report in outcome.reports]
        known = outcome.overview
        self.drift.add(known.blur_px)
        self.points.append(Point(time.time(), event.relative, known))
        if len(self.points) > _POINTS:
            kept_points = set(thin([(point.time, point.file) for point in self.points]))
            self.points = [point for point in self.points if (point.time, point.file) in kept_points]
        if time.monotonic() > self._next_optics:
            self._look_at_optics(event.relative)

    def _look_at_optics(self, relative: str) -> None:
        """Ask a corrected file, which lies near and has the tags of its input; the settings go before."""
        self._next_optics = time.monotonic() + OPTICS_AGE
        try:
            recorded = read_optics(self.settings.output(Path(relative)))
        except (InputError, OSError, ValueError):
            return
        configured = self.microscope.optics
        self.optics = RecordedOptics(
            configured.pixel_size_um or recorded.pixel_size_um,
            configured.na or recorded.na,
            configured.refractive_index or recorded.refractive_index,
        )


def _quantile(ordered: list[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None
