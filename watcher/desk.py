"""The desk of one folder: what becomes of arrivals and outcomes, and the journal of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..engine.batch import is_done
from ..engine.engine import Engine
from ..engine.errors import ChangedError, OutputError
from ..engine.jobs import Job, Outcome
from ..engine.pipeline import Stat
from ..engine.report import summary
from .arrivals import Arrival
from .health import Health
from .journal import Entry, Journal, State
from .room import missing_room
from .settings import Event, WatchSettings
from .versions import digest

OUTPUT_PAUSE = 5.0  # s after an output could not be written, and between two looks at a disk without room


class Desk:
    """Decides what becomes of arrivals and outcomes, and keeps the journal."""

    def __init__(
        self,
        settings: WatchSettings,
        engine: Engine,
        journal: Journal,
        report: Callable[[Event], None],
        health: Health,
    ) -> None:
        self.journal, self._health = journal, health
        self._settings, self._card, self._tell = settings, engine.card, report
        self._offered: dict[Path, Stat] = {}  # yielded by the finder, not yet settled
        self._told_of_journal = ""
        self._in_hand: dict[Path, tuple[Arrival, str, int]] = {}

    def known(self, relative: Path, stat: Stat, hinted: bool) -> bool:
        """Whether a version needs nothing more; called from the finder's thread."""
        if self._offered.get(relative) == stat or not self._settings.wants(relative, stat[1]):
            return True
        try:
            entry = self.journal.find(relative)
        except OutputError as error:
            self._journal_fails(error)
            return True  # not now: the next rescan asks again
        self._journal_works()
        if entry is None or entry.stat != stat or entry.model != self._card.sha256 or entry.state is State.FAILED:
            return False
        if not hinted:
            return True
        try:  # the same size and time, but somebody wrote: is it the same content?
            return digest(self._settings.acquisition / relative) == entry.digest
        except OSError:
            return False

    def idle(self) -> bool:
        """Whether everything that was found has been settled."""
        return not self._offered

    def offer(self, arrival: Arrival) -> None:
        self._offered[arrival.relative] = arrival.stat

    def forget(self, arrival: Arrival) -> None:
        """Leave an arrival to the next rescan."""
        self._offered.pop(arrival.relative, None)

    def wait_for_room(self, stop: threading.Event, queued: int) -> bool:
        """Wait while the output has gone or its disk is too full (promises P8, P9); False if the stop came first.

        Raises OutputError with `once`: nobody would come to mend it.
        """
        out, told = self._settings.out, False
        while reason := missing_room(out, self._settings.min_free_mb):
            if self._settings.once:
                raise OutputError(out, *reason.removeprefix(f"{out}: ").split("; ", 1))
            self._health.trouble(f"{out} room", reason)
            if not told:
                self._say(Event("paused", text=reason, queued=queued))
            told = True
            self._health.beat("engine")
            if stop.wait(OUTPUT_PAUSE):
                return False
        if told:
            self._health.trouble(f"{out} room", None)
            self._say(Event("warning", text=f"{out}: can be written to again", queued=queued))
        return True

    def job(self, arrival: Arrival, queued: int) -> Job | None:
        """The job that an arrival gives; None for a bad file and for one that is done already."""
        if arrival.problem is not None:
            self._quarantine(arrival, _digest(arrival.path), str(arrival.problem), queued)
            return None
        found = _digest(arrival.path)
        job = Job(arrival.path, self._settings.out / arrival.relative, arrival.stat)
        try:
            done = self._done_before(job, arrival)
        except OutputError as error:  # somebody else's file is in its place
            self._quarantine(arrival, found, str(error), queued)
            return None
        if done:
            self._record(arrival, found, State.DONE)
            self._say(Event("skipped", arrival.name, queued=queued))
            return None
        self._in_hand[job.source] = (arrival, found, queued)
        return job

    def settle(self, outcome: Outcome, stop: threading.Event) -> None:
        """Write down what became of a job."""
        arrival, found, queued = self._in_hand.pop(outcome.job.source)
        name, error = arrival.name, outcome.error
        if error is None:
            latency = time.monotonic() - arrival.seen
            self._record(arrival, found, State.DONE, report=json.dumps(summary(outcome.reports)))
            self._say(Event("done", name, latency=latency, queued=queued, outcome=outcome))
        elif isinstance(error, ChangedError):
            # Not complete after all: it is found again as another version.
            self._offered.pop(arrival.relative, None)
        elif isinstance(error, OutputError):
            # Not the file's fault: nothing is written down, the next rescan finds it again.
            self._say(Event("paused", name, str(error), queued=queued))
            if self._settings.once:
                raise error
            stop.wait(OUTPUT_PAUSE)
            self._offered.pop(arrival.relative, None)
        else:
            self._retry(arrival, found, str(error), queued)

    def _retry(self, arrival: Arrival, found: str, reason: str, queued: int) -> None:
        entry = self._entry(arrival)
        attempts = 1
        if entry is not None and (entry.stat, entry.state) == (arrival.stat, State.FAILED):
            attempts += entry.attempts
        if attempts >= self._settings.retries:
            self._quarantine(arrival, found, reason, queued, attempts)
            return
        self._record(arrival, found, State.FAILED, attempts, reason)
        self._say(Event("retry", arrival.name, reason, queued=queued))

    def _quarantine(self, arrival: Arrival, found: str, reason: str, queued: int, attempts: int = 1) -> None:
        self._record(arrival, found, State.QUARANTINED, attempts, reason)
        self._say(Event("quarantined", arrival.name, reason, queued=queued))

    def _record(
        self, arrival: Arrival, found: str, state: State, attempts: int = 1, reason: str = "", report: str = ""
    ) -> None:
        try:
            self.journal.record(
                Entry(arrival.name, arrival.stat, found, self._card.sha256, state, attempts, reason, report)
            )
        except OutputError as error:  # a full disk: the journal keeps it and tries again
            self._journal_fails(error)
        self._offered.pop(arrival.relative, None)

    def _entry(self, arrival: Arrival) -> Entry | None:
        """What the journal knows of a path; None also while it cannot be read."""
        try:
            return self.journal.find(arrival.relative)
        except OutputError as error:
            self._journal_fails(error)
            return None

    def _journal_fails(self, error: OutputError) -> None:
        """Told once until it works again. Raises with `once`: nobody would come to mend it."""
        if self._settings.once:
            raise error
        self._health.trouble(str(self.journal.path), str(error))
        if self._told_of_journal != str(error):
            self._told_of_journal = str(error)
            self._say(Event("warning", text=str(error)))

    def _journal_works(self) -> None:
        if self._told_of_journal and not self.journal.behind:
            self._told_of_journal = ""
            self._health.trouble(str(self.journal.path), None)

    def _say(self, event: Event) -> None:
        self._tell(replace(event, folder=self._settings.acquisition))

    def _done_before(self, job: Job, arrival: Arrival) -> bool:
        """Whether the output is there already: committed by a process that was killed before it wrote that down."""
        entry = self._entry(arrival)
        if entry is not None and entry.stat == arrival.stat and entry.model == self._card.sha256:
            return False  # the journal knows this version: its content changed, or it failed before
        return is_done(job, self._card)


def _digest(path: Path) -> str:
    try:
        return digest(path)
    except OSError:
        return ""
