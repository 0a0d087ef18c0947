"""Pictures of files before and after, for the page: made one at a time, and the last ones kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from ...engine.errors import InputError
from ...engine.formats.preview import SIDE, previews
from ...engine.tiff.integrity import errors_as_input_error

_CACHED = 32  # pairs, a megabyte each at most
_PATIENCE = 8.0  # s to wait for somebody else's pair


class Previews:
    """Makes pairs one at a time and keeps the last ones."""

    def __init__(self) -> None:
        self._pairs: OrderedDict[tuple[Path, int, int, int], tuple[bytes, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def pair(self, before: Path, after: Path, side: int = SIDE) -> tuple[bytes, bytes]:
        """PNGs of the middle plane of both files, as `previews` makes them."""
        with errors_as_input_error(after):
            status = after.stat()
        key = (after, status.st_size, status.st_mtime_ns, side)
        if not self._lock.acquire(timeout=_PATIENCE):
            raise InputError(after, "has to wait for other previews", "look again in a moment")
        try:
            if key not in self._pairs:
                self._pairs[key] = previews(before, after, side)
            self._pairs.move_to_end(key)
            while len(self._pairs) > _CACHED:
                self._pairs.popitem(last=False)
            return self._pairs[key]
        finally:
            self._lock.release()
