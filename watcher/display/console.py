"""What the daemon shows while it runs: a live line on a terminal, one line a file elsewhere."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.status import Status

from ...engine.errors import one_line
from ...engine.pipeline.jobs import Outcome
from ..events import WatchEvent

RATE_WINDOW = 30.0  # s over which the rate is taken


class Live:
    """Shows events; `show` may be called from any thread."""

    def __init__(self, console: Console | None = None) -> None:
        # Results go to stdout; highlighting and markup would change file names.
        self._console = console or Console(highlight=False, markup=False, soft_wrap=True)
        self._lock = threading.Lock()
        self._status: Status | None = None
        self._done: deque[float] = deque(maxlen=1000)
        self._count = self._quarantined = self._queued = 0
        self._waiting: dict[Path | None, int] = {}
        self._latency = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show the live line, where there is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status("waiting for files") as self._status:
            yield
        self._status = None

    def show(self, event: WatchEvent) -> None:
        """Count an event and print or refresh what is shown of it."""
        with self._lock:
            self._queued = event.queued if event.kind != "warning" else self._queued
            if event.kind == "done":
                self._count += 1
                self._latency = event.latency
                self._done.append(time.monotonic())
                if self._status is None:
                    self._print(f"{event.relative}: {_done(event.outcome)} in {event.latency:.2f} s")
            elif event.kind == "quarantined":
                self._quarantined += 1
                self._print(f"quarantined: {event.text}")
            elif event.kind == "retry":
                self._print(f"will try again: {event.text}")
            elif event.kind == "paused":
                self._print(f"paused: {event.text}")
            elif event.kind == "waiting":
                self._waiting[event.folder] = event.waiting
            elif event.kind == "warning":
                self._print(event.text)
            if self._status is not None:
                self._status.update(self.line())

    def line(self) -> str:
        """The live line: queue, done, rate, last latency, waiting for a partner, quarantined."""
        now = time.monotonic()
        recent = [moment for moment in self._done if now - moment < RATE_WINDOW]
        rate = (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0
        text = f"queue {self._queued}  done {self._count}  {rate:.1f} files/s  last latency {self._latency:.2f} s"
        if waiting := sum(self._waiting.values()):
            text += f"  waiting for a partner {waiting}"
        return f"{text}  quarantined {self._quarantined}" if self._quarantined else text

    def say(self, text: str) -> None:
        """Print a line of its own."""
        with self._lock:
            self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(one_line(text))


def _done(outcome: Outcome | None) -> str:
    """What was done to a file, and whether to look at it."""
    reports = outcome.reports if outcome else ()
    copied = sum(report.copied for report in reports)
    doubtful = sum(report.verdict == "doubtful" for report in reports)
    if not reports or not copied:
        text = "corrected"
    elif copied == len(reports):
        text = "copied"
    else:
        text = f"corrected, {copied} of {len(reports)} planes copied,"
    return f"{text} ({doubtful} of {len(reports)} planes doubtful)" if doubtful else text
