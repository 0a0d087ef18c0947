"""The pipeline: jobs go in, outcomes come out. The daemon and the batch command both drive it.

read -> (unchanged?) -> intensity, tiles, backend, tiles, intensity -> judge -> write -> commit
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from . import tiff
from .commit import commit, output_error
from .errors import ChangedError, DefocusError, InputError
from .jobs import Job, Outcome
from .judge import judge
from .report import summary

if TYPE_CHECKING:
    import numpy as np

    from .engine import Engine

Stat = tuple[int, int]


def pipeline(
    jobs: Iterable[Job], engine: Engine, only_defocused: bool = False, ahead: int = 0, memory: int = 0
) -> Iterator[Outcome]:
    """Restore each job's file with `engine`.

    A bad file never ends it: whatever goes wrong with a job is the `error` of its outcome, an `InputError` where the
    file is to blame, an `OutputError` where the target cannot be written, a `BackendError` where the runtime failed.
    Until the commit nothing is seen beside the target, and the source is only read. With `only_defocused`, planes that
    are sharp already are written as they came.

    Parameters
    ----------
    ahead : int
        How many files are read before their turn, and how many may wait to be written, each in threads of their own
        while the engine works. 0: nothing overlaps, a job is taken when its outcome is asked for.
    memory : int
        With `ahead`, bytes of pixels that may be in hand, inputs and outputs together; one file is always let in. 0:
        not limited.
    """
    if ahead:
        from .stages import overlapped

        yield from overlapped(jobs, engine, only_defocused, ahead, memory)
        return
    for job in jobs:
        yield process(job, engine, only_defocused)


def process(job: Job, engine: Engine, only_defocused: bool = False) -> Outcome:
    """Restore one file; never raises but for KeyboardInterrupt and the like."""
    return write_stage(infer_stage(read_stage(job), engine), engine, only_defocused)


@dataclass(frozen=True)
class Piece:
    """A file on its way: what is known of it, and its pixels as far as it has come. With an error it is carried on."""

    outcome: Outcome
    version: Stat = (0, 0)
    stack: tiff.Stack | None = None
    restored: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of pixels that it holds, or will when it is restored."""
        return 0 if self.stack is None else 2 * self.stack.data.nbytes


def read_stage(job: Job) -> Piece:
    """Read a job's file; whatever goes wrong is the outcome's error."""
    outcome = Outcome(job)
    try:
        with _naming(job.source, "reading"):
            if _same_file(job.source, job.target):
                raise InputError(job.source, "its output would replace it", "choose another output folder with -o")
            version = job.stat or stat_of(job.source)
            start = perf_counter()
            try:
                stack = tiff.read(job.source)
            finally:
                check_unchanged(job.source, version)  # also if it could not be read: half a file is not a bad file
            outcome.seconds["read"] = perf_counter() - start
    except DefocusError as error:
        return Piece(replace(outcome, error=error))
    shape = stack.data.shape
    planes = stack.data.size // max(1, _plane_size(shape, stack.axes))
    outcome = replace(outcome, planes=planes, shape=shape, dtype=stack.data.dtype.name, axes=stack.axes)
    return Piece(outcome, version, stack)


def infer_stage(piece: Piece, engine: Engine) -> Piece:
    """Run the engine on what was read."""
    stack, outcome = piece.stack, piece.outcome
    if stack is None:
        return piece
    try:
        with _naming(outcome.job.source, "restoring"):
            start = perf_counter()
            restored = engine(stack.data, stack.axes, name=outcome.job.source)
            outcome.seconds["infer"] = perf_counter() - start
    except DefocusError as error:
        return Piece(replace(outcome, error=error))
    return replace(piece, restored=restored)


def write_stage(piece: Piece, engine: Engine, only_defocused: bool) -> Outcome:
    """Judge what was restored, write and commit it."""
    stack, restored, outcome = piece.stack, piece.restored, piece.outcome
    job = outcome.job
    if stack is None or restored is None:
        return outcome
    try:
        with _naming(job.source, "restoring"):
            start = perf_counter()
            outcome = replace(outcome, reports=judge(stack.data, restored, stack.axes, only_defocused))
            outcome.seconds["judge"] = perf_counter() - start
        account = provenance(engine, job.source, piece.version)
        account |= {"only_defocused": only_defocused, "planes": summary(outcome.reports)}
        with _naming(job.target, "writing"):
            start = perf_counter()
            with commit(job.target) as temporary:
                tiff.write(replace(stack, data=restored), temporary, account)
            outcome.seconds["write"] = perf_counter() - start
    except DefocusError as error:
        return replace(outcome, error=error)
    return outcome


def provenance(engine: Engine, source: Path, version: Stat) -> dict[str, Any]:
    """What an output says of its making: the engine's own account, and which version of which file it was made from."""
    size, mtime_ns = version
    return engine.provenance() | {"source": {"name": source.name, "size": size, "mtime_ns": mtime_ns}}


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
        raise DefocusError(path, f"not enough memory for {doing} it", "use a smaller --tile or free memory") from error
    except OSError as error:
        if doing == "writing":
            raise output_error(path, error) from error
        raise InputError(path, _reason(error), "check the path and its permissions") from error
    except Exception as error:
        cause = f"unexpected error while {doing} it ({type(error).__name__}: {error})"
        raise DefocusError(path, cause, "please report it") from error


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not a file"
    if isinstance(error, PermissionError):
        return "no permission to read"
    return f"cannot be read ({error.strerror or error})"


def _same_file(source: Path, target: Path) -> bool:
    try:
        return os.path.samefile(source, target)
    except OSError:  # one of them is not there; what is wrong with the source is found out by reading it
        return False


def _plane_size(shape: tuple[int, ...], axes: str) -> int:
    return shape[axes.index("Y")] * shape[axes.index("X")] if "Y" in axes and "X" in axes else 0
