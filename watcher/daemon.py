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
from .folder import FolderProcessor
from .health import Health
from .journal import Entry, Journal
from .output.lock import FolderLock
from .queue import LENGTH, ArrivalQueue
from .settings import Event, WatchSettings, check_folders

AHEAD = 1  # files read before their turn: more would keep the newest file waiting


def watch(
    settings: WatchSettings | Sequence[WatchSettings],
    engine: Engine,
    stop: threading.Event,
    report: Callable[[Event], None] = lambda event: None,
    health: Health | None = None,
    begun: Callable[[], None] = lambda: None,
) -> list[Entry]:
    """Correct every file that arrives until `stop` is set (or, with `once`, until nothing is left; it is set then).

    One engine serves all folders. When `stop` is set, what is being restored is finished and written, unless it is so
    large that it lies on disk meanwhile: then it is left (promise P12). `begun` is called once the outputs are ours and
    the watching starts. Returns the files that are set aside and still there, with reasons.

    Raises
    ------
    InputError, OutputError
        Folders that cannot work, or that another daemon writes to (P13); a journal that cannot be written.
    DefocusError
        The thread that finds files died: the process must end, never watch in silence (promise P8).
    """
    watched = [settings] if isinstance(settings, WatchSettings) else list(settings)
    health, report = health or Health(), _one_at_a_time(report)
    check_folders(watched)
    for one in watched:
        if one.channels is not None:
            one.channels.check(engine.card)
    with ExitStack() as stack:
        line: ArrivalQueue[tuple[FolderProcessor, Arrival]] = ArrivalQueue(
            watched[0].order, drop=lambda item: item[0].forget(item[1])
        )
        finders = []
        for one in watched:
            stack.enter_context(FolderLock(one.out))
            journal = stack.enter_context(Journal(one.out))
            if journal.warning:
                report(Event("warning", text=journal.warning, folder=one.acquisition))
            sweep(one.out)  # what a killed process left half-written
            desk = FolderProcessor(one, engine, journal, report, health)
            finders.append(_Finder(one, desk, line, stop, report, health))
        begun()
        for finder in finders:
            finder.start()
        desks: dict[Path, FolderProcessor] = {}

        def stopped() -> bool:
            health.goes_on()
            return stop.is_set()

        jobs, first = _jobs(line, finders, desks, stop, health), watched[0]
        outcomes = pipeline(jobs, engine, first.keep_sharp, AHEAD, first.memory, stopped)
        try:
            for outcome in outcomes:
                desks[outcome.job.source].settle(outcome)
                health.ends(outcome.job.name)
                for one in outcome.job.each():
                    del desks[one.source]
        finally:
            health.ended("engine")
            for finder in finders:
                finder.end()  # it sets `stop`, without which the pipeline's reader would wait for the next file
            outcomes.close()
        return [entry for finder in finders for entry in finder.desk.set_aside()]


def _jobs(
    line: ArrivalQueue[tuple[FolderProcessor, Arrival]],
    finders: Sequence[_Finder],
    desks: dict[Path, FolderProcessor],
    stop: threading.Event,
    health: Health,
) -> Iterator[Job]:
    """The jobs of all folders until the stop; raises what ended a thread that finds files.

    `desks` holds who waits for the outcome of which source. A source is in hand once at a time: of two versions at
    once, the older might be written last. Files whose output cannot be written to just now are put by, and the other
    folders go on.
    """
    put_by: dict[FolderProcessor, list[Arrival]] = {}
    while not stop.is_set():
        health.beat("engine")
        for desk in [desk for desk in put_by if not desk.paused()]:
            for arrival in put_by.pop(desk):
                line.back((desk, arrival), arrival.stat[1] / 1e9)
        # Asked in this order: what is put before the end is seen after it.
        over = all(finder.ended for finder in finders)
        item = line.get(timeout=0.0 if over else 0.1)
        if item is None:
            if over or any(finder.error for finder in finders):
                break
            continue
        desk, arrival = item
        while any(one.path in desks for one in arrival.each()) and not stop.wait(0.01):
            pass
        if stop.is_set():
            break
        queued = len(line) + sum(map(len, put_by.values()))
        if not desk.has_disk_space(queued + 1):
            waiting = put_by.setdefault(desk, [])
            if len(waiting) < LENGTH:
                waiting.append(arrival)
            else:
                desk.forget(arrival)
            continue
        job = desk.job(arrival, queued)
        if job is not None:
            desks |= {one.source: desk for one in job.each()}
            health.begins(job.name)
            yield job
    for finder in finders:
        finder.check()


def _one_at_a_time(report: Callable[[Event], None]) -> Callable[[Event], None]:
    """Events come from several threads; whoever listens hears one after the other."""
    lock = threading.Lock()

    def tell(event: Event) -> None:
        with lock:
            report(event)

    return tell


class _Finder(threading.Thread):
    """Runs `arrivals` of one folder and puts what it yields into the line."""

    def __init__(
        self,
        settings: WatchSettings,
        desk: FolderProcessor,
        line: ArrivalQueue[tuple[FolderProcessor, Arrival]],
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
        self._room = ChannelAssembler(settings, desk.card.channels, desk.recall)
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
                self.desk.known,
                pace,
                until=(lambda: self.desk.idle() and not self._room.waiting) if settings.once else None,
                warn=lambda text: self._report(Event("warning", text=text, folder=settings.acquisition)),
                beat=self._beat,
            )
            for arrival in found:
                self.desk.offer(arrival)
                self._put(self._room.take(arrival))
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

    def _put(self, found: list[Arrival]) -> None:
        waits = partial(self._health.beat, self._loop)
        for arrival in found:
            self._line.put((self.desk, arrival), arrival.stat[1] / 1e9, self._asked, waits)
        waiting = self._room.waiting
        if waiting != self._told:
            self._told = waiting
            self._report(Event("waiting", queued=len(self._line), waiting=waiting, folder=self._settings.acquisition))

    def _beat(self, reachable: bool) -> None:
        self.desk.paused()  # whether there is room again does not wait for the next file
        if reachable:
            self._put(self._room.overdue())
            self.desk.tidy()
        self._health.beat(self._loop)
        folder = self._settings.acquisition
        self._health.trouble(str(folder), None if reachable else f"{folder}: cannot be reached")
