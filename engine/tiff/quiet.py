"""tifffile as we need it.

It tells of damage by logging; in a command line that would be a second, unreadable error line. And it takes the two
BitsPerSample of an LSM of two channels for an offset even where they are two numbers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tifffile

_local = threading.local()


class _Silence(logging.Filter):
    """Drops records of threads that asked for it, and only theirs."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(_local, "depth", 0)


logging.getLogger("tifffile").addFilter(_Silence())


_lsm_offset: Any = getattr(tifffile.TiffTag, "_fix_lsm_bitspersample", None)


def _lsm_bits(tag: tifffile.TiffTag) -> None:
    """Follow an offset only where there is one: as two numbers of 16 bits its halves would differ."""
    if tag.count != 2 or len(set(tag.value)) == 2:
        _lsm_offset(tag)


if _lsm_offset is not None:
    tifffile.TiffTag._fix_lsm_bitspersample = _lsm_bits  # type: ignore[method-assign]


@contextmanager
def quiet_tifffile() -> Iterator[None]:
    """Keep tifffile's log messages of this thread from the user's terminal."""
    _local.depth = getattr(_local, "depth", 0) + 1
    try:
        yield
    finally:
        _local.depth -= 1
