"""`defocus-run`: restore files, folders and globs into an output folder."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from itertools import chain
from json import dumps
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..quality.report import Doubtful
from . import _app, options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..pipeline.batch import Result
    from ..pipeline.report import Report

_TELL_S = 1.0  # s between two lines of progress at least

app = _app.new_app()


@app.command()
def run(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Files (TIFF; others with [formats]), folders with subfolders, or globs."),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for the results; subfolders are mirrored. Not inside an input."),
    ],
    model: Annotated[str, options.MODEL.typer()] = "default",
    backend: Annotated[str, options.BACKEND.typer()] = "auto",
    tile: Annotated[int | None, options.TILE.typer()] = None,
    halo: Annotated[int | None, options.HALO.typer()] = None,
    per_stack: Annotated[
        bool, typer.Option("--per-stack", help="One intensity scale for each channel of a stack, not for each plane.")
    ] = False,
    channels: Annotated[str | None, options.CHANNELS.typer()] = None,
    memory_gb: Annotated[float, options.MEMORY.typer("--memory")] = 2.0,
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS|local:N|slurm", help="Distribute the files over the workers of dask.distributed."
        ),
    ] = None,
    threads: Annotated[int | None, options.THREADS.typer()] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Correct everything again, and replace files that defocus did not make.")
    ] = False,
    all_planes: Annotated[bool, options.ALL_PLANES.typer()] = False,
    only_defocused: Annotated[bool, options.ONLY_DEFOCUSED.typer()] = False,
    keep_doubtful: Annotated[Doubtful, options.KEEP_DOUBTFUL.typer()] = Doubtful.CORRECTED,
    include: Annotated[list[str] | None, options.INCLUDE.typer()] = None,
    exclude: Annotated[list[str] | None, options.EXCLUDE.typer()] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write report.html, sorted by doubt, and report.csv, a row per plane, into this folder.",
        ),
    ] = None,
    companions: Annotated[list[str] | None, options.COMPANIONS.typer()] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per file.")] = False,
    json_progress: Annotated[
        bool,
        typer.Option(
            "--progress", help='With --json: progress of stacks and large planes, as lines {"progress": ...}.'
        ),
    ] = False,
    version: _app.Version = False,
) -> int:
    """Restore TIFF files that a microscope wrote out of focus.

    Inputs are only read. Results keep shape, axes, type, units and metadata. What is done already (same file, same
    model) is skipped. A file that fails is reported, and the others are corrected; the exit code is then 1.
    """
    from ..files.atomic import output_error
    from ..files.companions import COMPANIONS, copy_companions
    from ..files.folders import make_folders
    from ..model.card import model_path, read_card
    from ..pipeline.batch import Result, Status, find, restore

    card = read_card(model_path(model))
    jobs, refused = find(inputs, output, include or (), exclude or ()), []
    jobs = [replace(job, keep_doubtful=keep_doubtful is Doubtful.ORIGINAL) for job in jobs]
    total = len(jobs)
    if channels is not None:
        from ..pipeline.channel_pattern import Pattern, gather

        pattern = Pattern.parse(channels)
        pattern.check(card)
        jobs, refused = gather(jobs, pattern, card.channels)
    try:
        make_folders(output, jobs[0].source.parent if jobs else output)
    except OSError as error:
        raise output_error(output, error) from error

    memory = round(memory_gb * 1e9)

    per = "stack" if per_stack else "plane"
    asked: dict[str, tuple[str, Any]] = {
        "--per-stack": ("settings.per", per),
        "--all-planes": ("only_defocused", not all_planes),
        "--keep-doubtful": ("keep_doubtful", keep_doubtful.value),
    }
    # As the engine rounds them.
    if tile is not None:
        asked["--tile"] = "settings.tile", tile // card.multiple * card.multiple
    if halo is not None:
        asked["--halo"] = "settings.halo", -(-halo // card.multiple) * card.multiple
    shown = _Shown(total, json, json and json_progress, asked)

    def load():
        from ..inference.engine import Engine

        engine = Engine.load(model, backend=backend, tile=tile, halo=halo, per=per, threads=threads, memory=memory)
        engine.progress = shown.within
        return engine

    if dask is not None:
        from ..pipeline.on_dask import Task, restore_on

        path = str(model_path(model).resolve())
        task = Task(path, card.sha256, backend, tile, halo, per, threads, not all_planes, memory)
        results = restore_on(dask, jobs, card, task, overwrite, lambda line: _app.say(line, err=True))
    else:
        results = restore(jobs, card, load, overwrite, not all_planes, memory)
    results = chain((Result(job, Status.FAILED, None, error) for job, error in refused), results)
    if report is None:
        counts = shown.all(results)
    else:
        from ..pipeline.report import Report

        new_report = Report(report, output)
        counts = shown.all(_noted(results, new_report))
        for path in new_report.write():
            _app.say(f"{_app.program()}: {path}", err=True)
    pairs = [(member.source, member.target) for job in jobs for member in job.each()]
    for line in copy_companions(pairs, output, companions or COMPANIONS):
        _app.say(line, err=True)
    return _app.FAILED if counts["failed"] else 0


def _noted(results: Iterable[Result], report: Report) -> Iterable[Result]:
    """The same results, each taken into the report as well."""
    for result in results:
        report.add(result)
        yield result


def _made_otherwise(target: Path, asked: Mapping[str, tuple[str, Any]]) -> list[str]:
    """The options of `asked` (to the provenance's key and the value asked for) with which an output was not made.

    A key "settings.tile" lies in the provenance's table "settings". What an output does not say counts as the same.
    """
    from ..errors import DefocusError
    from ..formats.dispatch import read_provenance

    try:
        account = read_provenance(target) or {}
    except (DefocusError, OSError):
        return []
    different = []
    for option, (key, wanted) in asked.items():
        *table, name = key.split(".")
        values = account.get(table[0]) if table else account
        if isinstance(values, dict) and name in values and values[name] != wanted:
            different.append(option)
    return different


class _Shown:
    """What is printed: results as they come, on a terminal a live line. JSON on stdout, all else on stderr."""

    def __init__(self, total: int, json: bool, progress: bool, asked: Mapping[str, tuple[str, Any]]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._json, self._json_progress, self._lock = json, progress, threading.Lock()
        self._console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        terminal = self._console.is_terminal
        self._progress = Progress(*columns, console=self._console, transient=True, disable=not terminal)
        self._task = self._progress.add_task("restoring", total=total)
        self._done, self._shares, self._last_progress = 0, dict[str, float](), 0.0
        self._asked, self._otherwise, self._different = asked, 0, dict[str, None]()
        self._planes = self._doubtful = 0

    def within(self, name: object, share: float) -> None:
        """How much of a file is done; called from any thread."""
        from ..errors import one_line

        with self._lock:
            self._shares[str(name)] = share
            done = self._done + sum(self._shares.values())
            label = f"{one_line(Path(str(name)).name)[-34:]} {share:4.0%}"
            self._progress.update(self._task, completed=done, description=label)
            if self._json_progress and perf_counter() - self._last_progress >= _TELL_S:
                self._last_progress = perf_counter()
                print(dumps({"progress": {"source": str(name), "share": round(share, 4)}}), flush=True)

    def all(self, results: Iterable[Result]) -> Counter[str]:
        """Print them; return how many there are of each status."""
        counts: Counter[str] = Counter()
        start = perf_counter()
        with self._progress:
            for result in results:
                counts[result.status.value] += 1
                self._one(result)
        summary = ", ".join(f"{counts[status]} {status}" for status in ("done", "skipped", "failed"))
        doubtful = f"; {self._doubtful} of {self._planes} planes doubtful" if self._doubtful else ""
        self._console.print(f"{_app.program()}: {summary} in {perf_counter() - start:.1f} s{doubtful}")
        if self._otherwise:
            options = ", ".join(self._different)
            files = f"{self._otherwise} of the skipped files {'was' if self._otherwise == 1 else 'were'}"
            self._console.print(
                f"{_app.program()}: {files} made with another {options}; --overwrite corrects everything again"
            )
        return counts

    def _one(self, result: Result) -> None:
        from ..errors import one_line
        from ..pipeline.batch import Status

        if result.status is Status.SKIPPED and (different := _made_otherwise(result.job.target, self._asked)):
            self._otherwise += 1
            self._different |= dict.fromkeys(different)
        with self._lock:
            self._done += 1
            self._shares.pop(str(result.job.name), None)
            if self._json:
                print(result.to_json(), flush=True)
            if result.error:
                self._console.print(str(result.error))
            elif result.outcome:
                self._planes += result.outcome.overview.planes
                self._doubtful += result.outcome.overview.doubtful
                for note in result.outcome.notes:
                    self._console.print(one_line(f"{result.job.source}: {note}"))
            done = self._done + sum(self._shares.values())
            self._progress.update(self._task, completed=done, description=one_line(result.job.source.name)[-40:])


def main() -> None:
    """The entry point."""
    _app.run(app, blas_threads=False)


if __name__ == "__main__":
    main()
