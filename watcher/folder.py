"""What becomes of a folder's arrivals and of the outcomes of its jobs."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..engine.errors import ChangedError, DefocusError, ErrorCode, InputError, OutputError, StoppedError
from ..engine.files.companions import Companions
from ..engine.files.folders import check_inside
from ..engine.files.version import digest
from ..engine.inference.engine import Engine
from ..engine.pipeline.batch import OWN_OUTPUTS, is_done
from ..engine.pipeline.jobs import Job, Outcome
from ..engine.pipeline.steps import Stat, stat_of
from ..engine.quality.report import summary
from .clock import SYSTEM_CLOCK, Clock
from .configuration.settings import FolderSettings
from .discovery.arrival import Arrival
from .discovery.completeness import Inspection, inspect
from .discovery.reachability import Reachability
from .events import WatchEvent
from .journal import Journal
from .journal_entry import FileState, JournalEntry, path_of
from .output.disk_space import OutputGuard
from .tracker import FileTracker

PRUNE_INTERVAL = 86400.0  # s between two clearings of the journal

log = logging.getLogger("defocus.watcher")


class FolderProcessor:
    """Decides what becomes of arrivals and outcomes, and has the journal say so.

    Attributes
    ----------
    tracker : FileTracker
        What each file is doing.
    guard : OutputGuard
        Whether the output can be written to.
    reachability : Reachability
        Whether the acquisition folder was away a moment ago.
    """

    def __init__(
        self,
        settings: FolderSettings,
        engine: Engine,
        journal: Journal,
        guard: OutputGuard,
        report: Callable[[WatchEvent], None] = lambda event: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.settings, self.card, self.journal, self.guard = settings, engine.card, journal, guard
        self.tracker, self.reachability = FileTracker(), Reachability(settings.acquisition, clock)
        self._report, self._clock = report, clock
        self._model = settings.how(engine.card)
        self._next_prune = -math.inf
        self._companions = Companions(settings.acquisition, settings.out, settings.companions)
        self._next_companions = -math.inf
        self._own_told: set[Path] = set()  # folders of which it was told that outputs lie in them

    def needs_nothing(self, relative: Path, stat: Stat, from_event: bool) -> bool:
        """Whether a version needs nothing more, or not now; called from the thread that finds files.

        The journal's row of what needs something is kept with it until its outcome.
        """
        path = self.settings.acquisition / relative
        if self.tracker.holds(path, stat) or not self.settings.wants(relative, stat[1], self._clock.time()):
            return True
        if self.guard.paused() or self.tracker.is_put_off(path, self._clock.monotonic()):
            return True  # the next rescan asks again
        try:
            row = self.journal.find(relative)
        except OutputError:
            return True  # the next rescan asks again
        if row is not None and row.stat == stat and row.model == self._model and row.state is not FileState.FAILED:
            done = row.state is FileState.DONE and row.reason != OWN_OUTPUTS
            if done:
                self._companions.add(relative)
            if done and not os.path.lexists(self.settings.output(relative)):
                self.tracker.look_up(path, row)
                return False  # somebody deleted the output: it is made again
            if not from_event:
                return True
            try:  # the same size and time, but somebody wrote: is it the same content?
                if digest(path) == row.digest:
                    return True
            except OSError:
                pass
        self.tracker.look_up(path, row)
        return False

    def find_known(self, glob: str, mtime_ns: int) -> list[Arrival]:
        """The files with such paths that were dealt with and are as they were, so that they will not arrive again.

        `mtime_ns` is that of the file they come along with, for whose sake they are not too old. One that was
        quarantined is looked into: its problem may have been that its partner was missing.
        """
        arrivals = []
        try:
            rows = self.journal.like(glob)
        except OutputError:
            return []  # not now: the partners are looked for again while the file waits
        for row in rows:
            relative = path_of(row.relative)
            path = self.settings.acquisition / relative
            if row.model != self._model or row.state is FileState.FAILED or self.tracker.on_its_way(path):
                continue
            try:
                if stat_of(path) != row.stat or not self.settings.wants(relative, mtime_ns, self._clock.time()):
                    continue
                inspection = Inspection(row.stat, row.digest, row.reason == OWN_OUTPUTS)
                if row.state is FileState.QUARANTINED:
                    inspection = inspect(path)
            except OSError:
                continue
            facts = (inspection.damage, inspection.digest, inspection.own_output)
            arrivals.append(Arrival(path, relative, row.stat, 0.0, *facts, recalled=True))
        return arrivals

    def prune_journal(self) -> None:
        """Once a day, let the journal forget what is long gone; to be called often, and while the folder is there."""
        now = self._clock.monotonic()
        if not self.settings.keep_days or now < self._next_prune:
            return
        self._next_prune = now + PRUNE_INTERVAL
        try:
            pruned = self.journal.prune(self.settings.acquisition, self.settings.keep_days)
            log.debug("%s: %d rows of files that are gone left the journal", self.settings.out, pruned)
        except OutputError:
            log.debug("%s: the journal could not be pruned", self.settings.out, exc_info=True)

    def is_suspect(self, arrival: Arrival) -> bool:
        """Whether a process died while it was correcting this version: then nothing else runs beside it."""
        return any(self.journal.deaths(member.relative, member.stat) for member in arrival.each())

    def job(self, arrival: Arrival, queued: int) -> Job | None:
        """The job that an arrival gives, which is running from now on; None if there is nothing to be done."""
        members = arrival.each()
        first, *others = (
            Job(
                member.path,
                self.settings.output(member.relative),
                member.stat,
                keep_sharp=self.settings.keep_sharp,
                keep_doubtful=self.settings.keep_doubtful,
                live=True,
                within=self.settings.out,
            )
            for member in members
        )
        job = replace(first, others=tuple(others))
        try:
            if arrival.problem is not None:
                raise arrival.problem
            if any(member.own_output for member in members):
                return self._leave_own(members, queued)
            self._check_deaths(arrival)
            for member in job.each():
                check_inside(self.settings.out, member.target)
            # An output may have been committed by a process that was killed before it wrote that down.
            undone = (None, FileState.FAILED)
            new = all(self._state(member) in undone for member in members if not member.recalled)
            done = new and is_done(job, self.card)
        except DefocusError as error:
            if error.code in (ErrorCode.SHORTAGE, ErrorCode.UNWRITABLE) or self.reachability.explains(error):
                self.record_outcome(Outcome.of(job).failed(error), members, queued)
                return None
            for member in members:
                self._quarantine(member, error, queued)
            return None
        if done:
            for member in members:
                if member.recalled and self._state(member) is FileState.DONE:
                    self.tracker.drop(member)
                else:
                    left = self._record(member, FileState.DONE)
                    self._companions.add(member.relative)
                    self._report(WatchEvent("skipped", member.name, queued=queued, left=left))
            return None
        self.tracker.start(job, members)
        self.journal.begin((member.relative, member.stat) for member in members)
        log.debug("%s: begun", job.name)
        return job

    def _leave_own(self, members: Sequence[Arrival], queued: int) -> None:
        """Outputs of defocus are never corrected again, whatever folder they lie in; told once a folder."""
        for member in members:
            if self._record(member, FileState.DONE, reason=OWN_OUTPUTS) == 0:
                self._report(WatchEvent("waiting", queued=queued, waiting=self.tracker.waiting, left=0))
            if member.path.parent not in self._own_told:
                self._own_told.add(member.path.parent)
                self._report(WatchEvent("warning", text=f"{member.path.parent}: {OWN_OUTPUTS}", queued=queued))

    def copy_companions(self, last: bool = False) -> None:
        """Copy the files that belong to what has been corrected; to be called often, it looks at every rescan."""
        now = self._clock.monotonic()
        if (now < self._next_companions and not last) or self.guard.paused():
            return
        self._next_companions = now + self.settings.timing.rescan
        with suppress(OutputError):  # the next file to be written there tells of it
            for line in self._companions.copy():
                self._report(WatchEvent("warning", text=line))

    def quarantined(self) -> list[JournalEntry]:
        """The files that are quarantined, but those that are gone from the folder; none without a journal."""
        folder = self.settings.acquisition
        with suppress(OutputError):  # it was told of, and a reload or the end goes on
            return [e for e in self.journal.quarantined() if os.path.lexists(folder / path_of(e.relative))]
        return []

    def record_outcome(self, outcome: Outcome, arrivals: Sequence[Arrival], queued: int) -> None:
        """Write down what became of a job and its files; `queued` others are found and not yet taken."""
        log.debug("%s: %s", outcome.job.name, outcome.error or "done")
        error = outcome.error
        # Not complete after all, left for later, or on a share that is away.
        left = isinstance(error, ChangedError | StoppedError) or self.reachability.explains(error)
        if isinstance(error, OutputError) or (error is not None and error.code is ErrorCode.SHORTAGE):
            for arrival in arrivals:
                self._put_off(arrival)
            left = self.guard.is_to_blame(max(arrival.stat[0] for arrival in arrivals), error)
        # Files that belong together are given up together.
        attempts = 1 + max(self._failures(arrival) for arrival in arrivals)
        for arrival, result in zip(arrivals, outcome.each(), strict=True):
            if left:  # nothing is written down: the next rescan finds it again
                self.journal.leave([(arrival.relative, arrival.stat)])
                self.tracker.drop(arrival)
            elif result.error is None:
                self.guard.worked()
                came = not arrival.recalled and not self.tracker.in_backlog(arrival.path, arrival.stat)
                latency = self._clock.monotonic() - arrival.seen if came else None
                rest = self._record(arrival, FileState.DONE, report=json.dumps(summary(result.reports)))
                self._companions.add(arrival.relative)
                facts = {"latency": latency, "queued": queued, "left": rest}
                self._report(WatchEvent("done", arrival.name, outcome=result, **facts))
            elif attempts >= self._most_attempts(result.error) or _hopeless(result):
                self._quarantine(arrival, result.error, queued, attempts)
            else:
                self._record(arrival, FileState.FAILED, attempts, result.error)
                self._fail("retry", arrival, result.error, queued)

    def _put_off(self, arrival: Arrival) -> None:
        """The others have their turn first."""
        self.tracker.put_off(arrival.path, self._clock.monotonic() + self.guard.file_pause)

    def leave_unfinished(self) -> None:
        """At the end: jobs that came to no outcome because they were not begun are no fault of their files."""
        for arrivals in self.tracker.unfinished():
            self.journal.leave((arrival.relative, arrival.stat) for arrival in arrivals)

    def _most_attempts(self, error: DefocusError) -> int:
        """After how many attempts a file is given up; that it is the disk's fault or a shortage's, two show."""
        return max(self.settings.retries, 2 if error.code in (ErrorCode.DISK_FULL, ErrorCode.SHORTAGE) else 1)

    def _check_deaths(self, arrival: Arrival) -> None:
        """Raise DefocusError for files over which one process after the other died."""
        deaths = max(self.journal.deaths(member.relative, member.stat) for member in arrival.each())
        if deaths >= max(self.settings.retries, 2):  # the first time others were being corrected beside it
            cause = f"defocus-watch was ended {deaths} times while it was correcting it (out of memory?)"
            raise DefocusError(arrival.path, cause, "lower --memory or free memory, then try again")

    def _row(self, arrival: Arrival) -> JournalEntry | None:
        """What the journal knew of a path when it was found."""
        looked_up, row = self.tracker.row(arrival.path)
        if not looked_up:  # a partner that was known before
            try:
                row = self.journal.find(arrival.relative)
            except OutputError:
                row = None
        return row

    def _failures(self, arrival: Arrival) -> int:
        """How often this version has failed so far."""
        row = self._row(arrival)
        return row.attempts if row and (row.stat, row.state) == (arrival.stat, FileState.FAILED) else 0

    def _state(self, arrival: Arrival) -> FileState | None:
        """What the journal says of this version."""
        row = self._row(arrival)
        return row.state if row and (row.stat, row.model) == (arrival.stat, self._model) else None

    def _quarantine(self, arrival: Arrival, error: DefocusError, queued: int, attempts: int = 1) -> None:
        left = self._record(arrival, FileState.QUARANTINED, attempts, error)
        self._fail("quarantined", arrival, error, queued, left)

    def _fail(self, kind: str, arrival: Arrival, error: DefocusError, queued: int, left: int | None = None) -> None:
        self._report(WatchEvent(kind, arrival.name, str(error), queued=queued, left=left, code=error.code))

    def _record(
        self,
        arrival: Arrival,
        state: FileState,
        attempts: int = 1,
        error: DefocusError | None = None,
        report: str = "",
        reason: str = "",
    ) -> int | None:
        """Write down what became of a version; how many of the backlog are left, if it was of them and is done."""
        if error is not None:
            report = json.dumps({"code": error.code.value})
        version = (arrival.name, arrival.stat, arrival.digest, self._model)
        self.journal.record(JournalEntry(*version, state, attempts, str(error or reason), report))
        self.tracker.drop(arrival)
        return None if state is FileState.FAILED else self.tracker.leave_backlog(arrival.path)


def _hopeless(outcome: Outcome) -> bool:
    """Whether a file was read whole and its pixels cannot be used (NaN): trying again cannot help."""
    error = outcome.error
    return isinstance(error, InputError) and bool(outcome.shape) and not isinstance(error.__cause__, OSError)
