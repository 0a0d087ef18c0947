"""Many machines: one task a file over dask.distributed.

A worker loads the model once. Outputs are committed as everywhere: whole or not at all, and one that is done is left.
So a task that is tried again after its worker has died, or that is submitted twice, doubles nothing. The scheduler is
given a bounded number of tasks at a time, so what it must remember does not grow with the number of files.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from ..errors import DefocusError, InputError, MissingExtraError
from ..files.atomic import sweep
from ..inference.cached_engine import CachedEngine
from ..inference.engine import Engine
from ..model.card import Card, read_card
from ..threads import available_cores
from .batch import Result, Status, is_done, settled
from .jobs import Job
from .steps import MEMORY, process

SUBMITTED = 10_000  # tasks that the scheduler knows of at once: about 40 MB (benchmarks/speed/dask_scaling.py)
MOST_JOBS = 100  # of SLURM, at once
_RETRIES = 3
_ONE_AT_A_TIME = threading.Lock()  # an engine serves one thread, a worker may have many; nor is it closed meanwhile


@dataclass(frozen=True)
class Task:
    """What a worker needs to know beside the file: `model` is a path that it must reach too, with this hash.

    `threads` None: as many as the worker has been given (`dask worker --nthreads`). `memory`: bytes of pixels that a
    worker may have in memory (see `run.pipeline`).
    """

    model: str
    sha256: str
    backend: str
    tile: int | None
    halo: int | None
    per: Literal["plane", "stack"]
    threads: int | None
    keep_sharp: bool
    memory: int = MEMORY


def restore_on(
    where: str,
    jobs: Sequence[Job],
    card: Card,
    task: Task,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[Result]:
    """Restore the files that are not done yet on a Dask cluster; results come as they are there.

    Parameters
    ----------
    where : str
        Address of a scheduler ("tcp://host:8786"), "local:N" for N processes here, or "slurm" for jobs as Dask's own
        configuration describes them (dask-jobqueue).

    Raises
    ------
    MissingExtraError
        dask.distributed (or dask-jobqueue) is not installed.
    InputError
        `where` makes no sense, or nobody answers there.
    """
    todo: list[Job] = []
    yield from settled(jobs, card, overwrite, todo)
    if not todo:
        return
    try:
        from distributed import as_completed
    except ImportError as error:
        raise MissingExtraError("distributed", "dask", "--dask") from error
    run = uuid.uuid4().hex[:8]
    with ExitStack() as stack:
        # Last of all, when no worker of ours writes any more: what those left that were killed.
        stack.callback(lambda: [sweep(folder, run, deep=False) for folder in {job.target.parent for job in todo}])
        client = _client(where, stack)
        if client.dashboard_link:
            tell(f"dashboard: {client.dashboard_link}")
        waiting = (replace(job, run=run, others=tuple(replace(other, run=run) for other in job.others)) for job in todo)
        of: dict[str, Job] = {}

        def submit(count: int) -> list[Any]:
            part = list(islice(waiting, count))
            if not part:
                return []
            futures = client.map(_restore_one, part, task=task, overwrite=overwrite, retries=_RETRIES, pure=False)
            of.update(zip((future.key for future in futures), part, strict=True))
            return futures

        submitted = as_completed(submit(SUBMITTED))
        for future in submitted:
            results = _results(of.pop(future.key), future)
            future.release()
            if len(of) <= SUBMITTED // 2:
                submitted.update(submit(SUBMITTED - len(of)))
            yield from results


def _results(job: Job, future: Any) -> list[Result]:
    """What a task that has ended says of its files."""
    if future.status == "finished":
        return future.result()
    # Its workers died again and again, or it was cancelled.
    cause = f"no worker could finish it ({type(future.exception()).__name__})"
    error = DefocusError(job.name, cause, "see the logs of the workers")
    return [Result(member, Status.FAILED, None, error) for member in job.each()]


def _restore_one(job: Job, task: Task, overwrite: bool) -> list[Result]:
    """On a worker: one file, or those that belong together."""
    from distributed import get_worker

    threads = task.threads or get_worker().state.nthreads
    with _ONE_AT_A_TIME:
        try:
            engine = _ENGINE.get(replace(task, threads=threads))
            # Another worker may have finished it and died before it could tell.
            if not overwrite and is_done(job, engine.card):
                return [Result(member, Status.SKIPPED) for member in job.each()]
        except DefocusError as error:
            return [Result(member, Status.FAILED, None, error) for member in job.each()]
        return [Result.of(member) for member in process(job, engine, task.keep_sharp, task.memory).each()]


def _load(task: Task) -> Engine:
    sha256 = read_card(task.model).sha256
    if sha256 != task.sha256:
        raise InputError(task.model, "is another model on this worker", "put the same file there, or on a share")
    return Engine.load(
        task.model,
        backend=task.backend,
        tile=task.tile,
        halo=task.halo,
        per=task.per,
        threads=task.threads,
        memory=task.memory,
    )


_ENGINE: CachedEngine[Task] = CachedEngine(_load)


def _security() -> Any:
    """TLS, or any user of the machine, or of the network, could run code as this one through the scheduler.

    With the certificates that Dask's own configuration names, else with one that only this run knows.
    """
    from distributed.security import Security

    if Security().tls_ca_file:
        return Security(require_encryption=True)
    try:
        return Security.temporary()
    except ImportError as error:
        raise MissingExtraError("cryptography", "dask", "TLS between --dask workers") from error


def _in_files(security: Any, folder: Path) -> Any:
    """The credentials of the workers as files in `folder`, which is removed when no job needs them any more.

    dask-jobqueue would write such files, too, but removes them whenever they are collected as garbage: after their
    folder, with a traceback.
    """
    for name in ("tls_ca_file", "tls_worker_key", "tls_worker_cert"):
        value = getattr(security, name)
        if value and "\n" in value:  # in memory, not a path
            (folder / name).write_text(value)
            setattr(security, name, str(folder / name))
    return security


def _client(where: str, stack: ExitStack) -> Any:
    from distributed import Client, LocalCluster

    kind, _, count = where.partition(":")
    if kind == "local":
        if not count.isdecimal() or int(count) < 1:
            raise InputError(f"--dask {where}", "no number of workers", "write local:2")
        threads = max(1, available_cores() // int(count))
        # With a host the dashboard's link names it; without, the machine's outer address, where nobody listens.
        cluster = LocalCluster(
            n_workers=int(count),
            threads_per_worker=threads,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            security=_security(),
        )
        return stack.enter_context(Client(stack.enter_context(cluster)))
    if where == "slurm":
        try:
            from dask_jobqueue.slurm import SLURMCluster  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtraError("dask_jobqueue", "slurm", "--dask slurm") from error
        # The key is handed to the jobs in files: in a folder of this user's alone, where SLURM's own logs go, too.
        folder = Path(stack.enter_context(TemporaryDirectory(prefix=".defocus-dask-", dir=os.getcwd())))
        security = _in_files(_security(), folder)
        try:
            jobs: Any = stack.enter_context(SLURMCluster(security=security))
        except ValueError as error:  # cores and memory have no default
            cause = "Dask's configuration does not describe a job"
            remedy = "write jobqueue.slurm.cores and .memory to ~/.config/dask/jobqueue.yaml (docs/guides/pipelines.md)"
            raise InputError("--dask slurm", cause, remedy) from error
        jobs.adapt(minimum=1, maximum=MOST_JOBS)
        return stack.enter_context(Client(jobs))
    try:
        return stack.enter_context(Client(where, timeout="10s"))
    except (OSError, ValueError) as error:
        cause = f"no scheduler answers ({type(error).__name__})"
        raise InputError(f"--dask {where}", cause, "give tcp://HOST:PORT, local:N or slurm") from error
