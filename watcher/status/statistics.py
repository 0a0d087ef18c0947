"""What the page and the metrics tell, gathered from the daemon's events."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...engine.errors import ErrorCode
from ...engine.inference.engine import Engine
from ...engine.inference.gpu.driver import find_gpu, why_no_gpu
from ..events import WatchEvent
from ..health import Health
from ..journal import Journal
from ..settings import FolderSettings

HISTORY = 2000  # files of the focus plot
RATE_WINDOW = 60.0  # s
SHOWN_FAILURES = 200
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)  # s


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


class State:
    """Events in, a picture out. Its methods may be called from any thread."""

    def __init__(self, folders: Sequence[FolderSettings], health: Health) -> None:
        self.folders, self.health = tuple(folders), health
        self._begun = time.monotonic()
        self.phase, self.model, self.backend = "starting", "", ""
        self.counts: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.latency, self.stages = Histogram(), dict[str, Histogram]()
        self.bytes = 0
        self.queued = 0
        self._waiting: dict[Path | None, int] = {}
        self.last: tuple[int, str] | None = None  # index of the folder, relative path
        self.message = ""
        self._focus: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._latencies: deque[float] = deque(maxlen=500)
        self._done: deque[float] = deque(maxlen=2000)
        self._aside: tuple[int, list[dict[str, Any]]] | None = None  # of how many events, and what was aside then
        self._lock = threading.Lock()
        self._gpu = why_no_gpu() or find_gpu().name
        self._remember()

    def begin(self, engine: Engine) -> None:
        """The model is loaded, the watching starts."""
        with self._lock:
            self.phase, self.model, self.backend = "watching", engine.card.name, engine.description

    def see(self, event: WatchEvent) -> None:
        """Take an event in."""
        with self._lock:
            if event.kind == "waiting":
                self._waiting[event.folder] = event.waiting
            elif event.kind != "warning":
                self.counts[event.kind] += 1
            if event.kind != "warning":
                self.queued = event.queued
            if event.kind == "quarantined":
                self.failed[(event.code or ErrorCode.INTERNAL).value] += 1
            if event.kind in ("paused", "warning"):
                self.message = event.text
            if event.kind == "done" and event.outcome is not None:
                index = self._index(event.folder)
                self.last = (index, event.relative)
                self.latency.add(event.latency)
                self._latencies.append(event.latency)
                self._done.append(time.monotonic())
                for stage, seconds in event.outcome.seconds.items():
                    self.stages.setdefault(stage, Histogram()).add(seconds)
                if event.outcome.job.stat:
                    self.bytes += event.outcome.job.stat[0]
                planes = [report.as_dict() for report in event.outcome.reports]
                self._plot(time.time(), event.relative, planes)

    def waiting(self) -> int | None:
        """How many files wait for a partner; None if none ever does."""
        with self._lock:
            grouped = any(one.channels is not None for one in self.folders)
            return sum(self._waiting.values()) if grouped else None

    def focus(self) -> dict[str, Any] | None:
        """The last point of the focus plot."""
        with self._lock:
            return self._focus[-1] if self._focus else None

    def picture(self) -> dict[str, Any]:
        """Everything that the page shows, ready for JSON."""
        failures, waiting = self.failures(), self.waiting()
        with self._lock:
            now = time.monotonic()
            recent = [moment for moment in self._done if now - moment < RATE_WINDOW]
            ordered = sorted(self._latencies)
            last = None
            if self.last is not None:
                last = {"folder": self.last[0], "file": self.last[1], "number": self.counts["done"]}
            return {
                "phase": self.phase,
                "up_s": round(now - self._begun),
                "model": self.model,
                "backend": self.backend,
                "gpu": self._gpu,
                "queue": self.queued,
                "waiting": waiting,
                "done": self.counts["done"],
                "skipped": self.counts["skipped"],
                "retried": self.counts["retry"],
                "failed": len(failures),
                "rate_per_min": round(len(recent) * 60 / RATE_WINDOW, 1),
                "latency_p50_s": _quantile(ordered, 0.5),
                "latency_p95_s": _quantile(ordered, 0.95),
                "last": last,
                "focus": list(self._focus)[-500:],
                "failures": failures[:SHOWN_FAILURES],
                "message": self.message,
                "problems": self.health.problems(),
                "folders": [_folder(one) for one in self.folders],
            }

    def failures(self) -> list[dict[str, Any]]:
        """The files that are quarantined, of all folders."""
        with self._lock:
            events = sum(self.counts.values())
            if self._aside is not None and self._aside[0] == events:
                return self._aside[1]
        found = [
            {"folder": index, "file": entry.relative, "reason": entry.reason}
            for index, one in enumerate(self.folders)
            for entry in Journal.peek(one.out)
        ]
        with self._lock:
            self._aside = events, found
        return found

    def retry(self, folder: int, relative: str) -> bool:
        """Forget that a file was quarantined, so that the next rescan takes it; whether it was. Raises OutputError."""
        out, found = self.folders[folder].out, False
        if relative in {entry.relative for entry in Journal.peek(out)}:  # a damaged journal is left to the daemon
            with Journal(out) as journal:
                found = journal.forget(relative)
        with self._lock:
            self._aside = None
        return found

    def _index(self, folder: Path | None) -> int:
        return next((i for i, one in enumerate(self.folders) if one.acquisition == folder), 0)

    def _plot(self, when: float, relative: str, planes: list[dict[str, Any]]) -> None:
        point: dict[str, Any] = {"time": round(when, 1), "file": relative}
        for key in ("focus_in", "focus_out", "blur_px", "fidelity"):
            values = sorted(plane[key] for plane in planes if plane.get(key) is not None)
            point[key] = values[len(values) // 2] if values else None
        self._focus.append(point)

    def _remember(self) -> None:
        """The focus of what was done before this start."""
        from datetime import datetime

        rows = [row for one in self.folders for row in Journal.peek_recent(one.out, HISTORY)]
        for relative, updated, report in sorted(rows, key=lambda row: row[1])[-HISTORY:]:
            planes = json.loads(report) if report else []
            if isinstance(planes, list):
                self._plot(datetime.fromisoformat(updated).timestamp(), relative, planes)


def _quantile(ordered: list[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None


def _folder(one: FolderSettings) -> dict[str, Any]:
    try:
        free = shutil.disk_usage(one.out).free
    except OSError:
        free = None
    return {"acquisition": str(one.acquisition), "out": str(one.out), "free_bytes": free}
