"""The daemon: arrivals become jobs, jobs go through the pipeline, outcomes go into the journal.

A thread for each folder finds files, the calling one restores them. Between them stands the line (promise P10).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ..engine.commit import sweep
from ..engine.engine import Engine
from ..engine.errors import DefocusError
from ..engine.jobs import Job
from ..engine.pipeline import pipeline
from .arrivals import Arrival, arrivals
from .desk import Desk
from .health import Health
from .journal import Entry, Journal
from .line import Line
from .owner import Ownership
from .settings import Event, WatchSettings, check_folders


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
        line: Line[tuple[Desk, Arrival]] = Line(watched[0].order, drop=lambda item: item[0].forget(item[1]))
        finders = []
        for one in watched:
            stack.enter_context(Ownership(one.out))
            journal = stack.enter_context(Journal(one.out))
            if journal.warning:
                report(Event("warning", text=journal.warning, folder=one.acquisition))
            if one.keep_days:
                journal.prune(one.acquisition, one.keep_days)
            sweep(one.out)  # what a killed process left half-written
            desk = Desk(one, engine, journal, report, health)
            finders.append(_Finder(one, desk, line, stop, report, health))
        for finder in finders:
            finder.start()
        desks: dict[Path, Desk] = {}
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
    line: Line[tuple[Desk, Arrival]],
    finders: Sequence[_Finder],
    desks: dict[Path, Desk],
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
            health.working(arrival.name)
            yield job
    for finder in finders:
        finder.check()


class _Finder(threading.Thread):
    """Runs `arrivals` of one folder and puts what it yields into the line."""

    def __init__(
        self,
        settings: WatchSettings,
        desk: Desk,
        line: Line[tuple[Desk, Arrival]],
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
