"""tifffile tells of damage by logging; in a command line that would be a second, unreadable error line."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_local = threading.local()


class _Silence(logging.Filter):
    """Drops records of threads that asked for it, and only theirs."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(_local, "depth", 0)


logging.getLogger("tifffile").addFilter(_Silence())


@contextmanager
def quiet_tifffile() -> Iterator[None]:
    """Keep tifffile's log messages of this thread from the user's terminal."""
    _local.depth = getattr(_local, "depth", 0) + 1
    try:
        yield
    finally:
        _local.depth -= 1
