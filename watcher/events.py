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
    latency : float
        s from the close of the file to its corrected file.
    queued : int
        Files found and not yet taken; with "backlog", the files, if they are many, that were there at the
        start and are to be corrected.
    waiting : int
        With "waiting", which comes when it changes: files of the folder that wait for a partner.
    outcome : Outcome or None
        With "done": stages' times and what is known of each plane.
    folder : Path or None
        The acquisition folder.
    """

    kind: str
    relative: str = ""
    text: str = ""
    latency: float = 0.0
    queued: int = 0
    waiting: int = 0
    code: ErrorCode | None = None
    outcome: Outcome | None = None
    folder: Path | None = None
