"""The daemon: arrivals become jobs, jobs go through the pipeline, outcomes go into the journal.

A thread for each folder finds files, the pipeline's threads read, restore and write them, the calling one settles what
came of each. Between finders and pipeline stands the line (promise P10).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..engine.errors import DefocusError
from ..engine.files.atomic import sweep
from ..engine.inference.engine import Engine
from ..engine.pipeline.jobs import Job
from ..engine.pipeline.steps import pipeline
from .discovery.channel_assembler import ChannelAssembler
from .discovery.scanner import Arrival, arrivals
from .events import WatchEvent
from .folder import FolderProcessor
from .health import Health
from .journal import Journal, JournalEntry
from .output.lock import FolderLock
from .queue import LENGTH, ArrivalQueue
from .settings import FolderSettings, check_folders

AHEAD = 1  # files read before their turn: more would keep the newest file waiting


def watch(
    settings: FolderSettings | Sequence[FolderSettings],
    engine: Engine,
    stop: threading.Event,
    report: Callable[[WatchEvent], None] = lambda event: None,
    health: Health | None = None,
    begun: Callable[[], None] = lambda: None,
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
    watched = [settings] if isinstance(settings, FolderSettings) else list(settings)
    health, report = health or Health(), _one_at_a_time(report)
    check_folders(watched)
    for one in watched:
        if one.channels is not None:
            one.channels.check(engine.card)
    with ExitStack() as stack:
        queue: ArrivalQueue[tuple[FolderProcessor, Arrival]] = ArrivalQueue(
            watched[0].order, drop=lambda item: item[0].drop_pending(item[1])
        )
        finders = []
        for one in watched:
            stack.enter_context(FolderLock(one.out))
            journal = stack.enter_context(Journal(one.out))
            if journal.warning:
                report(WatchEvent("warning", text=journal.warning, folder=one.acquisition))
            sweep(one.out)  # what a killed process left half-written
            processor = FolderProcessor(one, engine, journal, report, health)
            finders.append(_Finder(one, processor, queue, stop, report, health))
        begun()
        for finder in finders:
            finder.start()
        processors: dict[Path, FolderProcessor] = {}

        def stopped() -> bool:
            health.file_progress()
            return stop.is_set()

        jobs, first = _jobs(queue, finders, processors, stop, health), watched[0]
        outcomes = pipeline(jobs, engine, first.keep_sharp, AHEAD, first.memory, stopped)
        try:
            for outcome in outcomes:
                processors[outcome.job.source].record_outcome(outcome)
                health.file_finished(outcome.job.name)
                for one in outcome.job.each():
                    del processors[one.source]
        finally:
            health.loop_finished("engine")
            for finder in finders:
                finder.end()  # it sets `stop`, without which the pipeline's reader would wait for the next file
            outcomes.close()
        return [entry for finder in finders for entry in finder.processor.quarantined()]


def _jobs(
    queue: ArrivalQueue[tuple[FolderProcessor, Arrival]],
    finders: Sequence[_Finder],
    processors: dict[Path, FolderProcessor],
    stop: threading.Event,
    health: Health,
) -> Iterator[Job]:
    """The jobs of all folders until the stop; raises what ended a thread that finds files.

    `processors` holds who waits for the outcome of which source. A source is in progress once at a time: of two
    versions at once, the older might be written last. Files whose output cannot be written to just now are postponed,
    and the other folders go on.
    """
    postponed: dict[FolderProcessor, list[Arrival]] = {}
    while not stop.is_set():
        health.heartbeat("engine")
        for processor in [processor for processor in postponed if not processor.output_unavailable()]:
            for arrival in postponed.pop(processor):
                queue.back((processor, arrival), arrival.stat[1] / 1e9)
        # Asked in this order: what is put before the end is seen after it.
        over = all(finder.ended for finder in finders)
        item = queue.get(timeout=0.0 if over else 0.1)
        if item is None:
            if over or any(finder.error for finder in finders):
                break
            continue
        processor, arrival = item
        while any(one.path in processors for one in arrival.each()) and not stop.wait(0.01):
            pass
        if stop.is_set():
            break
        queued = len(queue) + sum(map(len, postponed.values()))
        if not processor.has_disk_space(queued + 1):
            waiting = postponed.setdefault(processor, [])
            if len(waiting) < LENGTH:
                waiting.append(arrival)
            else:
                processor.drop_pending(arrival)
            continue
        job = processor.job(arrival, queued)
        if job is not None:
            processors |= {one.source: processor for one in job.each()}
            health.file_started(job.name)
            yield job
    for finder in finders:
        finder.check()


def _one_at_a_time(report: Callable[[WatchEvent], None]) -> Callable[[WatchEvent], None]:
    """Events come from several threads; whoever listens hears one after the other."""
    lock = threading.Lock()

    def tell(event: WatchEvent) -> None:
        with lock:
            report(event)

    return tell


class _Finder(threading.Thread):
    """Runs `arrivals` of one folder and puts what it yields into the queue."""

    def __init__(
        self,
        settings: FolderSettings,
        processor: FolderProcessor,
        queue: ArrivalQueue[tuple[FolderProcessor, Arrival]],
        stop: threading.Event,
        report: Callable[[WatchEvent], None],
        health: Health,
    ) -> None:
        super().__init__(name="defocus-finder", daemon=True)
        self.processor = processor
        self.error: BaseException | None = None
        self._settings, self._queue, self._asked, self._report = settings, queue, stop, report
        self._health, self._loop = health, f"looking for files in {settings.acquisition}"
        self._over = threading.Event()
        self._assembler = ChannelAssembler(settings, processor.card.channels, processor.find_known)
        self._told = 0  # how many wait for a partner, as was last reported

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
                self.processor.needs_nothing,
                pace,
                until=(lambda: self.processor.idle() and not self._assembler.waiting) if settings.once else None,
                warn=lambda text: self._report(WatchEvent("warning", text=text, folder=settings.acquisition)),
                beat=self._beat,
            )
            for arrival in found:
                self.processor.mark_pending(arrival)
                self._put(self._assembler.take(arrival))
        except BaseException as error:
            self.error = error
        finally:
            self._health.loop_finished(self._loop)
            self._over.set()

    def check(self) -> None:
        """Raise what ended the thread."""
        if self.error is not None:
            cause = f"looking for files failed ({type(self.error).__name__}: {self.error})"
            raise DefocusError(self._settings.acquisition, cause, "start defocus-watch again") from self.error

    def end(self) -> None:
        self._asked.set()
        self.join(10)

    def _put(self, found: list[Arrival]) -> None:
        waits = partial(self._health.heartbeat, self._loop)
        for arrival in found:
            self._queue.put((self.processor, arrival), arrival.stat[1] / 1e9, self._asked, waits)
        waiting = self._assembler.waiting
        if waiting != self._told:
            self._told = waiting
            self._report(
                WatchEvent("waiting", queued=len(self._queue), waiting=waiting, folder=self._settings.acquisition)
            )

    def _beat(self, reachable: bool) -> None:
        self.processor.output_unavailable()  # whether there is room again does not wait for the next file
        if reachable:
            self._put(self._assembler.overdue())
            self.processor.prune_journal()
        self._health.heartbeat(self._loop)
        folder = self._settings.acquisition
        self._health.set_problem(str(folder), None if reachable else f"{folder}: cannot be reached")
