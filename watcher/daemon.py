"""The daemon: arrivals become jobs, jobs go through the pipeline, outcomes go into the journal.

A thread for each folder finds files, the calling one restores them. Between them stands the line (promise P10).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path

from ..engine.batch import is_done
from ..engine.commit import sweep
from ..engine.engine import Engine
from ..engine.errors import ChangedError, DefocusError, InputError, OutputError
from ..engine.jobs import Job, Outcome
from ..engine.pipeline import Stat, pipeline
from ..engine.report import summary
from .arrivals import Arrival, Pace, arrivals
from .health import Health
from .journal import Entry, Journal, State
from .line import Line, Order
from .owner import Ownership
from .room import missing_room
from .versions import digest

OUTPUT_PAUSE = 5.0  # s after an output could not be written, and between two looks at a disk without room


@dataclass(frozen=True)
class WatchSettings:
    """What to watch and how.

    Attributes
    ----------
    acquisition, out : Path
        The folder that is watched, and where corrected files go (subfolders are mirrored).
    pace : Pace
        Settling, rescan, patience, polling.
    retries : int
        How often a file that cannot be read is tried before it is set aside.
    once : bool
        End when everything that is there has been dealt with.
    only_defocused : bool
        Copy planes that are sharp already as they are.
    order : Order
        Which of the waiting files comes next.
    include, exclude : tuple of str
        Patterns (`*_w1*`, `plate2/*`) of paths below the folder, or of names: only those included (all if there are
        none) and not excluded are corrected.
    max_age : float
        Files that were last written more seconds ago than this are left alone; 0: none.
    min_free_mb : float
        Nothing is written while the output's disk has less room than this; 0: not looked at.
    keep_days : float
        Files of which nothing is left in the acquisition folder leave the journal after so many days; 0: never.
    """

    acquisition: Path
    out: Path
    pace: Pace = field(default_factory=Pace)
    retries: int = 3
    once: bool = False
    only_defocused: bool = False
    order: Order = Order.OLDEST
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_age: float = 0.0
    min_free_mb: float = 0.0
    keep_days: float = 0.0

    def wants(self, relative: Path, mtime_ns: int) -> bool:
        """Whether a file is to be corrected, by its name and age."""
        names = (relative.as_posix(), relative.name)
        if self.include and not any(fnmatch(name, pattern) for name in names for pattern in self.include):
            return False
        if any(fnmatch(name, pattern) for name in names for pattern in self.exclude):
            return False
        return not self.max_age or time.time() - mtime_ns / 1e9 <= self.max_age


@dataclass(frozen=True)
class Event:
    """Something that happened, for whoever shows it.

    Attributes
    ----------
    kind : "done", "skipped", "retry", "quarantined", "paused" or "warning"
    relative : str
        The file concerned, below the acquisition folder.
    text : str
        The reason, in a line.
    latency : float
        s from the close of the file to its corrected file.
    queued : int
        Files found and not yet taken.
    outcome : Outcome or None
        With "done": stages' times and what is known of each plane.
    folder : Path or None
        The acquisition folder.
    """

    kind: str
    relative: str = ""
    text: str = ""
    latency: float = 0.0
    queued: int = 0
    outcome: Outcome | None = None
    folder: Path | None = None


def default_out(acquisition: Path) -> Path:
    """`ACQ_corrected` beside ACQ."""
    resolved = acquisition.resolve()
    return resolved.with_name(f"{resolved.name}_corrected")


def check_folders(acquisition: Path, out: Path) -> None:
    """Refuse folders that cannot work (promise P1), before anything is made.

    Raises
    ------
    InputError
        No such folder, or one of the two lies inside the other.
    """
    if not acquisition.exists():
        raise InputError(acquisition, "no such folder", "give the folder that the microscope writes to")
    if not acquisition.is_dir():
        raise InputError(acquisition, "a file, not a folder", "give the folder that the microscope writes to")
    try:
        next(acquisition.iterdir(), None)
    except OSError as error:
        raise InputError(acquisition, f"cannot be read ({error.strerror})", "check its permissions") from error
    inside, outside = out.resolve(), acquisition.resolve()
    if inside == outside or outside in inside.parents:
        raise InputError(out, f"lies inside the acquisition folder {acquisition}", "choose another folder with -o")
    if inside in outside.parents:
        raise InputError(acquisition, f"lies inside the output folder {out}", "choose another folder with -o")


def watch(
    settings: WatchSettings | Sequence[WatchSettings],
    engine: Engine,
    stop: threading.Event,
    report: Callable[[Event], None] = lambda event: None,
    health: Health | None = None,
) -> list[Entry]:
    """Correct every file that arrives until `stop` is set (or, with `once`, until nothing is left; it is set then).

    One engine serves all folders. The file in hand is finished when `stop` is set (promise P12). Returns the files that
    are set aside, with reasons.

    Raises
    ------
    InputError, OutputError
        Folders that cannot work, or that another daemon writes to (P13); a journal that cannot be written.
    DefocusError
        The thread that finds files died: the process must end, never watch in silence (promise P8).
    """
    watched = [settings] if isinstance(settings, WatchSettings) else list(settings)
    health = health or Health()
    for one in watched:
        check_folders(one.acquisition, one.out)
    with ExitStack() as stack:
        line: Line[tuple[_Desk, Arrival]] = Line(watched[0].order, drop=lambda item: item[0].forget(item[1]))
        finders = []
        for one in watched:
            stack.enter_context(Ownership(one.out))
            journal = stack.enter_context(Journal(one.out))
            if journal.warning:
                report(Event("warning", text=journal.warning, folder=one.acquisition))
            if one.keep_days:
                journal.prune(one.acquisition, one.keep_days)
            sweep(one.out)  # what a killed process left half-written
            desk = _Desk(one, engine, journal, report, health)
            finders.append(_Finder(one, desk, line, stop, report, health))
        for finder in finders:
            finder.start()
        desks: dict[Path, _Desk] = {}
        try:
            jobs = _jobs(line, finders, desks, stop, health)
            for outcome in pipeline(jobs, engine, watched[0].only_defocused):
                desks.pop(outcome.job.source).settle(outcome, stop)
                health.working(None)
        finally:
            health.ended("engine")
            for finder in finders:
                finder.end()
        return [entry for finder in finders for entry in finder.desk.journal.quarantined()]


def _jobs(
    line: Line[tuple[_Desk, Arrival]],
    finders: Sequence[_Finder],
    desks: dict[Path, _Desk],
    stop: threading.Event,
    health: Health,
) -> Iterator[Job]:
    """The jobs of all folders until the stop; raises what ended a thread that finds files."""
    while not stop.is_set():
        health.beat("engine")
        # Asked in this order: what is put before the end is seen after it.
        over = all(finder.ended for finder in finders)
        item = line.get(timeout=0.0 if over else 0.1)
        if item is None:
            if over or any(finder.error for finder in finders):
                break
            continue
        desk, arrival = item
        if not desk.wait_for_room(stop, len(line)):
            break
        job = desk.job(arrival, len(line))
        if job is not None:
            desks[job.source] = desk
            health.working(arrival.relative.as_posix())
            yield job
    for finder in finders:
        finder.check()


class _Finder(threading.Thread):
    """Runs `arrivals` of one folder and puts what it yields into the line."""

    def __init__(
        self,
        settings: WatchSettings,
        desk: _Desk,
        line: Line[tuple[_Desk, Arrival]],
        stop: threading.Event,
        report: Callable[[Event], None],
        health: Health,
    ) -> None:
        super().__init__(name="defocus-finder", daemon=True)
        self.desk = desk
        self.error: BaseException | None = None
        self._settings, self._line, self._asked, self._report = settings, line, stop, report
        self._health, self._loop = health, f"looking for files in {settings.acquisition}"
        self._over = threading.Event()

    @property
    def ended(self) -> bool:
        return self._over.is_set()

    def run(self) -> None:
        settings = self._settings
        pace = settings.pace
        if settings.once:  # what is there is finished or broken; nobody waits for a writer
            pace = replace(pace, patience=min(pace.patience, pace.settle), rescan=min(pace.rescan, 0.5))
        try:
            found = arrivals(
                settings.acquisition,
                self._asked,
                self.desk.known,
                pace,
                until=self.desk.idle if settings.once else None,
                warn=lambda text: self._report(Event("warning", text=text, folder=settings.acquisition)),
                beat=self._beat,
            )
            for arrival in found:
                self.desk.offer(arrival)
                self._line.put((self.desk, arrival), arrival.stat[1] / 1e9, self._asked)
        except BaseException as error:
            self.error = error
        finally:
            self._health.ended(self._loop)
            self._over.set()

    def check(self) -> None:
        """Raise what ended the thread."""
        if self.error is not None:
            cause = f"looking for files failed ({type(self.error).__name__}: {self.error})"
            raise DefocusError(self._settings.acquisition, cause, "start defocus-watch again") from self.error

    def end(self) -> None:
        self._asked.set()
        self.join(10)

    def _beat(self, reachable: bool) -> None:
        self._health.beat(self._loop)
        folder = self._settings.acquisition
        self._health.trouble(str(folder), None if reachable else f"{folder}: cannot be reached")


class _Desk:
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
        self._in_hand: dict[Path, tuple[Arrival, str, int]] = {}

    def known(self, relative: Path, stat: Stat, hinted: bool) -> bool:
        """Whether a version needs nothing more; called from the finder's thread."""
        if self._offered.get(relative) == stat or not self._settings.wants(relative, stat[1]):
            return True
        entry = self.journal.find(relative)
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
        """Wait while the output's disk is too full (promise P9); False if the stop came first.

        Raises OutputError with `once`: nobody would come to make room.
        """
        out, told = self._settings.out, False
        while reason := missing_room(out, self._settings.min_free_mb):
            if self._settings.once:
                raise OutputError(out, reason.partition(": ")[2].partition(";")[0], "make room")
            self._health.trouble(f"{out} room", reason)
            if not told:
                self._say(Event("paused", text=reason, queued=queued))
            told = True
            self._health.beat("engine")
            if stop.wait(OUTPUT_PAUSE):
                return False
        if told:
            self._health.trouble(f"{out} room", None)
            self._say(Event("warning", text=f"{out}: room again", queued=queued))
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
            self._say(Event("skipped", arrival.relative.as_posix(), queued=queued))
            return None
        self._in_hand[job.source] = (arrival, found, queued)
        return job

    def settle(self, outcome: Outcome, stop: threading.Event) -> None:
        """Write down what became of a job."""
        arrival, found, queued = self._in_hand.pop(outcome.job.source)
        name, error = arrival.relative.as_posix(), outcome.error
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
        entry = self.journal.find(arrival.relative)
        attempts = 1
        if entry is not None and (entry.stat, entry.state) == (arrival.stat, State.FAILED):
            attempts += entry.attempts
        if attempts >= self._settings.retries:
            self._quarantine(arrival, found, reason, queued, attempts)
            return
        self._record(arrival, found, State.FAILED, attempts, reason)
        self._say(Event("retry", arrival.relative.as_posix(), reason, queued=queued))

    def _quarantine(self, arrival: Arrival, found: str, reason: str, queued: int, attempts: int = 1) -> None:
        self._record(arrival, found, State.QUARANTINED, attempts, reason)
        self._say(Event("quarantined", arrival.relative.as_posix(), reason, queued=queued))

    def _record(
        self, arrival: Arrival, found: str, state: State, attempts: int = 1, reason: str = "", report: str = ""
    ) -> None:
        relative = arrival.relative.as_posix()
        try:
            self.journal.record(
                Entry(relative, arrival.stat, found, self._card.sha256, state, attempts, reason, report)
            )
        except OutputError as error:  # a full disk: the next rescan finds the file again, and its output done
            if self._settings.once:  # nobody would come to make room
                raise
            self._say(Event("warning", relative, str(error)))
        self._offered.pop(arrival.relative, None)

    def _say(self, event: Event) -> None:
        self._tell(replace(event, folder=self._settings.acquisition))

    def _done_before(self, job: Job, arrival: Arrival) -> bool:
        """Whether the output is there already: committed by a process that was killed before it wrote that down."""
        entry = self.journal.find(arrival.relative)
        if entry is not None and entry.stat == arrival.stat and entry.model == self._card.sha256:
            return False  # the journal knows this version: its content changed, or it failed before
        return is_done(job, self._card)


def _digest(path: Path) -> str:
    try:
        return digest(path)
    except OSError:
        return ""
