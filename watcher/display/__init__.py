"""Displays: events as lines for people or as JSON for machines."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from ..events import WatchEvent


class Display(Protocol):
    """Where events are shown. Its methods may be called from any thread."""

    def running(self) -> AbstractContextManager[None]:
        """Entered while folders are watched."""
        ...

    def show(self, event: WatchEvent) -> None:
        """Show something that happened to a file or a folder."""
        ...

    def end(self) -> None:
        """Called when watching has ended: show what it comes to, if that is worth a line."""
        ...

    def say(self, text: str) -> None:
        """Show a line that is about no file."""
        ...


def open_display(json: bool = False) -> Display:
    """The display that the settings ask for."""
    if json:
        from .json_log import JsonLog

        return JsonLog()
    from .console import Live

    return Live()
