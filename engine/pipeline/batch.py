"""The batch: files, folders and globs become jobs, and jobs become results. What `defocus-run` does, from Python.

Where outputs go: a file to OUT/name, what lies in a folder (or below a glob's fixed part) to the same place below OUT.
Inputs are only read, so an output never takes the place of one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DefocusError, ErrorCode, InputError, OutputError, shortage, shortage_error
from ..files.patterns import is_wanted
from ..formats.dispatch import check_complete, images_of_output, read_provenance
from ..formats.names import output_path
from .inputs import files_of
from .jobs import ImageShape, Job, Outcome, version_record

if TYPE_CHECKING:
    from ..inference.engine import Engine
    from ..model.card import Card

AHEAD = 2  # files read before their turn

OWN_OUTPUT = "an output of defocus"
OWN_OUTPUTS = "outputs of defocus are not corrected again"


class Status(StrEnum):
    """What became of a file."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class Result:
    """A job and what became of it."""

    job: Job
    status: Status
    outcome: Outcome | None = None
    error: DefocusError | None = None

    @classmethod
    def of(cls, outcome: Outcome) -> Result:
        """The result of one file that went through the pipeline."""
        return cls(outcome.job, Status.FAILED if outcome.error else Status.DONE, outcome, outcome.error)

    def to_json(self) -> str:
        """One line of JSON with the same keys for every status."""
        outcome = self.outcome or Outcome(self.job)
        record = _said(self.job.target) if self.status is Status.SKIPPED else {}
        fields: dict[str, Any] = {
            "source": str(self.job.source),
            "target": str(self.job.target),
            "status": self.status.value,
            "error": str(self.error) if self.error else None,
            "code": self.error.code.value if self.error else None,
            "shape": list(outcome.shape),
            "dtype": outcome.dtype,
            "axes": outcome.axes,
            "planes": outcome.planes,
            "images": [asdict(image) for image in outcome.images],
            "notes": list(outcome.notes),
            "reports": [report.as_dict() for report in outcome.reports],
            "seconds": {stage: round(seconds, 6) for stage, seconds in outcome.seconds.items()},
        }
        return json.dumps(fields | record)


def _said(target: Path) -> dict[str, Any]:
    """What an output says of itself: what was known when it was made."""
    try:
        account = read_provenance(target) or {}
        images = [ImageShape(shape, dtype, axes) for axes, shape, dtype in images_of_output(target)]
    except (DefocusError, OSError):
        return {}
    reports = account.get("planes", [])
    count = len(reports) if isinstance(reports, list) else reports.get("count", 0) if isinstance(reports, dict) else 0
    known = Outcome(Job(target, target), images=tuple(images))
    facts = {"shape": list(known.shape), "dtype": known.dtype, "axes": known.axes}
    return facts | {"images": [asdict(image) for image in images], "planes": count, "reports": reports}


def find(
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> list[Job]:
    """The jobs that inputs ask for, in the order given, folders and globs sorted; each file once.

    Only files whose path or name is like one of `include` (all if there is none) and
    like none of `exclude` count.

    Folders are searched to the bottom for TIFF files, and those of formats whose readers are installed, by their
    ending, without following links and without names that begin with a dot. A path that exists is itself, even if it
    looks like a glob.

    Raises
    ------
    InputError
        An input does not exist or holds no TIFF, the output folder lies in an input folder, or an output would take
        the place of an input or of another output.
    """
    out = Path(out)
    jobs: dict[str, Job] = {}
    sources: set[str] = set()
    for given in inputs:
        for source, relative in files_of(os.fspath(given), out):
            if not is_wanted(relative, include, exclude):
                continue
            job = Job(source, out / output_path(relative))
            sources.add(_identity(source))
            other = jobs.setdefault(_identity(job.target), job)
            if _identity(other.source) != _identity(source):
                cause = f"would both be written to {job.target}"
                remedy = "use different output folders, or give the folder that holds both"
                raise InputError(f"{other.source} and {source}", cause, remedy)
    if not jobs and (include or exclude):
        patterns = " ".join(
            [*(f"--include {pattern}" for pattern in include), *(f"--exclude {pattern}" for pattern in exclude)]
        )
        raise InputError(patterns, "leaves no file", "check the patterns, and put them in quotes")
    for identity, job in jobs.items():
        if identity in sources:
            cause = "lies in the output folder: an output would replace it"
            raise InputError(job.target, cause, "choose another output folder with -o")
    return list(jobs.values())


def restore(
    jobs: Iterable[Job],
    card: Card,
    load: Callable[[], Engine],
    overwrite: bool = False,
    keep_sharp: bool = True,
    memory: int | None = None,
) -> Iterator[Result]:
    """Restore the files that are not done yet; results come as they are there, skipped ones first.

    Reading and writing go on beside the engine, with `memory` bytes of pixels in hand (see `run.pipeline`).

    A file is done when its target says that it was made with this model from this version (size and time) of this
    file. A target made from something else is made anew; one that is not defocus's work is never replaced, unless
    `overwrite` says so, which makes everything anew. `load` is called once, and only if something is to be done.
    Planes that are sharp already are written as they came, unless `keep_sharp` is False.

    Raises
    ------
    ModelError, BackendError, MissingExtraError
        Only from `load`: the trouble of one file is in its result.
    """
    todo: list[Job] = []
    yield from settled(jobs, card, overwrite, todo)
    if not todo:
        return
    from .run import pipeline
    from .steps import MEMORY

    with load() as engine:
        for outcome in pipeline(todo, engine, keep_sharp, AHEAD, MEMORY if memory is None else memory):
            yield from (Result.of(part) for part in outcome.each())


def settled(jobs: Iterable[Job], card: Card, overwrite: bool, todo: list[Job]) -> Iterator[Result]:
    """The results of jobs that need no engine, done or hopeless; the others are put into `todo`."""
    noted_folders: set[Path] = set()
    for job in jobs:
        if any(own_output(member.source) for member in job.each()):
            note = () if job.source.parent in noted_folders else (f"{OWN_OUTPUTS} (of {job.source.parent})",)
            noted_folders.add(job.source.parent)
            yield from (Result(member, Status.SKIPPED, Outcome(member, notes=note)) for member in job.each())
            continue
        try:
            done = not overwrite and is_done(job, card)
        except DefocusError as error:
            yield from (Result(member, Status.FAILED, None, error) for member in job.each())
            continue
        if done:
            yield from (Result(member, Status.SKIPPED) for member in job.each())
        else:
            todo.append(job)


def own_output(source: Path) -> bool:
    """Whether a file is an output of defocus itself, by its provenance."""
    try:
        return read_provenance(source) is not None
    except (DefocusError, OSError):
        return False  # whatever is wrong with it is told when it is read


def is_done(job: Job, card: Card) -> bool:
    """Whether the target is there, whole, and made with this model from this version of the source.

    Of files that belong together all targets must be, each from these versions of all of them, in this order.

    Raises
    ------
    OutputError
        Something is there that is not defocus's work.
    """
    from .steps import stat_of

    records = [_made(member.target) for member in job.each()]
    if None in records:
        return False
    try:
        versions = [version_record(member.source, stat_of(member.source)) for member in job.each()]
    except OSError:
        return False  # the pipeline says what is wrong with the source
    channels = versions if job.others else None
    return all(
        account is not None
        and account.get("model_sha256") == card.sha256
        and account.get("source") == version
        and account.get("channels") == channels
        for account, version in zip(records, versions, strict=True)
    )


def _made(target: Path) -> dict[str, Any] | None:
    """What an output says of its making; None if there is none. Raises OutputError if it is not ours."""
    try:
        return _account(target) if os.path.lexists(target) else None
    except (OSError, MemoryError) as error:
        if lack := shortage_error(target, "for looking into it", error):
            raise lack from error
        raise


def _account(target: Path) -> dict[str, Any] | None:
    from ..tiff.provenance import cut_short

    remedy = "move it away, choose another output folder with -o, or replace it with defocus-run --overwrite"
    try:
        account = read_provenance(target)
    except (DefocusError, OSError) as error:
        if shortage(error):
            raise
        if isinstance(error, InputError) and error.code is ErrorCode.UNREADABLE and os.path.exists(target):
            raise OutputError(target, error.cause, error.remedy) from error  # the disk, not what lies there
        with suppress(DefocusError, OSError):
            if cut_short(target):
                return None
        raise OutputError(
            target, "is there already and is no TIFF that can be read", remedy, ErrorCode.OCCUPIED
        ) from error
    if account is None:
        raise OutputError(target, "is there already and was not made by defocus", remedy, ErrorCode.OCCUPIED)
    try:
        check_complete(target)
    except InputError:  # ours, but cut short since: made anew
        return None
    return account


def _identity(path: Path) -> str:
    """The same for two spellings of one path; the file itself need not exist."""
    return os.path.normcase(os.path.realpath(path))
