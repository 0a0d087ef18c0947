"""Many machines: one task a file over dask.distributed.

A worker loads the model once. Outputs are committed as everywhere: whole or not at all, and one that is done is left.
So a task that is tried again after its worker has died, or that is submitted twice, doubles nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from .batch import Result, Status, is_done, settled
from .card import Card, read_card
from .errors import DefocusError, InputError, MissingExtraError
from .jobs import Job

_RETRIES = 3


@dataclass(frozen=True)
class Task:
    """What a worker needs to know beside the file: `model` is a path that it must reach too, with this hash."""

    model: str
    sha256: str
    backend: str
    tile: int | None
    halo: int | None
    per: Literal["plane", "stack"]
    threads: int | None
    only_defocused: bool


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
    with ExitStack() as stack:
        client = _client(where, stack)
        if client.dashboard_link:
            tell(f"dashboard: {client.dashboard_link}")
        futures = client.map(_restore_one, todo, task=task, overwrite=overwrite, retries=_RETRIES, pure=False)
        of = dict(zip((future.key for future in futures), todo, strict=True))
        for future in as_completed(futures):
            job = of[future.key]
            if future.status == "finished":
                results = future.result()
            else:  # its workers died again and again, or it was cancelled
                cause = f"no worker could finish it ({type(future.exception()).__name__})"
                error = DefocusError(job.name, cause, "see the logs of the workers")
                results = [Result(one, Status.FAILED, None, error) for one in job.each()]
            future.release()
            yield from results


def _restore_one(job: Job, task: Task, overwrite: bool) -> list[Result]:
    """On a worker: one file, or those that belong together."""
    from .pipeline import process

    try:
        engine = _engine(task)
        # Another worker may have finished it and died before it could tell.
        if not overwrite and is_done(job, engine.card):
            return [Result(one, Status.SKIPPED) for one in job.each()]
    except DefocusError as error:
        return [Result(one, Status.FAILED, None, error) for one in job.each()]
    return [Result.of(one) for one in process(job, engine, task.only_defocused).each()]


@lru_cache(maxsize=1)
def _engine(task: Task) -> Any:
    from .engine import Engine

    found = read_card(task.model).sha256
    if found != task.sha256:
        raise InputError(task.model, "is another model on this worker", "put the same file there, or on a share")
    return Engine.load(task.model, task.backend, task.tile, task.halo, task.per, task.threads)


def _client(where: str, stack: ExitStack) -> Any:
    from distributed import Client, LocalCluster

    kind, _, count = where.partition(":")
    if kind == "local":
        if not count.isdecimal() or int(count) < 1:
            raise InputError(f"--dask {where}", "no number of workers", "write local:2")
        cluster = LocalCluster(
            n_workers=int(count), threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        )
        return stack.enter_context(Client(stack.enter_context(cluster)))
    if where == "slurm":
        try:
            from dask_jobqueue import SLURMCluster  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtraError("dask_jobqueue", "slurm", "--dask slurm") from error
        cluster = stack.enter_context(SLURMCluster())
        cluster.adapt(minimum=1, maximum=100)
        return stack.enter_context(Client(cluster))
    try:
        return stack.enter_context(Client(where, timeout="10s"))
    except (OSError, ValueError) as error:
        cause = f"no scheduler answers ({type(error).__name__})"
        raise InputError(f"--dask {where}", cause, "give tcp://HOST:PORT, local:N or slurm") from error
