"""What happened in a watched folder, for whoever shows, counts or tells it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..engine.errors import ErrorCode
from ..engine.pipeline.jobs import Outcome


@dataclass(frozen=True)
class WatchEvent:
    """Something that happened, for whoever shows it.

    Attributes
    ----------
    kind : "done", "skipped", "retry", "quarantined", "paused", "waiting", "backlog" or "warning"
    relative : str
        The file concerned, below the acquisition folder.
    text : str
        The reason, in a line.
    code : ErrorCode or None
        The reason for programs, with "retry", "quarantined" and where a file or its output is at fault.
    latency : float or None
        s from the close of the file to its corrected file; None for a file of the backlog, or one that was corrected
        before and came along with its partner: nobody knows when it came, or how long ago that is tells nothing.
    queued : int
        Files found and not yet taken.
    left : int or None
        Files of the folder's backlog, which were there at the start, that are still to be corrected; None with what is
        about none of them. "backlog" tells of them at the start, if they are many.
    forecast : float or None
        With "backlog": about how long these files will take, s, if that could be told.
    waiting : int
        With "waiting", which comes when it or `left` changes: files of the folder that wait for a partner.
    outcome : Outcome or None
        With "done": stages' times and what is known of each plane.
    folder : Path or None
        The acquisition folder.
    """

    kind: str
    relative: str = ""
    text: str = ""
    latency: float | None = None
    queued: int = 0
    left: int | None = None
    forecast: float | None = None
    waiting: int = 0
    code: ErrorCode | None = None
    outcome: Outcome | None = None
    folder: Path | None = None
