"""Whether the output folder can be written to (promises P8, P9): before a file is written, not after it has failed."""

from __future__ import annotations

import shutil
from pathlib import Path

from ...engine.errors import ErrorCode, OutputError
from .lock import why_not_ours

MEGABYTE = 10**6


def missing_room(out: Path, least_mb: float) -> OutputError | None:
    """Why nothing should be written below `out` now; None if it is there and has `least_mb` MB free."""
    if lost := why_not_ours(out):
        return lost
    if least_mb <= 0:
        return None
    try:
        free = shutil.disk_usage(out).free
    except OSError:
        return None  # the write itself will tell
    if free >= least_mb * MEGABYTE:
        return None
    cause = f"only {free / MEGABYTE:.0f} MB free, waiting for {least_mb:g} MB"
    return OutputError(out, cause, "make room", ErrorCode.DISK_FULL)
