"""What travels through the pipeline: a job goes in, an outcome comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .errors import DefocusError
from .report import PlaneReport


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
    """

    source: Path
    target: Path
    stat: tuple[int, int] | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a job: `error` is None when the target has been committed.

    Attributes
    ----------
    seconds : dict
        Wall time of each stage: "read", "infer" (with intensity and tiles), "judge", "write".
    reports : tuple of PlaneReport
        What is known of each plane, in the order of the axes without Y and X.
    """

    job: Job
    error: DefocusError | None = None
    planes: int = 0
    shape: tuple[int, ...] = ()
    dtype: str = ""
    axes: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    reports: tuple[PlaneReport, ...] = ()
