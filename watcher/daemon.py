"""The daemon: arrivals become jobs, jobs go through the pipeline, outcomes go into the journal.

Two threads: one finds files, the calling one restores them. Between them stands a bounded queue (promise P10).
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..engine.batch import is_done
from ..engine.commit import sweep
from ..engine.engine import Engine
from ..engine.errors import ChangedError, DefocusError, InputError, OutputError
from ..engine.jobs import Job, Outcome
from ..engine.pipeline import Stat, pipeline
from ..engine.report import summary
from .arrivals import Arrival, Pace, arrivals
from .journal import Entry, Journal, State
from .versions import digest

QUEUE = 256  # files found and not yet taken
OUTPUT_PAUSE = 5.0  # s after an output could not be written


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
    """

    acquisition: Path
    out: Path
    pace: Pace = field(default_factory=Pace)
    retries: int = 3
    once: bool = False
    only_defocused: bool = False


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
    """

    kind: str
    relative: str = ""
    text: str = ""
    latency: float = 0.0
    queued: int = 0
    outcome: Outcome | None = None


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
    settings: WatchSettings,
    engine: Engine,
    stop: threading.Event,
    report: Callable[[Event], None] = lambda event: None,
) -> list[Entry]:
    """Correct every file that arrives until `stop` is set (or, with `once`, until nothing is left; it is set then).

    The file in hand is finished when `stop` is set (promise P12). Returns the files that are set aside, with reasons.

    Raises
    ------
    InputError, OutputError
        Folders that cannot work; a journal that cannot be written.
    DefocusError
        The thread that finds files died: the process must end, never watch in silence (promise P8).
    """
    check_folders(settings.acquisition, settings.out)
    with Journal(settings.out) as journal:
        if journal.warning:
            report(Event("warning", text=journal.warning))
        sweep(settings.out)  # what a killed process left half-written
        desk = _Desk(settings, engine, journal, report)
        finder = _Finder(settings, desk, stop, report)
        finder.start()
        try:
            for outcome in pipeline(desk.jobs(finder), engine, settings.only_defocused):
                desk.settle(outcome, stop)
        finally:
            finder.end()
        return journal.quarantined()


class _Finder(threading.Thread):
    """Runs `arrivals` and queues what it yields."""

    def __init__(
        self, settings: WatchSettings, desk: _Desk, stop: threading.Event, report: Callable[[Event], None]
    ) -> None:
        super().__init__(name="defocus-finder", daemon=True)
        self._settings, self._desk, self._report = settings, desk, report
        self._asked = stop
        self._ended = threading.Event()
        self._queue: queue.Queue[Arrival] = queue.Queue(QUEUE)
        self._error: BaseException | None = None

    def run(self) -> None:
        settings = self._settings
        pace = settings.pace
        if settings.once:  # what is there is finished or broken; nobody waits for a writer
            pace = replace(pace, patience=min(pace.patience, pace.settle), rescan=min(pace.rescan, 0.5))
        try:
            found = arrivals(
                settings.acquisition,
                self._asked,
                self._desk.known,
                pace,
                until=self._desk.idle if settings.once else None,
                warn=lambda text: self._report(Event("warning", text=text)),
            )
            for arrival in found:
                self._desk.offer(arrival)
                while not self._asked.is_set():
                    try:
                        self._queue.put(arrival, timeout=0.5)
                        break
                    except queue.Full:
                        continue
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()

    def __iter__(self) -> Iterator[tuple[Arrival, int]]:
        """Arrivals and how many are queued behind each, until the stop; raises what ended the thread."""
        while not self._asked.is_set():
            try:
                arrival = self._queue.get(timeout=0.1)
            except queue.Empty:
                if self._ended.is_set() and self._queue.empty():
                    break
                continue
            yield arrival, self._queue.qsize()
        if self._error is not None:
            cause = f"looking for files failed ({type(self._error).__name__}: {self._error})"
            raise DefocusError(self._settings.acquisition, cause, "start defocus-watch again") from self._error

    def end(self) -> None:
        self._asked.set()
        self.join(10)


class _Desk:
    """Decides what becomes of arrivals and outcomes, and keeps the journal."""

    def __init__(
        self, settings: WatchSettings, engine: Engine, journal: Journal, report: Callable[[Event], None]
    ) -> None:
        self._settings, self._card, self._journal, self._report = settings, engine.card, journal, report
        self._offered: dict[Path, Stat] = {}  # yielded by the finder, not yet settled
        self._in_hand: dict[Path, tuple[Arrival, str, int]] = {}

    def known(self, relative: Path, stat: Stat, hinted: bool) -> bool:
        """Whether a version needs nothing more; called from the finder's thread."""
        if self._offered.get(relative) == stat:
            return True
        entry = self._journal.find(relative)
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

    def jobs(self, finder: _Finder) -> Iterator[Job]:
        """The jobs that arrivals give; bad files and files already done give none."""
        for arrival, queued in finder:
            if arrival.problem is not None:
                self._quarantine(arrival, _digest(arrival.path), str(arrival.problem), queued)
                continue
            found = _digest(arrival.path)
            job = Job(arrival.path, self._settings.out / arrival.relative, arrival.stat)
            try:
                done = self._done_before(job, arrival)
            except OutputError as error:  # somebody else's file is in its place
                self._quarantine(arrival, found, str(error), queued)
                continue
            if done:
                self._record(arrival, found, State.DONE)
                self._report(Event("skipped", arrival.relative.as_posix(), queued=queued))
                continue
            self._in_hand[job.source] = (arrival, found, queued)
            yield job

    def settle(self, outcome: Outcome, stop: threading.Event) -> None:
        """Write down what became of a job."""
        arrival, found, queued = self._in_hand.pop(outcome.job.source)
        name, error = arrival.relative.as_posix(), outcome.error
        if error is None:
            latency = time.monotonic() - arrival.seen
            self._record(arrival, found, State.DONE, report=json.dumps(summary(outcome.reports)))
            self._report(Event("done", name, latency=latency, queued=queued, outcome=outcome))
        elif isinstance(error, ChangedError):
            # Not complete after all: it is found again as another version.
            self._offered.pop(arrival.relative, None)
        elif isinstance(error, OutputError):
            # Not the file's fault: nothing is written down, the next rescan finds it again.
            self._report(Event("paused", name, str(error), queued=queued))
            if self._settings.once:
                raise error
            stop.wait(OUTPUT_PAUSE)
            self._offered.pop(arrival.relative, None)
        else:
            self._retry(arrival, found, str(error), queued)

    def _retry(self, arrival: Arrival, found: str, reason: str, queued: int) -> None:
        entry = self._journal.find(arrival.relative)
        attempts = 1
        if entry is not None and (entry.stat, entry.state) == (arrival.stat, State.FAILED):
            attempts += entry.attempts
        if attempts >= self._settings.retries:
            self._quarantine(arrival, found, reason, queued, attempts)
            return
        self._record(arrival, found, State.FAILED, attempts, reason)
        self._report(Event("retry", arrival.relative.as_posix(), reason, queued=queued))

    def _quarantine(self, arrival: Arrival, found: str, reason: str, queued: int, attempts: int = 1) -> None:
        self._record(arrival, found, State.QUARANTINED, attempts, reason)
        self._report(Event("quarantined", arrival.relative.as_posix(), reason, queued=queued))

    def _record(
        self, arrival: Arrival, found: str, state: State, attempts: int = 1, reason: str = "", report: str = ""
    ) -> None:
        relative = arrival.relative.as_posix()
        try:
            self._journal.record(
                Entry(relative, arrival.stat, found, self._card.sha256, state, attempts, reason, report)
            )
        except OutputError as error:  # a full disk: the next rescan finds the file again, and its output done
            if self._settings.once:  # nobody would come to make room
                raise
            self._report(Event("warning", relative, str(error)))
        self._offered.pop(arrival.relative, None)

    def _done_before(self, job: Job, arrival: Arrival) -> bool:
        """Whether the output is there already: committed by a process that was killed before it wrote that down."""
        entry = self._journal.find(arrival.relative)
        if entry is not None and entry.stat == arrival.stat and entry.model == self._card.sha256:
            return False  # the journal knows this version: its content changed, or it failed before
        return is_done(job, self._card)


def _digest(path: Path) -> str:
    try:
        return digest(path)
    except OSError:
        return ""
