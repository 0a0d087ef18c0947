"""One daemon per output folder (promise P13): a lock that the system frees when its process ends, however it ends."""

from __future__ import annotations

import errno
import json
import os
import platform
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from ...engine.errors import DefocusError, InputError, OutputError
from ...engine.files.atomic import make_private, output_error
from ...engine.files.folders import make_folders
from ...engine.files.version import read_own
from ..journal import FOLDER

LOCK, WHO = "daemon.lock", "daemon.json"
_LARGEST = 4096  # bytes of daemon.json


class FolderLock:
    """Holds an output folder; a context manager.

    Raises
    ------
    InputError
        Another defocus-watch holds it; the message says which process, on which machine, since when.
    OutputError
        The folder cannot be written.
    """

    def __init__(self, out: Path, like: Path | None = None) -> None:
        """`like`: the folder whose rights it gets where it has to be made."""
        self._out, self._folder = Path(out), Path(out) / FOLDER
        self._lock = FileLock(self._folder / LOCK, timeout=0, thread_local=False)
        self._like = self._out if like is None else like
        self._device: int | None = None

    def __enter__(self) -> FolderLock:
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def why_lost(self) -> OutputError | None:
        """Why this process does not hold the folder any more; None if it does.

        A folder that was removed, or whose daemon.json is gone or no file of ours, is taken again where that can be
        done.
        """
        holder = _holder(self._folder)
        if holder is not None:
            if (holder.pid, holder.host) == (os.getpid(), platform.node()):
                return None
            return OutputError(self._out, f"another defocus-watch writes there now ({holder})", "stop one of the two")
        if _is_unreadable(self._folder / WHO):
            return None  # the write itself will tell
        if _device(self._out) != self._device:  # an unmounted share leaves an empty folder
            return OutputError(self._out, "the output folder is gone", "restore it, or start defocus-watch again")
        try:
            self._lock.release()
            self._take()
        except DefocusError as error:
            return OutputError(self._out, error.cause, error.remedy, error.code)
        return None

    def _take(self) -> None:
        try:
            make_folders(self._out, self._like)
            make_private(self._folder)
            if (self._folder / LOCK).is_symlink():
                (self._folder / LOCK).unlink()  # it would be opened, and cut, elsewhere
            self._lock.acquire()
            holder = _Holder(os.getpid(), platform.node(), datetime.now(UTC).isoformat("T", "seconds"))
            written = self._folder / f"{WHO}.{os.getpid()}"
            written.unlink(missing_ok=True)
            with open(written, "x", encoding="utf-8") as file:
                file.write(json.dumps(holder._asdict()))
            os.replace(written, self._folder / WHO)
            self._device = _device(self._out)
        except Timeout as error:
            who = _holder(self._folder) or "process unknown"
            remedy = "stop it first, or choose another folder with -o"
            raise InputError(self._out, f"another defocus-watch writes there ({who})", remedy) from error
        except OSError as error:
            self._lock.release()
            raise output_error(self._folder, error) from error


class _Holder(NamedTuple):
    """The process that holds a folder."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def _holder(folder: Path) -> _Holder | None:
    """Whoever took the folder last; None if that cannot be told."""
    try:
        return _Holder(**json.loads(read_own(folder / WHO, _LARGEST)))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _is_unreadable(path: Path) -> bool:
    """Whether there may be a file of ours that cannot be read just now."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False
        read_own(path, _LARGEST)
        return False
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno != errno.EFBIG


def _device(out: Path) -> int | None:
    """The file system that a folder lies on, or would if it was made again; None if that cannot be told."""
    for folder in (out, *out.absolute().parents):
        try:
            return os.stat(folder).st_dev
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None
