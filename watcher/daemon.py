"""The daemon: arrivals become jobs, jobs go through the pipeline, outcomes go into the journal.

A thread for each folder finds files, the pipeline's threads read, restore and write them, the calling one records what
came of each. Between these threads and the pipeline stand the queues of the folders, which take turns (promise P10).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ..engine.errors import DefocusError, OutputError, shortage_error
from ..engine.files.atomic import sweep
from ..engine.inference.engine import Engine
from ..engine.pipeline.forecast import Forecast
from ..engine.pipeline.jobs import Job
from ..engine.pipeline.run import pipeline
from .alerts.health import Health
from .clock import SYSTEM_CLOCK, Clock
from .configuration.settings import DaemonSettings, check_folders
from .discovery.arrival import Arrival
from .discovery.channel_assembler import ChannelAssembler
from .discovery.scanner import arrivals
from .events import WatchEvent
from .folder import FolderProcessor
from .journal import Journal
from .journal_entry import JournalEntry
from .output.disk_space import OutputGuard
from .output.lock import FolderLock
from .queue import ArrivalQueue
from .tracker import Stage

LEAST_BACKLOG = 10  # files that are there at the start; fewer are done before anybody has read of them
AHEAD = 1  # files read before their turn: more would keep the newest file waiting
Report = Callable[[WatchEvent], None]


def watch(
    settings: DaemonSettings,
    engine: Engine,
    stop: threading.Event,
    report: Report = lambda event: None,
    health: Health | None = None,
    begun: Callable[[], None] = lambda: None,
    clock: Clock = SYSTEM_CLOCK,
) -> list[JournalEntry]:
    """Correct every file that arrives until `stop` is set (or, with `once`, until nothing is left; it is set then).

    One engine serves all folders. When `stop` is set, what is being restored is finished and written, unless it is so
    large that it lies on disk meanwhile: then it is left (promise P12). `begun` is called once the outputs are ours and
    the watching starts. Returns the files that are quarantined and still there, with reasons.

    Raises
    ------
    InputError, OutputError
        Folders that cannot work, or that another daemon writes to (P13); a journal that cannot be written.
    DefocusError
        The thread that finds files died: the process must end, never watch in silence (promise P8).
    """
    health, lock = health or Health(), threading.Lock()
    check_folders(settings.folders, engine.card)
    with ExitStack() as stack:
        changed, scans, forecast = threading.Condition(), list[_ScanThread](), Forecast(engine)
        for folder in settings.folders:
            tell = _folder_report(report, folder.acquisition, lock)
            owner = stack.enter_context(FolderLock(folder.out, folder.acquisition))
            trouble = _JournalTrouble(folder.out, settings.once, tell, health)
            journal = stack.enter_context(Journal(folder.out, trouble))
            if journal.warning:
                tell(WatchEvent("warning", text=journal.warning))
            sweep(folder.out)  # what a killed process left half-written
            guard = OutputGuard(folder.out, folder.min_free_mb, tell, health, settings.once, owner, clock)
            processor = FolderProcessor(folder, engine, journal, guard, tell, clock)
            scans.append(_ScanThread(processor, settings.once, changed, stop, tell, health, clock, forecast))
        begun()
        for scan in scans:
            scan.start()

        def stopped() -> bool:
            health.file_progress()
            return stop.is_set()

        jobs = _jobs(scans, changed, stop, health)
        outcomes = pipeline(jobs, engine, ahead=AHEAD, memory=settings.memory, stop=stopped)
        try:
            for outcome in outcomes:
                for scan in scans:
                    if (arrivals := scan.processor.tracker.finish(outcome.job)) is not None:
                        scan.processor.record_outcome(outcome, arrivals, _queued(scans))
                health.file_finished(outcome.job.name)
        finally:
            health.loop_finished("engine")
            for scan in scans:
                scan.end()  # it sets `stop`, without which the pipeline's reader would wait for the next file
            outcomes.close()
            for scan in scans:
                scan.processor.leave_unfinished()
        for scan in scans:
            scan.processor.copy_companions(last=True)
        return [entry for scan in scans for entry in scan.processor.quarantined()]


def _jobs(
    scans: Sequence[_ScanThread], changed: threading.Condition, stop: threading.Event, health: Health
) -> Iterator[Job]:
    """The jobs of all folders in turn until the stop; raises what ended a thread that finds files.

    Files whose output cannot be written to just now are left to a rescan, and the other folders go on. Nothing runs
    beside a file over which a process died, so that it is known for certain which one ended it.
    """
    turns, alone = deque(scans), False
    while not stop.is_set():
        health.heartbeat("engine")
        # Asked in this order: what is put before the end is seen after it.
        over = all(scan.ended for scan in scans)
        item = _next(turns, changed, 0.0 if over else 0.1)
        if item is None:
            if over or any(scan.error for scan in scans):
                break
            continue
        processor, arrival = item[0].processor, item[1]
        if not processor.guard.available():
            processor.tracker.drop(arrival)
            continue
        suspect = processor.is_suspect(arrival)
        while (alone or suspect) and any(scan.processor.tracker.running for scan in scans):
            if stop.wait(0.01):
                break
        if stop.is_set():
            break
        job = processor.job(arrival, _queued(scans))
        if job is not None:
            alone = suspect
            health.file_started(job.name)
            yield job
    for scan in scans:
        scan.check()


def _queued(scans: Sequence[_ScanThread]) -> int:
    """How many files are found and not yet taken."""
    return sum(len(scan.queue) for scan in scans)


def _next(
    turns: deque[_ScanThread], changed: threading.Condition, timeout: float
) -> tuple[_ScanThread, Arrival] | None:
    """The next arrival of the folder whose turn it is; None if none came within `timeout` seconds."""
    with changed:
        for wait in (timeout, 0.0):
            for scan in list(turns):
                arrival = scan.queue.get(0)
                if arrival is not None:
                    turns.remove(scan)
                    turns.append(scan)
                    return scan, arrival
            if wait:
                changed.wait(wait)
    return None


def _folder_report(report: Report, folder: Path, lock: threading.Lock) -> Report:
    """Report events of a folder. They come from several threads; whoever listens hears one after the other."""

    def tell(event: WatchEvent) -> None:
        with lock:
            report(replace(event, folder=folder))

    return tell


class _JournalTrouble:
    """Reports once that a journal fails, until it works again. Raises with `once`: nobody would come to mend it."""

    def __init__(self, out: Path, once: bool, report: Report, health: Health) -> None:
        self._out, self._once, self._report, self._health = out, once, report, health
        self._problem = ""

    def __call__(self, error: OutputError | None) -> None:
        if error is not None and self._once:
            raise DefocusError(error.thing, error.cause, error.remedy, error.code)
        self._health.set_problem(f"{self._out} journal", str(error) if error else None)
        if error is not None and self._problem != str(error):
            self._report(WatchEvent("warning", text=str(error), code=error.code))
        self._problem = str(error) if error else ""


class _ScanThread(threading.Thread):
    """Runs `arrivals` of one folder and puts what it yields into the folder's queue."""

    def __init__(
        self,
        processor: FolderProcessor,
        once: bool,
        changed: threading.Condition,
        stop: threading.Event,
        report: Report,
        health: Health,
        clock: Clock,
        forecast: Forecast,
    ) -> None:
        super().__init__(name="defocus-scan", daemon=True)
        self.processor = processor
        self.queue: ArrivalQueue[Arrival] = ArrivalQueue(
            processor.settings.order, drop=processor.tracker.drop, changed=changed
        )
        self.error: BaseException | None = None
        self._once, self._stop_event, self._report, self._health, self._clock = once, stop, report, health, clock
        self._loop = f"looking for files in {processor.settings.acquisition}"
        self._over = threading.Event()
        self._assembler = ChannelAssembler(
            processor.settings, processor.card.channels, processor.find_known, once, processor.tracker, clock
        )
        self._waiting = 0  # how many wait for a partner, as was last reported
        self._forecast = forecast
        self._looked = False  # into the folder, whole, since it can be reached
        self._next_prune = 0.0

    @property
    def ended(self) -> bool:
        """Whether nothing comes any more."""
        return self._over.is_set()

    def run(self) -> None:
        """Find files until the end."""
        settings, tracker = self.processor.settings, self.processor.tracker
        timing = settings.timing
        if self._once:  # what is there is finished or broken; nobody waits for a writer
            timing = replace(timing, patience=min(timing.patience, timing.settle), rescan=min(timing.rescan, 0.5))
        try:
            for arrival in arrivals(
                settings.acquisition,
                self._stop_event,
                self.processor.needs_nothing,
                timing,
                until=(lambda: tracker.idle) if self._once else None,
                warn=lambda text: self._report(WatchEvent("warning", text=text)),
                on_pass=self._on_pass,
                tracker=tracker,
                clock=self._clock,
            ):
                tracker.move(arrival, Stage.WAITING)
                self._put(self._assembler.take(arrival))
        except BaseException as error:
            self.error = error
        finally:
            self._health.loop_finished(self._loop)
            self._over.set()

    def check(self) -> None:
        """Raise what ended the thread."""
        if self.error is not None:
            folder = self.processor.settings.acquisition
            if isinstance(self.error, DefocusError):
                raise self.error
            cause = f"looking for files failed ({type(self.error).__name__}: {self.error})"
            problem = shortage_error(folder, "for looking for files", self.error)
            raise problem or DefocusError(folder, cause, "start defocus-watch again") from self.error

    def end(self) -> None:
        """Ask it to end, and wait for that."""
        self._stop_event.set()
        self.join(10)

    def _put(self, ready: list[Arrival]) -> None:
        for arrival in ready:
            self.processor.tracker.move(arrival, Stage.QUEUED)
            self.queue.put(arrival, arrival.stat[1] / 1e9, self._stop_event, lambda: self._health.heartbeat(self._loop))
        waiting = self.processor.tracker.waiting
        if waiting != self._waiting:
            self._waiting = waiting
            self._report(WatchEvent("waiting", queued=len(self.queue), waiting=waiting))

    def _on_pass(self, reachable: bool) -> None:
        self.processor.guard.paused()  # whether there is room again does not wait for the next file
        if reachable:
            self._put(self._assembler.overdue())
            self.processor.prune_journal()
            self.processor.copy_companions()
        else:
            self.processor.reachability.lost()
        self._health.heartbeat(self._loop)
        folder = self.processor.settings.acquisition
        self._health.set_problem(str(folder), None if reachable else f"{folder}: cannot be reached")
        if reachable:
            self._check_backlog()
        else:
            self._looked = False

    def _check_backlog(self) -> None:
        """Tell what is there when the folder is looked at for the first time, or again after it was out of reach."""
        tracker, now = self.processor.tracker, self._clock.monotonic()
        if not self._looked:
            self._looked = True
            files = tracker.begin_backlog()
            if len(files) >= LEAST_BACKLOG:
                forecast = self._forecast.seconds(files, self._busy)
                self._report(WatchEvent("backlog", queued=len(self.queue), left=len(files), forecast=forecast))
        elif now >= self._next_prune and tracker.idle:
            self._next_prune = now + self.processor.settings.timing.rescan
            if (left := tracker.prune_backlog()) is not None:
                self._report(WatchEvent("waiting", queued=len(self.queue), waiting=self._waiting, left=left))

    def _busy(self) -> bool:
        """Show life while something else is waited for; whether to leave it."""
        self._health.heartbeat(self._loop)
        return self._stop_event.is_set()
