"""What becomes of arrivals and outcomes, and the journal of it."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..engine.errors import ChangedError, DefocusError, InputError, OutputError, StoppedError
from ..engine.files.version import digest
from ..engine.inference.engine import Engine
from ..engine.pipeline.batch import is_done
from ..engine.pipeline.jobs import Job, Outcome
from ..engine.pipeline.steps import Stat, stat_of
from ..engine.quality.report import summary
from ..engine.tiff.integrity import check_complete
from .discovery.scanner import Arrival
from .events import WatchEvent
from .health import Health
from .journal import FileState, Journal, JournalEntry
from .output.disk_space import missing_room
from .settings import FolderSettings

PRUNE_INTERVAL = 86400.0  # s between two clearings of the journal
OUTPUT_PAUSE = 5.0  # s after an output could not be written, and between two looks at a disk without room


class FolderProcessor:
    """Decides what becomes of arrivals and outcomes, and keeps the journal."""

    def __init__(
        self,
        settings: FolderSettings,
        engine: Engine,
        journal: Journal,
        report: Callable[[WatchEvent], None],
        health: Health,
    ) -> None:
        self.journal, self._health = journal, health
        self._settings, self.card, self._tell = settings, engine.card, report
        self._how = settings.how(engine.card)
        self._pending: dict[Path, Stat] = {}  # yielded by the finder, not yet settled
        self._told_of_journal, self._next_prune = "", -math.inf
        self._looking, self._without_room = threading.Lock(), False
        self._writing = f"{settings.out} writing"  # what the health calls it
        self._next_look = 0.0  # at the output, while it cannot be written to; 0: it can
        self._in_progress: dict[Path, tuple[list[tuple[Arrival, str]], int]] = {}  # by the first source

    def needs_nothing(self, relative: Path, stat: Stat, from_event: bool) -> bool:
        """Whether a version needs nothing more; called from the finder's thread."""
        if self._pending.get(relative) == stat or not self._settings.wants(relative, stat[1]):
            return True
        if self.output_unavailable():
            return True  # not now: the next rescan asks again
        try:
            entry = self.journal.find(relative)
        except OutputError as error:
            self._journal_fails(error)
            return True  # not now: the next rescan asks again
        self._journal_works()
        if entry is None or entry.stat != stat or entry.model != self._how or entry.state is FileState.FAILED:
            return False
        if not from_event:
            return True
        try:  # the same size and time, but somebody wrote: is it the same content?
            return digest(self._settings.acquisition / relative) == entry.digest
        except OSError:
            return False

    def idle(self) -> bool:
        """Whether everything that was found has been settled."""
        return not self._pending

    def mark_pending(self, arrival: Arrival) -> None:
        self._pending[arrival.relative] = arrival.stat

    def drop_pending(self, arrival: Arrival) -> None:
        """Leave an arrival to the next rescan."""
        for one in arrival.each():
            if self._pending.get(one.relative) == one.stat:  # a newer version may have been offered meanwhile
                del self._pending[one.relative]

    def find_known(self, glob: str, mtime_ns: int) -> list[Arrival]:
        """The files with such paths that were dealt with and are as they were, so that they will not arrive again.

        `mtime_ns` is that of the file they come along with, for whose sake they are not too old. One that was
        quarantined is looked into: its problem may have been that its partner was missing.
        """
        found = []
        try:
            entries = self.journal.like(glob)
        except OutputError as error:
            self._journal_fails(error)
            return []  # not now: the partners are looked for again while the file waits
        for entry in entries:
            relative = Path(entry.relative)
            path = self._settings.acquisition / relative
            if entry.model != self._how or entry.state is FileState.FAILED or relative in self._pending:
                continue
            problem = None
            try:
                if stat_of(path) != entry.stat or not self._settings.wants(relative, mtime_ns):
                    continue
                if entry.state is FileState.QUARANTINED:
                    check_complete(path)
            except InputError as error:
                problem = error
            except OSError:
                continue
            found.append(Arrival(path, relative, entry.stat, 0.0, problem, recalled=True))
        return found

    def prune_journal(self, now: float | None = None) -> None:
        """Once a day, let the journal forget what is long gone; to be called often, and while the folder is reachable.

        `now` is monotonic, s.
        """
        now = time.monotonic() if now is None else now
        if not self._settings.keep_days or now < self._next_prune:
            return
        self._next_prune = now + PRUNE_INTERVAL
        try:
            self.journal.prune(self._settings.acquisition, self._settings.keep_days)
        except OutputError as error:
            self._journal_fails(error)

    def has_disk_space(self, queued: int = 0) -> bool:
        """Whether the output is there and its disk has room (promises P8, P9); looked at now and then while not.

        Raises OutputError with `once`: nobody would come to mend it.
        """
        out = self._settings.out
        with self._looking:
            if time.monotonic() < self._next_look:
                return False
            error = missing_room(out, self._settings.min_free_mb)
            if error and self._settings.once:
                raise error
            self._next_look = time.monotonic() + OUTPUT_PAUSE if error else 0.0
            if error:
                self._health.set_problem(f"{out} room", str(error))
                if not self._without_room:
                    self._say(_failure("paused", "", error, queued))
            elif self._without_room:
                self._health.set_problem(f"{out} room", None)
                self._say(WatchEvent("warning", text=f"{out}: can be written to again", queued=queued))
            self._without_room = error is not None
            return error is None

    def output_unavailable(self) -> bool:
        """Whether the output cannot be written to just now, as was found before; called from any thread, often."""
        return self._next_look > 0 and not self.has_disk_space()

    def job(self, arrival: Arrival, queued: int) -> Job | None:
        """The job that an arrival gives; None for a bad file and for one that is done already."""
        members = [(one, _digest(one.path)) for one in arrival.each()]
        if arrival.problem is not None:
            self._quarantine(arrival, members[0][1], arrival.problem, queued)
            return None
        first, *others = (Job(one.path, self._settings.out / one.relative, one.stat) for one, _ in members)
        job = replace(first, others=tuple(others))
        try:
            done = self._done_before(job, arrival)
        except OutputError as error:  # somebody else's file is in its place
            for one, found in members:
                self._quarantine(one, found, error, queued)
            return None
        if done:
            for one, found in members:
                if not (one.recalled and self._state(one) is FileState.DONE):
                    self._record(one, found, FileState.DONE)
                    self._say(WatchEvent("skipped", one.name, queued=queued))
            return None
        self._in_progress[job.source] = (members, queued)
        return job

    def quarantined(self) -> list[JournalEntry]:
        """The files that are quarantined, but those that are gone from the acquisition folder."""
        there = self._settings.acquisition
        return [
            entry
            for entry in self.journal.quarantined()
            # Names that are no text are escaped in the journal: they cannot be looked for.
            if "\\udc" in entry.relative or os.path.lexists(there / entry.relative)
        ]

    def record_outcome(self, outcome: Outcome) -> None:
        """Write down what became of a job."""
        members, queued = self._in_progress.pop(outcome.job.source)
        if isinstance(outcome.error, OutputError):
            # Not the files' fault: nothing is written down, the next rescan finds them again.
            self._health.set_problem(self._writing, str(outcome.error))  # until a write has worked
            told = self.output_unavailable()  # of the files in progress, only the first has to say it
            if not told:
                self._say(_failure("paused", members[0][0].name, outcome.error, queued))
            if self._settings.once:
                raise outcome.error
            with self._looking:
                self._next_look = time.monotonic() + OUTPUT_PAUSE
            for arrival, _ in members:
                self.drop_pending(arrival)
            return
        # Files that belong together are given up together.
        attempts = 1 + max(self._failures(arrival) for arrival, _ in members)
        for (arrival, found), one in zip(members, outcome.each(), strict=True):
            name, error = arrival.name, one.error
            if error is None:
                self._health.set_problem(self._writing, None)
                latency = time.monotonic() - arrival.seen
                self._record(arrival, found, FileState.DONE, report=json.dumps(summary(one.reports)))
                self._say(WatchEvent("done", name, latency=latency, queued=queued, outcome=one))
            elif isinstance(error, ChangedError | StoppedError):
                # Not complete after all, or left for later: it is found again.
                self.drop_pending(arrival)
            elif attempts >= self._settings.retries or _hopeless(one):
                self._quarantine(arrival, found, error, queued, attempts)
            else:
                self._record(arrival, found, FileState.FAILED, attempts, str(error))
                self._say(_failure("retry", name, error, queued))

    def _failures(self, arrival: Arrival) -> int:
        """How often this version has failed so far."""
        entry = self._entry(arrival)
        failed = entry is not None and (entry.stat, entry.state) == (arrival.stat, FileState.FAILED)
        return entry.attempts if entry is not None and failed else 0

    def _state(self, arrival: Arrival) -> FileState | None:
        """What the journal says of this version."""
        entry = self._entry(arrival)
        known = entry is not None and (entry.stat, entry.model) == (arrival.stat, self._how)
        return entry.state if entry is not None and known else None

    def _quarantine(self, arrival: Arrival, found: str, error: DefocusError, queued: int, attempts: int = 1) -> None:
        self._record(arrival, found, FileState.QUARANTINED, attempts, str(error))
        self._say(_failure("quarantined", arrival.name, error, queued))

    def _record(
        self, arrival: Arrival, found: str, state: FileState, attempts: int = 1, reason: str = "", report: str = ""
    ) -> None:
        try:
            entry = JournalEntry(arrival.name, arrival.stat, found, self._how, state, attempts, reason, report)
            self.journal.record(entry)
        except OutputError as error:  # a full disk: the journal keeps it and tries again
            self._journal_fails(error)
        self.drop_pending(arrival)

    def _entry(self, arrival: Arrival) -> JournalEntry | None:
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
        self._health.set_problem(str(self.journal.path), str(error))
        if self._told_of_journal != str(error):
            self._told_of_journal = str(error)
            self._say(WatchEvent("warning", text=str(error)))

    def _journal_works(self) -> None:
        if self._told_of_journal and not self.journal.behind:
            self._told_of_journal = ""
            self._health.set_problem(str(self.journal.path), None)

    def _say(self, event: WatchEvent) -> None:
        self._tell(replace(event, folder=self._settings.acquisition))

    def _done_before(self, job: Job, arrival: Arrival) -> bool:
        """Whether the output is there already: committed by a process that was killed before it wrote that down."""
        if any(self._state(one) is not None for one in arrival.each() if not one.recalled):
            return False  # the journal knows this version: its content changed, or it failed before
        return is_done(job, self.card)


def _failure(kind: str, name: str, error: DefocusError, queued: int) -> WatchEvent:
    return WatchEvent(kind, name, str(error), queued=queued, code=error.code)


def _hopeless(outcome: Outcome) -> bool:
    """Whether a file was read whole and its pixels cannot be used (NaN): trying again cannot help."""
    error = outcome.error
    return isinstance(error, InputError) and bool(outcome.shape) and not isinstance(error.__cause__, OSError)


def _digest(path: Path) -> str:
    try:
        return digest(path)
    except OSError:
        return ""
