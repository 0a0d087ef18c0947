"""The pipeline: jobs go in, outcomes come out. The daemon and the batch command both drive it.

read -> (unchanged?) -> intensity, tiles, backend, tiles, intensity -> assess -> write -> commit
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ChangedError, DefocusError, ErrorCode, InputError
from ..files.atomic import commit, output_error
from ..image.bands import planes
from ..image.memmap import Allocator, DiskAllocator, drop_resident_pages, in_memory, is_disk_backed
from ..inference.memory import MEMORY
from ..inference.tasks import ImageRequest
from ..quality.assess import assess, keep_doubtful_planes, keep_sharp_planes
from ..quality.report import PlaneReport, summary
from ..tiff.read import TiffFile, TiffImage, read_tiff, write_tiff
from .channel_groups import joined, written
from .jobs import ImageShape, Job, Outcome, version_record

if TYPE_CHECKING:
    from ..inference.engine import Engine

Stat = tuple[int, int]
Stopped = Callable[[], bool]


_FILES = 3  # large files that may be in hand at once: read, restored and written


def pipeline(
    jobs: Iterable[Job],
    engine: Engine,
    keep_sharp: bool = True,
    ahead: int = 0,
    memory: int = MEMORY,
    stop: Stopped = lambda: False,
) -> Generator[Outcome, None, None]:
    """Restore each job's file with `engine`.

    A bad file never ends it: whatever goes wrong with a job is the `error` of its outcome, an `InputError` where the
    file is to blame, an `OutputError` where the target cannot be written, a `BackendError` where the runtime failed.
    Until the commit nothing is seen beside the target, and the source is only read. Planes that are sharp
    already are written as they came, unless `keep_sharp` is False.

    Parameters
    ----------
    ahead : int
        How many files are read before their turn, and how many may wait to be written, each in threads of their own
        while the engine works; `jobs` is then asked from such a thread. 0: nothing overlaps, a job is taken when its
        outcome is asked for.
    memory : int
        Bytes of pixels that may be in memory, inputs and outputs together. A file that is too large for its share
        lies on the output's disk meanwhile and goes through memory tile by tile. 0: not limited.
    stop : function () -> bool
        When it says yes, files that are not begun are left (and have no outcome), a large one is left between two
        tiles with a `StoppedError`, and what is restored is written.
    """
    if ahead:
        from .concurrent import overlapped

        yield from overlapped(jobs, engine, keep_sharp, ahead, memory, stop)
        return
    for job in jobs:
        yield process(job, engine, keep_sharp, memory, stop)


def process(
    job: Job, engine: Engine, keep_sharp: bool = True, memory: int = MEMORY, stop: Stopped = lambda: False
) -> Outcome:
    """Restore one file; never raises but for KeyboardInterrupt and the like."""
    (piece,) = infer_stage([read_stage(job, memory)], engine, stop)
    return write_stage(piece, engine, keep_sharp)


@dataclass(frozen=True)
class PipelineItem:
    """A file on its way: what is known of it, and its pixels as far as it has come. With an error it is carried on.

    Of files that belong together `parts` has each, and `images` their pixels along a new first axis C (see
    `channel_groups`). `notes` go into the provenance.

    Attributes
    ----------
    file : TiffFile or None
        The bytes of the file.
    images : tuple of TiffImage
        What of it is to be restored; empty after an error.
    restored : tuple of array
        One for each image.
    place : function (shape, dtype) -> array or None
        Where its pixels go: None for memory.
    nbytes : int
        Bytes of pixels that it has in memory, or will when it is restored.
    """

    outcome: Outcome
    version: Stat = (0, 0)
    file: TiffFile | None = None
    images: tuple[TiffImage, ...] = ()
    restored: tuple[np.ndarray, ...] = ()
    place: Allocator = in_memory
    nbytes: int = 0
    parts: tuple[PipelineItem, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)


def read_stage(job: Job, memory: int = 0) -> PipelineItem:
    """Read a job's file; whatever goes wrong is the outcome's error."""
    if job.others:
        parts = [read_stage(one, memory) for one in job.each()]
        try:
            with _naming(job.source, "reading"):
                return joined(job, parts)
        except DefocusError as error:
            return replace(parts[0], outcome=Outcome.of(job).failed(error), images=())
    outcome = Outcome(job)
    place = DiskAllocator(job.target.parent, max(1, memory // (2 * _FILES)) if memory else 0)
    try:
        with _naming(job.source, "reading"):
            if _same_file(job.source, job.target):
                raise InputError(job.source, "its output would replace it", "choose another output folder with -o")
            version = job.stat or stat_of(job.source)
            start = perf_counter()
            try:
                file = read_tiff(job.source, place, memory)
                drop_resident_pages(*(image.data for image in file.images))
            finally:
                check_unchanged(job.source, version)  # also if it could not be read: half a file is not a bad file
            outcome.seconds["read"] = perf_counter() - start
    except DefocusError as error:
        return PipelineItem(replace(outcome, error=error))
    shapes = tuple(ImageShape(image.data.shape, image.data.dtype.name, image.axes) for image in file.images)
    outcome = replace(outcome, images=shapes, notes=file.notes)
    held = 0 if any(is_disk_backed(image.data) for image in file.images) else file.nbytes
    return PipelineItem(outcome, version, file, file.images, place=place, nbytes=held)


def infer_stage(
    pieces: Sequence[PipelineItem],
    engine: Engine,
    stop: Stopped = lambda: False,
    shared: bool = False,
    over: Stopped = lambda: False,
) -> list[PipelineItem]:
    """Run the engine on what was read: several files at once, whose tiles may share batches.

    A file in memory is soon done and not left for `stop`; one that lies on disk comes here alone. Both are left once it
    is `over` and nobody waits for them. `shared`: see `Engine.restore_many`.
    """
    todo = [piece for piece in pieces if piece.images]
    if not todo:
        return list(pieces)
    start, done = perf_counter(), dict[int, PipelineItem]()
    try:
        with _naming(todo[0].outcome.job.source, "restoring"):
            images = [request for piece in todo for request in _requests(piece)]
            large = any(image.out is not None for image in images)
            results = engine.restore_many(images, lambda: over() or (large and stop()), shared)
    except DefocusError as error:
        results = [error for piece in todo for _ in piece.images]
    seconds, size = perf_counter() - start, sum(_pixels(piece) for piece in todo)
    remaining = iter(results)
    for piece in todo:
        found = [next(remaining) for _ in piece.images]
        error = next((one for one in found if isinstance(one, DefocusError)), None)
        if error is not None:  # it still weighs what it took
            done[id(piece)] = replace(piece, outcome=piece.outcome.failed(error), images=())
            continue
        piece.outcome.seconds["infer"] = seconds * _pixels(piece) / max(1, size)
        restored = tuple(one for one in found if not isinstance(one, DefocusError))
        for image, data in zip(piece.images, restored, strict=True):
            if image.limit is not None:
                for plane in planes(data.reshape(-1, *data.shape[-2:])):
                    np.minimum(plane, image.limit, out=plane)
        done[id(piece)] = replace(piece, restored=restored)
    return [done.get(id(piece), piece) for piece in pieces]


def _requests(piece: PipelineItem) -> Iterator[ImageRequest]:
    for image in piece.images:
        data = image.data
        yield ImageRequest(data, image.axes, piece.outcome.job.name, piece.place(data.shape, data.dtype))


def _pixels(piece: PipelineItem) -> int:
    return sum(image.data.size for image in piece.images)


def write_stage(piece: PipelineItem, engine: Engine, keep_sharp: bool) -> Outcome:
    """Assess what was restored, write and commit it."""
    outcome, job = piece.outcome, piece.outcome.job
    if piece.file is None or not piece.restored:
        return outcome
    if job.keep_sharp is not None:
        keep_sharp = job.keep_sharp
    if piece.parts:
        return written(piece, lambda part: write_stage(part, engine, keep_sharp))
    try:
        with _naming(job.source, "restoring"):
            start = perf_counter()
            reports: list[PlaneReport] = []
            for number, (image, data) in enumerate(zip(piece.images, piece.restored, strict=True), 1):
                found = assess(image.data, data, image.axes)
                if keep_sharp:
                    found = keep_sharp_planes(image.data, data, image.axes, found)
                if job.keep_doubtful:
                    found = keep_doubtful_planes(image.data, data, image.axes, found)
                drop_resident_pages(image.data, data)
                reports += [replace(one, image=number) for one in found] if len(piece.images) > 1 else found
            outcome = replace(outcome, reports=tuple(reports))
            outcome.seconds["assess"] = perf_counter() - start
        with _naming(job.target, "writing"):
            account = provenance(engine, job.source, piece.version)
            kept = {"only_defocused": keep_sharp, "keep_doubtful": "original" if job.keep_doubtful else "corrected"}
            account |= {**piece.notes, **kept, "planes": summary(outcome.reports)}
            start = perf_counter()
            with commit(job.target, job.run) as temporary:
                write_tiff(piece.file, piece.restored, temporary, account)
            outcome.seconds["write"] = perf_counter() - start
    except DefocusError as error:
        return replace(outcome, error=error)
    return outcome


def provenance(engine: Engine, source: Path, version: Stat) -> dict[str, Any]:
    """What an output says of its making: the engine's own account, and which version of which file it was made from."""
    return engine.provenance() | {"source": version_record(source, version)}


def stat_of(path: Path) -> Stat:
    """Size in bytes and modification time in ns: the version of a file."""
    stat = os.stat(path)
    # Times of nonsense, as broken shares give them, lie beyond what a database holds (after 2262).
    return stat.st_size, min(max(stat.st_mtime_ns, -(2**63)), 2**63 - 1)


def check_unchanged(path: Path, version: Stat) -> None:
    """Raise ChangedError unless the file still is that version (promise P5)."""
    try:
        now = stat_of(path)
    except FileNotFoundError as error:
        raise ChangedError(path, "vanished while it was read", "try again when it is back") from error
    if now != version:
        raise ChangedError(path, "changed while it was read", "try again when it is complete")


@contextmanager
def _naming(path: Path, doing: str) -> Iterator[None]:
    """Turn whatever is not yet a DefocusError into one that names the file."""
    try:
        yield
    except DefocusError:
        raise
    except MemoryError as error:
        raise DefocusError(
            path, f"not enough memory for {doing} it", "use a smaller --tile or free memory", ErrorCode.MEMORY
        ) from error
    except OSError as error:
        if doing == "writing":
            raise output_error(path, error) from error
        raise InputError(path, *_reason(error)) from error
    except Exception as error:
        cause = f"unexpected error while {doing} it ({type(error).__name__}: {error})"
        raise DefocusError(path, cause, "please report it") from error


def _reason(error: OSError) -> tuple[str, str, ErrorCode]:
    """Cause, remedy and code."""
    if isinstance(error, FileNotFoundError):
        return "no such file", "check the path", ErrorCode.MISSING
    if isinstance(error, IsADirectoryError):
        return "a folder, not a file", "give a TIFF file", ErrorCode.NOT_TIFF
    if isinstance(error, PermissionError):
        return "no permission to read", "give this user read permission", ErrorCode.PERMISSION
    return f"cannot be read ({error.strerror or error})", "check the disk or the share", ErrorCode.UNREADABLE


def _same_file(source: Path, target: Path) -> bool:
    try:
        return os.path.samefile(source, target)
    except OSError:  # one of them is not there; what is wrong with the source is found out by reading it
        return False
