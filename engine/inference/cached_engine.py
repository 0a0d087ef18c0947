"""The engine that is kept from one call to the next."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from .engine import Engine

Key = TypeVar("Key", bound=Hashable)


class CachedEngine(Generic[Key]):
    """One open engine: the one that was asked for last. The one before is closed first, so the two never share memory.

    For one thread at a time, and until it is done with the engine: whoever has several holds a lock meanwhile.
    """

    def __init__(self, load: Callable[[Key], Engine]) -> None:
        self._load = load
        self._open: tuple[Key, Engine] | None = None

    def get(self, key: Key) -> Engine:
        """The engine of `key`. Raises what `load` raises; then none is kept."""
        if self._open is not None and self._open[0] != key:
            (_, before), self._open = self._open, None
            before.close()
        if self._open is None:
            self._open = key, self._load(key)
        return self._open[1]
