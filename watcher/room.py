"""Whether the output folder can be written to (promises P8, P9): before a file is written, not after it has failed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .journal import FOLDER
from .owner import WHO

MEGABYTE = 10**6


def missing_room(out: Path, least_mb: float) -> str | None:
    """Why nothing should be written below `out` now, in a line; None if it is there and has `least_mb` MB free."""
    # This daemon wrote it at its start. An unmounted share leaves an empty folder, which must not be filled.
    if not os.path.exists(out / FOLDER / WHO):
        return f"{out}: the output folder has gone; bring it back or start defocus-watch again"
    if least_mb <= 0:
        return None
    try:
        free = shutil.disk_usage(out).free
    except OSError:
        return None  # the write itself will tell
    if free >= least_mb * MEGABYTE:
        return None
    return f"{out}: only {free / MEGABYTE:.0f} MB free, waiting for {least_mb:g} MB; make room"
