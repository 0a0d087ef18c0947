"""The pipeline: jobs go in, outcomes come out. The daemon, the batch command and the tests all drive it."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from ..inference.engine import Engine
from .concurrent import run_concurrently
from .jobs import Job, Outcome
from .steps import MEMORY, Stopped, process


def pipeline(
    jobs: Iterable[Job],
    engine: Engine,
    keep_sharp: bool = True,
    ahead: int = 0,
    memory: int = MEMORY,
    stop: Stopped = lambda: False,
) -> Generator[Outcome, None, None]:
    """Restore each job's file with `engine`; outcomes come in the order in which files are done.

    A bad file never ends it: whatever goes wrong with a job is the `error` of its outcome, an `InputError` where the
    file is to blame, an `OutputError` where the target cannot be written, a `BackendError` where the runtime failed.
    Until the commit nothing is seen beside the target, and the source is only read. Planes that are sharp
    already are written as they came, unless `keep_sharp` is False.

    If the caller leaves early, what is being written is finished, what is being restored is left between two tiles, and
    nothing more is begun.

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
        yield from run_concurrently(jobs, engine, keep_sharp, ahead, memory, stop)
        return
    for job in jobs:
        yield process(job, engine, keep_sharp, memory, stop)
