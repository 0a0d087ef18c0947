"""Threads are taken when work begins, not in the middle of it: where the system gives none, that is told at once."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor


def thread_pool(count: int, name: str) -> ThreadPoolExecutor:
    """A pool of `count` threads that all run.

    An executor starts a thread when work comes. If none can be had then, that work stays in its queue, and whoever
    waits for it waits for ever.

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


def one_thread_for_blas() -> None:
    """Keep OpenBLAS to the calling thread, unless the environment says otherwise; before numpy is imported.

    numpy and scipy bring one each. Nothing that restores images gains from their threads, and where OpenBLAS gets none
    it interrupts the process, or crashes it at its end.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
