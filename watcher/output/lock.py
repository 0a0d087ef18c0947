"""One daemon per output folder (promise P13): a lock that the system frees when its process ends, however it ends."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from filelock import FileLock, Timeout

from ...engine.errors import InputError, OutputError
from ...engine.files.atomic import output_error
from ..journal import FOLDER

LOCK, WHO = "daemon.lock", "daemon.json"


class FolderLock:
    """Holds an output folder; a context manager.

    Raises
    ------
    InputError
        Another defocus-watch holds it; the message says which process, on which machine, since when.
    OutputError
        The folder cannot be written.
    """

    def __init__(self, out: Path) -> None:
        self._out = Path(out)
        self._lock = FileLock(self._out / FOLDER / LOCK, timeout=0)

    def __enter__(self) -> FolderLock:
        folder = self._out / FOLDER
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            who = _Who(os.getpid(), platform.node(), datetime.now(UTC).isoformat("T", "seconds"))
            (folder / WHO).write_text(json.dumps(who._asdict()), encoding="utf-8")
        except Timeout as error:
            who = _who(folder) or "which one cannot be told"
            remedy = "stop it first, or choose another folder with -o"
            raise InputError(self._out, f"another defocus-watch writes there ({who})", remedy) from error
        except OSError as error:
            self._lock.release()
            raise output_error(folder, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


def why_not_ours(out: Path) -> OutputError | None:
    """Why this process does not hold an output folder that it took at its start; None if it does."""
    folder = out / FOLDER
    if not (folder / WHO).exists():  # an unmounted share leaves an empty folder
        return OutputError(out, "the output folder has gone", "bring it back or start defocus-watch again")
    who = _who(folder)
    if who is None or (who.pid, who.host) == (os.getpid(), platform.node()):
        return None  # where it cannot be read the write itself will tell
    return OutputError(out, f"another defocus-watch writes there now ({who})", "stop one of the two")


class _Who(NamedTuple):
    """The process that holds a folder."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def _who(folder: Path) -> _Who | None:
    """Whoever took the folder last; None if that cannot be told."""
    try:
        return _Who(**json.loads((folder / WHO).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
