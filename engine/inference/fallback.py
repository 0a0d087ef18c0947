"""Giving way: when a backend runs out of memory or fails, what to try next (promise P11).

Out of memory: one tile at a time (one batch, one stream), then half the tile, down to the least that leaves a core.
Then, and for any other failure at once, the next backend, if it was left to us ("auto"). A backend the user named is
never replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..errors import BackendError, MissingExtraError, OutOfMemoryError
from ..image.tiling import smallest_tile
from .backends import AUTO, NAMES, OpenedSession
from .options import Settings


class Fallback:
    """What one engine may still try; it keeps a line of each step for the provenance of later outputs.

    Parameters
    ----------
    asked : str
        The backend that the user named, or "auto".
    reopen : callable
        Opens the model in the backend of a name.
    wanted : callable
        The settings for a session, as they were first asked for.
    multiple : int
        The model's.

    Attributes
    ----------
    steps : list of str
        What was given up and why, oldest first.
    """

    def __init__(
        self,
        asked: str,
        reopen: Callable[[str], OpenedSession],
        wanted: Callable[[OpenedSession], Settings],
        multiple: int,
    ) -> None:
        self._asked, self._reopen, self._wanted, self._multiple = asked, reopen, wanted, multiple
        self.steps: list[str] = []

    def smaller(self, settings: Settings, error: BackendError, pixels: int) -> Settings | None:
        """Settings that need less memory, or None if memory is not the trouble or they cannot be smaller.

        `pixels` are those of the largest tile that was tried.
        """
        if not isinstance(error, OutOfMemoryError):
            return None
        smallest, half = smallest_tile(settings.halo, self._multiple), max(pixels // 2, 1)
        if settings.tiles_in_flight > 1:
            less = replace(settings, batch=1, streams=1, max_pixels=min(settings.max_pixels, pixels))
        elif settings.tile is not None and settings.tile > smallest:
            less = replace(settings, tile=max(settings.tile // 2 // self._multiple * self._multiple, smallest))
        elif settings.tile is None and min(settings.max_pixels, pixels) > smallest**2:
            less = replace(settings, max_pixels=max(min(settings.max_pixels, half), smallest**2))
        else:
            return None
        tile = f"of {less.max_pixels / 1e6:.2g} megapixels" if less.tile is None else less.tile
        self.steps.append(f"{error.thing}: {error.cause}; went on with batch {less.batch}, tile {tile}")
        return less

    def next(self, current: str, error: BackendError) -> tuple[OpenedSession, Settings] | None:
        """The next backend that opens, with the settings first asked for; None if there is none or it is not ours."""
        if self._asked != AUTO or current not in NAMES:
            return None
        for name in NAMES[NAMES.index(current) + 1 :]:
            try:
                opened = self._reopen(name)
            except (BackendError, MissingExtraError):
                continue
            self.steps.append(f"{error.thing}: {error.cause}; went on with {opened.session.description}")
            return opened, self._wanted(opened)
        return None
