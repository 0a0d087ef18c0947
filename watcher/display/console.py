"""What the daemon shows while it runs: a live line on a terminal, one line a file elsewhere."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.status import Status

from ...engine.errors import one_line
from ...engine.quality.overview import FileOverview
from ..events import WatchEvent
from ..tally import PACE, Backlog, duration

RATE_WINDOW = 30.0  # s over which the rate is taken
_SHORTEST_NAME, _LONGEST_NAME = 12, 40  # in the live line; its end tells one file from the next
_SPINNER = 3  # columns


class Live:
    """Shows events; `show` may be called from any thread."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        # Results go to stdout; highlighting and markup would change file names.
        self._console = console or Console(highlight=False, markup=False, soft_wrap=True)
        self._clock = clock
        self._lock = threading.Lock()
        self._status: Status | None = None
        self._done: deque[float] = deque(maxlen=1000)
        self._count = self._quarantined = self._queued = self._doubtful = self._planes = 0
        self._waiting: dict[Path | None, int] = {}
        self._last: WatchEvent | None = None
        self._backlog, self._told_at = Backlog(), PACE

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
            self._backlog.see(event, self._clock())
            if event.kind == "done":
                self._count += 1
                self._last = event
                self._planes += _known(event).planes
                self._doubtful += _known(event).doubtful
                self._done.append(self._clock())
                if self._status is None:
                    self._print(f"{event.relative}: {_logged(event)} in {_seconds(event):.2f} s")
            elif event.kind == "backlog":
                self._told_at = PACE
                self._print(self._begins(event))
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
            elif self._backlog.done == self._told_at and event.left and (rest := self._rest()):
                self._told_at *= 4  # now and then, as the estimate becomes a better one
                self._print(f"{self._backlog.left} files left{rest}")

    def line(self) -> str:
        """The live line: queue, done, rate, the last file, doubtful planes, waiting for a partner, quarantined."""
        now = self._clock()
        recent = [moment for moment in self._done if now - moment < RATE_WINDOW]
        rate = (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 and recent[-1] > recent[0] else 0.0
        rest = self._rest() if self._backlog.left else ""
        text = f"queue {max(self._queued, self._backlog.left)}{rest}  done {self._count}"
        text += "" if rest else f"  {rate:.1f} files/s"  # the one tells the other, and 80 columns are few
        more = f"  doubtful planes {self._doubtful}" if self._doubtful else ""
        if waiting := sum(self._waiting.values()):
            more += f"  waiting for a partner {waiting}"
        more += f"  quarantined {self._quarantined}" if self._quarantined else ""
        if self._last is not None:
            name, known = one_line(self._last.relative), _described(self._last)
            spare = self._console.width - _SPINNER - len(f"{text}  last : {more}")
            if spare < len(known) + min(len(name), _LONGEST_NAME) and ", " in known:
                known = known.rpartition(", ")[0]  # the time goes first
            room = max(_SHORTEST_NAME, min(_LONGEST_NAME, spare - len(known)))
            text += f"  last {name if len(name) <= room else f'...{name[3 - room :]}'}: {known}"
        return text + more

    def end(self) -> None:
        """Print how many planes of all that was done are doubtful, if any are: the live line has gone."""
        if self._doubtful:
            self.say(
                f"{self._doubtful} of {self._planes} planes doubtful: compare input and output before you use them"
            )

    def say(self, text: str) -> None:
        """Print a line of its own."""
        with self._lock:
            self._print(text)

    def _begins(self, event: WatchEvent) -> str:
        """How many files there are, and how long all that is known of takes: one engine serves every folder."""
        others = self._backlog.left - (event.left or 0)
        with_others = f" with the {others} of other folders" if others else ""
        rest = self._rest()
        return f"{event.folder}: {event.left} files waiting{rest}{with_others if rest else ''}"

    def _rest(self) -> str:
        """ ", about 12 min", if that is known."""
        rest = self._backlog.seconds()
        return "" if rest is None else f", about {duration(max(1.0, rest))}"

    def _print(self, text: str) -> None:
        # The images go on, also if the disk of the log is full, or its reader has gone (where rich would leave).
        with suppress(OSError, SystemExit):
            self._console.print(one_line(text))


def _known(event: WatchEvent) -> FileOverview:
    return event.outcome.overview if event.outcome is not None else FileOverview()


def _seconds(event: WatchEvent) -> float:
    """The time that a file itself took, in s: its latency counts what it waited, and a file of the backlog has none."""
    spent = sum(event.outcome.seconds.values()) if event.outcome is not None else 0.0
    return spent or event.latency or 0.0


def _described(event: WatchEvent) -> str:
    """The last file in the live line: verdict, blur, time."""
    known = _known(event)
    parts = [known.verdict] if known.planes else []
    parts += [f"blur {known.blur_px:.1f} px"] if known.blur_px is not None else []
    return ", ".join([*parts, f"{_seconds(event):.2f} s"])


def _logged(event: WatchEvent) -> str:
    """What was done to a file, and whether to look at it."""
    known = _known(event)
    if not known.kept:
        text = "corrected"
    elif known.kept == known.planes:
        text = "kept"
    else:
        text = f"corrected, {known.kept} of {known.planes} planes kept,"
    return f"{text} ({known.doubtful} of {known.planes} planes doubtful)" if known.doubtful else text
