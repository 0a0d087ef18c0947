"""Room on the disk (promise P9): before a file is written, not after the write has failed."""

from __future__ import annotations

import shutil
from pathlib import Path

MEGABYTE = 10**6


def missing_room(out: Path, least_mb: float) -> str | None:
    """Why nothing should be written to the disk of `out` now, in a line; None if more than `least_mb` MB are free."""
    if least_mb <= 0:
        return None
    try:
        free = shutil.disk_usage(out).free
    except OSError:
        return None  # the write itself will tell
    if free >= least_mb * MEGABYTE:
        return None
    return f"{out}: only {free / MEGABYTE:.0f} MB free, waiting for {least_mb:g} MB; make room"
