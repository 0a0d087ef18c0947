"""What travels through the pipeline: a job goes in, an outcome comes out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from ..errors import DefocusError, drop_frames
from ..quality.overview import FileOverview, overview
from ..quality.report import PlaneReport, summary


@dataclass(frozen=True)
class Job:
    """One version of one input and where its output goes.

    Attributes
    ----------
    source, target : Path
        The frame file to read and the file to write.
    stat : (size in bytes, mtime in ns) or None
        The version of `source` that is meant. If the file has another size or time once it has been read,
        the outcome is a `ChangedError` and nothing is written (promise P5).
    others : tuple of Job
        The files that go through the model together with this one, one channel each: this one holds the first channel,
        they the next ones, in order. Each gets its own output.
    keep_sharp : bool or None
        Keep its planes that are sharp already as they are; None: as the pipeline does by default.
    keep_doubtful : bool
        Whether planes whose output is doubtful are written as they came.
    run : str
        Stands in the names of its temporaries, so that they can be found after a kill.
    live : bool
        Others are writing in the folder of `source`: it is copied, however large, and never mapped, since a map of a
        file that is cut short ends the process.
    within : Path or None
        A folder out of which no link may lead the output.
    """

    source: Path
    target: Path
    stat: tuple[int, int] | None = None
    others: tuple[Job, ...] = ()
    run: str = field(default="", compare=False)
    live: bool = field(default=False, compare=False)
    within: Path | None = field(default=None, compare=False)
    keep_sharp: bool | None = field(default=None, compare=False)
    keep_doubtful: bool = field(default=False, compare=False)

    def each(self) -> tuple[Job, ...]:
        """Its files one by one, in the order of channels."""
        return (replace(self, others=()), *self.others)

    @property
    def name(self) -> str:
        """What errors call it."""
        return " and ".join(str(job.source) for job in self.each())


@dataclass(frozen=True)
class ImageShape:
    """Shape, dtype and axes of an image in a file."""

    shape: tuple[int, ...]
    dtype: str
    axes: str

    @property
    def planes(self) -> int:
        """How many planes (Y, X) it has."""
        return prod(size for size, axis in zip(self.shape, self.axes, strict=True) if axis not in "YX")


@dataclass(frozen=True)
class Outcome:
    """What became of a job: `error` is None when the target has been committed.

    Attributes
    ----------
    seconds : dict
        Wall time of each stage: "read", "infer" (with intensity and tiles), "assess", "write".
    reports : tuple of PlaneReport
        What is known of each plane, in the order of the axes without Y and X.
    error : DefocusError or None
        What went wrong, without the frames that it passed through.
    others : tuple of Outcome
        Those of the job's other files. Files that belong together are written all, or have an error all.
    images : tuple of ImageShape
        The images of the file that are corrected.
    notes : tuple of str
        What a user should know of how the file is treated, a line each.
    """

    job: Job
    error: DefocusError | None = None
    images: tuple[ImageShape, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    reports: tuple[PlaneReport, ...] = ()
    others: tuple[Outcome, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.error is not None:
            drop_frames(self.error)

    @classmethod
    def of(cls, job: Job) -> Outcome:
        """The outcome of a job, and of its other files, of which nothing is known yet."""
        return cls(job, others=tuple(cls(other) for other in job.others))

    def each(self) -> tuple[Outcome, ...]:
        """The outcomes of its files one by one, in the order of channels."""
        return (replace(self, job=replace(self.job, others=()), others=()), *self.others)

    @property
    def planes(self) -> int:
        return sum(image.planes for image in self.images)

    @property
    def overview(self) -> FileOverview:
        """What the reports of its planes come to."""
        return overview(summary(self.reports))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first image."""
        return self.images[0].shape if self.images else ()

    @property
    def dtype(self) -> str:
        return self.images[0].dtype if self.images else ""

    @property
    def axes(self) -> str:
        return self.images[0].axes if self.images else ""

    def failed(self, error: DefocusError) -> Outcome:
        """The same with an error, of every file."""
        return replace(self, error=error, others=tuple(replace(other, error=error) for other in self.others))


def version_record(source: Path, version: tuple[int, int]) -> dict[str, Any]:
    """Which version (size, mtime in ns) of which file is meant, as it stands in an output's provenance."""
    size, mtime_ns = version
    return {"name": source.name, "size": size, "mtime_ns": mtime_ns}
