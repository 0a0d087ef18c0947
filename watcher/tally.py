"""What became of many files: of a day, of a batch, of a run of the daemon."""

from __future__ import annotations

from dataclasses import dataclass

from .events import WatchEvent


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


def duration(seconds: float) -> str:
    """A time in words: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
