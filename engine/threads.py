"""Threads: how many cores there are for them, pools that have theirs from the beginning, work spread over the cores.

And what OpenBLAS, which numpy and scipy bring, needs to be loaded: it does not tell of it as other libraries do.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

_CGROUP = Path("/sys/fs/cgroup")
_BLAS = 1 << 28  # bytes of addresses that OpenBLAS takes with its buffer and the library that brings it, at most
_MOST_WORKERS = 8  # that `spread` takes: each holds some memory

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores(cgroup: Path = _CGROUP) -> int:
    """How many processor cores this process may really use, by its affinity and the container's quota: at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, min(cores, math.ceil(quota)) if quota else cores)


def _quota(cgroup: Path) -> float | None:
    """Cores' worth of processor time that the container grants, None where it sets no limit."""
    with suppress(OSError, ValueError):
        limit, period = (cgroup / "cpu.max").read_text().split()  # version 2: "200000 100000" or "max 100000"
        return None if limit == "max" else int(limit) / int(period)
    with suppress(OSError, ValueError):
        limit = int((cgroup / "cpu/cpu.cfs_quota_us").read_text())  # version 1: -1 means no limit
        return limit / int((cgroup / "cpu/cpu.cfs_period_us").read_text()) if limit > 0 else None
    return None


def thread_pool(count: int, name: str) -> ThreadPoolExecutor:
    """A pool of `count` threads that all run.

    Threads are taken when work begins, not in the middle of it: an executor starts a thread when work comes. If none
    can be had then, that work stays in its queue, and whoever waits for it waits for ever.

    Raises
    ------
    RuntimeError
        The system gives fewer threads.
    """
    pool, all_run = ThreadPoolExecutor(count, name), threading.Event()
    try:
        for _ in range(count):
            pool.submit(all_run.wait)
    finally:
        all_run.set()
    return pool


def spread(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """What `map` gives, in order, computed on all cores, at most one result a core ahead of the one that is taken."""
    workers = min(available_cores(), _MOST_WORKERS, len(items))
    if workers < 2:
        yield from map(function, items)
        return
    with thread_pool(workers, "defocus-spread") as pool:
        ahead: deque[Future[Result]] = deque()
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def one_thread_for_blas() -> None:
    """Keep OpenBLAS to the calling thread, unless the environment says otherwise; before numpy is imported.

    numpy and scipy bring one each. Nothing that restores images gains from their threads, and where OpenBLAS gets none
    it interrupts the process, or crashes it at its end.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def check_memory_for_blas() -> None:
    """Raise OSError (ENOMEM) if memory does not suffice to load OpenBLAS; before numpy or scipy is imported.

    numpy's would print a line of its own and end the process, scipy's would try again for ever.
    """
    if os.name == "posix":
        mmap.mmap(-1, _BLAS, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
