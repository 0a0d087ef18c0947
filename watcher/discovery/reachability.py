"""Whether an acquisition folder was away when a file could not be read: then the file is not to blame."""

from __future__ import annotations

import os
from pathlib import Path

from ...engine.errors import DefocusError, InputError
from ..clock import SYSTEM_CLOCK, Clock

AFTERWARDS = 10.0  # s after it was last seen away in which what failed meanwhile may still be told of


class Reachability:
    """Of one folder. Its methods may be called from any thread."""

    def __init__(self, folder: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self._folder, self._clock = folder, clock
        self._until = 0.0  # monotonic

    def lost(self) -> None:
        """It cannot be reached now."""
        self._until = self._clock.monotonic() + AFTERWARDS

    def explains(self, error: DefocusError | None) -> bool:
        """Whether an input could not be read, and the folder is away, or was a moment ago."""
        if not isinstance(error, InputError):
            return False
        try:
            os.scandir(self._folder).close()
        except OSError:
            self.lost()
        return self._clock.monotonic() < self._until
