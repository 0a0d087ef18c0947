"""The stages that every file goes through, one after the other; `run.pipeline` lets those of several overlap.

read -> (unchanged?) -> intensity, tiles, backend, tiles, intensity -> assess -> write -> commit
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from stat import S_ISDIR
from time import perf_counter

import numpy as np

from ..errors import ChangedError, DefocusError, InputError, shortage_error
from ..files.atomic import commit, output_error
from ..files.version import folder_version
from ..formats.dispatch import read_other
from ..formats.names import is_other, is_store
from ..image.bands import planes
from ..image.memmap import DiskAllocator, drop_resident_pages, is_disk_backed
from ..image.memmap import check_unchanged as check_same_bytes
from ..inference.engine import Engine
from ..inference.memory import MEMORY
from ..inference.tasks import ImageRequest
from ..quality.assess import assess, keep_doubtful_planes, keep_sharp_planes
from ..quality.report import PlaneReport, summary
from ..tiff.integrity import errors_as_input_error
from ..tiff.read import TiffFile, read_tiff, write_tiff
from .channel_groups import joined, written
from .item import PipelineItem, Stat
from .jobs import ImageShape, Job, Outcome, version_record
from .output_map import OutputMap

Stopped = Callable[[], bool]


_FILES = 3  # large files that may be in hand at once: read, restored and written


def process(
    job: Job, engine: Engine, keep_sharp: bool = True, memory: int = MEMORY, stop: Stopped = lambda: False
) -> Outcome:
    """Restore one file; never raises but for KeyboardInterrupt and the like."""
    item = infer_stage(read_stage(job, memory), engine, stop)
    return write_stage(item, engine, keep_sharp)


def read_stage(job: Job, memory: int = 0) -> PipelineItem:
    """Read a job's file; whatever goes wrong is the outcome's error."""
    if job.others:
        parts = [read_stage(member, memory) for member in job.each()]
        try:
            with _naming(job.source, "reading"):
                return joined(job, parts)
        except DefocusError as error:
            return replace(parts[0], outcome=Outcome.of(job).failed(error), images=())
    outcome = Outcome(job)
    room = max(1, memory // (2 * _FILES)) if memory else 0
    place = DiskAllocator(job.target.parent, room, job.source.parent, not job.live)
    try:
        with _naming(job.source, "reading"):
            if _same_file(job.source, job.target):
                raise InputError(job.source, "its output would replace it", "choose another output folder with -o")
            version = job.stat or stat_of(job.source)
            start = perf_counter()
            try:
                read = read_other if is_other(job.source) else read_tiff
                file = read(job.source, place, memory)
                drop_resident_pages(*(image.data for image in file.images))
            finally:
                check_unchanged(job.source, version)  # also if it could not be read: half a file is not a bad file
            outcome.seconds["read"] = perf_counter() - start
    except DefocusError as error:
        return PipelineItem(replace(outcome, error=error))
    shapes = tuple(ImageShape(image.data.shape, image.data.dtype.name, image.axes) for image in file.images)
    outcome = replace(outcome, images=shapes, notes=file.notes)
    held = 0 if any(is_disk_backed(image.data) for image in file.images) else file.nbytes
    output = OutputMap(job, file) if isinstance(file, TiffFile) else None
    return PipelineItem(outcome, version, file, file.images, place=place, nbytes=held, output=output)


def requests_of(item: PipelineItem) -> list[ImageRequest]:
    """What of a file the engine is to restore; nothing after an error."""
    name, output = item.outcome.job.name, item.output
    places = [item.place if output is None else output.place_of(image, item.place) for image in item.images]
    return [
        ImageRequest(image.data, image.axes, name, allocate=place, statistics=image.statistics)
        for image, place in zip(item.images, places, strict=True)
    ]


def infer_stage(item: PipelineItem, engine: Engine, stop: Stopped = lambda: False) -> PipelineItem:
    """Run the engine on what was read, in this thread. What is in memory is soon done and not left for `stop`."""
    requests, start = requests_of(item), perf_counter()
    large = any(is_disk_backed(request.data) for request in requests)

    def restore() -> list[np.ndarray]:
        results = engine.restore_many(requests, lambda: large and stop())
        for result in results:
            if isinstance(result, DefocusError):
                raise result
        return [result for result in results if isinstance(result, np.ndarray)]

    return with_result(item, restore, lambda: perf_counter() - start)


def with_result(
    item: PipelineItem, result: Callable[[], list[np.ndarray]], seconds: Callable[[], float]
) -> PipelineItem:
    """The item with what `result` returns or raises; `seconds` is then asked how long the engine took."""
    if not item.images:
        return item
    try:
        with _naming(item.outcome.job.source, "restoring"):
            restored = tuple(result())
    except DefocusError as error:  # it still weighs what it took
        discard(item)
        return replace(item, outcome=item.outcome.failed(error), images=())
    item.outcome.seconds["infer"] = seconds()
    for image, data in zip(item.images, restored, strict=True):
        if image.limit is not None:
            for plane in planes(data.reshape(-1, *data.shape[-2:])):
                np.minimum(plane, image.limit, out=plane)
    return replace(item, restored=restored)


def write_stage(item: PipelineItem, engine: Engine, keep_sharp: bool) -> Outcome:
    """Assess what was restored, write and commit it."""
    outcome, job = item.outcome, item.outcome.job
    if item.file is None or not item.restored:
        return outcome
    if job.keep_sharp is not None:
        keep_sharp = job.keep_sharp
    if item.parts:
        return written(item, lambda part: write_stage(part, engine, keep_sharp))
    try:
        with _naming(job.source, "restoring"):
            start = perf_counter()
            reports: list[PlaneReport] = []
            for number, (image, data) in enumerate(zip(item.images, item.restored, strict=True), 1):
                plane_reports = assess(image.data, data, image.axes, image.statistics)
                if keep_sharp:
                    plane_reports = keep_sharp_planes(image.data, data, image.axes, plane_reports)
                if job.keep_doubtful:
                    plane_reports = keep_doubtful_planes(image.data, data, image.axes, plane_reports)
                drop_resident_pages(image.data, data)
                several = len(item.images) > 1
                reports += [replace(report, image=number) for report in plane_reports] if several else plane_reports
            outcome = replace(outcome, reports=tuple(reports))
            outcome.seconds["assess"] = perf_counter() - start
        with _naming(job.target, "writing"):
            account = engine.provenance() | {
                "source": version_record(job.source, item.version),
                **item.notes,
                "only_defocused": keep_sharp,
                "keep_doubtful": "original" if job.keep_doubtful else "corrected",
                "planes": summary(outcome.reports),
            }
            start = perf_counter()
            begun = item.output.path if item.output is not None else None
            with commit(job.target, job.run, job.source.parent, begun, job.within) as temporary:
                if isinstance(item.file, TiffFile):
                    write_tiff(item.file, item.restored, temporary, account)
                    check_same_bytes(item.file.bytes)
                else:
                    item.file.write(item.restored, temporary, account)
                if is_store(job.source):  # what is no pixel was copied only now
                    check_unchanged(job.source, item.version)
            outcome.seconds["write"] = perf_counter() - start
    except DefocusError as error:
        return replace(outcome, error=error)
    finally:
        discard(item)
    return outcome


def discard(item: PipelineItem) -> None:
    """Remove what was begun of an item's output, unless it has been committed."""
    if item.output is not None:
        item.output.discard()


def stat_of(path: Path) -> Stat:
    """Size in bytes and modification time in ns: the version of a file, or of a Zarr, which is a folder."""
    stat = os.stat(path)
    if is_store(path) and S_ISDIR(stat.st_mode):
        return version_of(*folder_version(path))
    return version_of(stat.st_size, stat.st_mtime_ns)


def version_of(size: int, mtime_ns: int) -> Stat:
    """The version of a file of that size and time."""
    # Times of nonsense, as broken shares give them, lie beyond what a database holds (after 2262).
    return size, min(max(mtime_ns, -(2**63)), 2**63 - 1)


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
    except (MemoryError, OSError, RuntimeError, ImportError) as error:
        if refused := shortage_error(path, f"for {doing} it", error):
            raise refused from error
        if not isinstance(error, OSError):
            raise _unexpected(path, doing, error) from error
        if doing == "writing":
            raise output_error(path, error) from error
        with errors_as_input_error(path):
            raise error
    except Exception as error:
        raise _unexpected(path, doing, error) from error


def _unexpected(path: Path, doing: str, error: Exception) -> DefocusError:
    cause = f"unexpected error while {doing} it ({type(error).__name__}: {error})"
    return DefocusError(path, cause, "please report it")


def _same_file(source: Path, target: Path) -> bool:
    try:
        return os.path.samefile(source, target)
    except OSError:  # one of them is not there; what is wrong with the source is found out by reading it
        return False
