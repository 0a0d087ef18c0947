"""Many files in a line: what became of those of a day, a batch or a run, and how long those that wait will take."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

from .events import WatchEvent

PACE = 4  # files after which their own pace tells more than the forecast
_RECENT = 50  # files of which the pace is taken


@dataclass
class Tally:
    """Counts of files from `begun` to `last` (monotonic, s); a file whose planes were all kept counts as kept."""

    begun: float = 0.0
    last: float = 0.0
    restored: int = 0
    kept: int = 0
    doubtful: int = 0
    quarantined: int = 0

    def add(self, event: WatchEvent, now: float) -> None:
        """Count an event in."""
        self.begun, self.last = self.begun or now, now
        if event.kind == "quarantined":
            self.quarantined += 1
        elif event.outcome is not None:
            known = event.outcome.overview
            self.kept += known.verdict == "kept"
            self.restored += known.verdict != "kept"
            self.doubtful += known.doubtful > 0

    def __str__(self) -> str:
        text = f"{self.restored} corrected, {self.kept} kept"
        trouble = (self.quarantined, "quarantined"), (self.doubtful, "doubtful")
        return ", ".join([text, *(f"{count} {label}" for count, label in trouble if count)])


class Backlog:
    """Files that were there at the start, in all folders: how many are left, and about how long they will take."""

    def __init__(self) -> None:
        self._left: dict[Path | None, int] = {}
        self._forecast: dict[Path | None, float] = {}  # s a file
        self._finished: deque[float] = deque(maxlen=_RECENT)
        self.done = 0

    @property
    def left(self) -> int:
        return sum(self._left.values())

    def see(self, event: WatchEvent, now: float) -> None:
        """Take an event in that came at `now` (monotonic, s)."""
        if event.left is None:
            return
        if event.kind == "backlog":
            if not self.left:  # a new one, which may be of other files
                self.done = 0
                self._finished.clear()
            if event.forecast is not None:
                self._forecast[event.folder] = event.forecast / max(1, event.left)
        elif event.kind != "waiting":
            self.done += 1
            self._finished.append(now)
        self._left[event.folder] = event.left

    def seconds(self) -> float | None:
        """About how long the files that are left will take, s: as the last ones did, or as was told before any was
        done; None as long as nobody knows.
        """
        if self.done >= PACE:
            return (self._finished[-1] - self._finished[0]) / (len(self._finished) - 1) * self.left
        if any(left and folder not in self._forecast for folder, left in self._left.items()):
            return None
        return sum(left * self._forecast[folder] for folder, left in self._left.items() if left)


def duration(seconds: float) -> str:
    """A time in words: "40 s", "12 min", "3 h 20 min"."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
