"""Commit: the moment an output becomes visible. Temporary in the same folder, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import DefocusError, ErrorCode, InputError, OutputError, is_full, shortage_error
from .folders import check_inside, make_folders
from .walk import walk

PREFIX, SUFFIX = ".defocus-", ".part"
_SYSTEM = os.name
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_TOKEN = uuid.uuid4().hex[:8]  # of this process
_OWNER = re.compile(r"([0-9a-f]{8})-(\d+)-([0-9a-f]{8})-[0-9a-f]{12}\.part$")
_ABANDONED = 86400.0  # s since the last write of a temporary of another machine
_HELD = 2.0  # s that another program may hold a file on Windows
# What shares and file systems say that cannot flush a folder: the rename is done, there is no more to be had.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def temporary_of(target: Path, run: str = "") -> Path:
    """A path beside `target` that nobody has, for what is to become `target`."""
    owner = f"{_HOST}-{os.getpid()}-{_TOKEN}"
    return target.with_name(f"{PREFIX}{run}{owner}-{uuid.uuid4().hex[:12]}{SUFFIX}")


def rights_to_write(mode: int) -> int:
    """Permissions of an output while it is written: those of its input, and that its owner may write it."""
    return 0o666 & mode | 0o200


def rights_at_the_end(path: str | os.PathLike[str], mode: int) -> None:
    """Take that back where the input's owner may not; on Windows it stays, as such a file could not be replaced.

    Raises OSError.
    """
    if os.name == "posix" and not mode & 0o200:
        os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) & ~0o200)


@contextmanager
def commit(
    target: Path,
    run: str = "",
    like: Path | None = None,
    begun: Path | None = None,
    within: Path | None = None,
) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on leaving without an error it becomes `target` at once.

    `begun` is such a path, by `temporary_of`, at which a file has been begun.
    What is made there may be a file or a folder. A folder that takes the place of another one does so in two renames.

    Folders that are missing are made, with no more rights than `like` and those above it have. No link leads it out of
    `within`, if that is given.

    A reader of the folder sees the old file or the new one, never a part (promises P2, P3).
    After an exception the temporary is removed and `target` is as it was. After a kill it stays: `run` stands in its
    name, for `sweep`.

    Raises
    ------
    OutputError
        The folder cannot be written, or the disk is full.
    InputError
        A link would lead it out of `within`.
    """
    target = Path(target)
    temporary = begun or temporary_of(target, run)
    try:
        if within is not None:
            check_inside(within, target)
        make_folders(target.parent, target.parent if like is None else like)
        yield temporary
        if within is not None:  # somebody may have put a link there meanwhile
            check_inside(within, target)
        _sync(temporary)
        _replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        # Not every OSError here is ours: whatever was raised inside the block about another file passes through.
        about = target if error.filename is None else Path(os.fsdecode(error.filename))
        if about.parent != target.parent and about not in target.parents:
            raise
        raise output_error(target, error) from error
    finally:
        _remove(temporary)


def make_private(folder: Path) -> None:
    """Make a folder for this user's eyes alone, or take it as it is if it is ours. Raises OSError.

    A link in its place is not followed: whoever planted it would choose what is overwritten.
    """
    if folder.is_symlink():
        raise OSError(errno.EEXIST, "is a link, which is not followed: remove it", str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # a share may have no modes, or the folder another owner
        folder.chmod(0o700)


def output_error(target: Path, error: OSError) -> DefocusError:
    """The one line a user needs for an operating system error met while writing `target`.

    An OutputError, but for a path that is too long: that is the input's own, and waiting does not help.
    """
    elsewhere = "choose another output folder with -o"
    # numpy.tofile swallows the errno of a write that ended short: "200000 requested and 130712 written".
    if lack := shortage_error(target, "for writing it", error, OutputError):
        return lack
    short = error.errno is None and "requested and" in str(error)
    if short or is_full(error):
        return OutputError(target, "the disk is full", f"free some space or {elsewhere}", ErrorCode.DISK_FULL)
    if error.errno == errno.ENAMETOOLONG:
        return InputError(target, "its output's path is too long", "give shorter names, or a shorter folder with -o")
    if error.errno == errno.EROFS:
        remedy = f"check the disk and mount it for writing, or {elsewhere}"
        return OutputError(target, "the disk is read-only", remedy, ErrorCode.PERMISSION)
    if error.errno in (errno.EACCES, errno.EPERM):
        return OutputError(
            target, "no permission to write", f"give this user write permission or {elsewhere}", ErrorCode.PERMISSION
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return OutputError(target, "a file is in the place of a folder", f"remove it or {elsewhere}")
    return OutputError(target, f"cannot be written ({error.strerror or error})", f"check the disk or {elsewhere}")


def sweep(folder: Path, run: str = "", deep: bool = True) -> list[Path]:
    """Remove temporaries that a killed process left in a folder, and below it if `deep`; return those removed.

    Those of a process that lives stay; of one on another machine, which cannot be asked, those of the last day. With
    `run` all that were written for it are removed, and only they.
    """
    removed = []
    for parent, folders, names in walk(folder):  # passes over what cannot be listed
        for name in (*names, *folders):
            if name.startswith(PREFIX + run) and name.endswith(SUFFIX):
                path = parent / name
                with suppress(OSError):
                    if run or not _owner_lives(path):
                        _remove(path)
                        removed.append(path)
        folders[:] = [name for name in folders if deep and not name.startswith(PREFIX)]
    return removed


def _owner_lives(temporary: Path) -> bool:
    """Whether the process that writes a temporary may still be at it."""
    owner = _OWNER.search(temporary.name)
    if owner is None:  # not of this version's making
        return False
    host, pid, token = owner[1], int(owner[2]), owner[3]
    if host != _HOST:
        return time.time() - temporary.stat().st_mtime < _ABANDONED
    if pid == os.getpid():
        return token == _TOKEN  # in a container, every process may have this number
    return _is_running(pid)


def _is_running(pid: int) -> bool:
    if os.name == "nt":
        import ctypes

        kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]
        handle = kernel.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        if not handle:
            return False
        code = ctypes.c_ulong()
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return code.value == 259  # STILL_ACTIVE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _replace(source: Path, target: Path) -> None:
    """Rename; on Windows again for a while if a viewer or a virus scanner has the file open.

    A folder that is in the way is renamed itself, and removed when it has been replaced.
    """
    if target.is_dir() and source.is_dir():
        old = temporary_of(target)
        os.replace(target, old)
        os.replace(source, target)
        _remove(old)
        return
    end = time.monotonic() + (_HELD if _SYSTEM == "nt" else 0.0)
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)


def _remove(path: Path) -> None:
    """Remove a file or a folder, as far as it can be."""
    if os.path.isdir(path) and not os.path.islink(path):  # they raise nothing, also on a share that is away
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _sync(path: Path) -> None:
    """Flush a file, or all that a folder holds."""
    if not path.is_dir():
        _sync_file(path)
        return
    for parent, _, names in walk(path):
        for name in names:
            _sync_file(parent / name)
        _sync_folder(parent)


def _sync_file(path: Path) -> None:
    # Windows can only flush a handle that is open for writing; elsewhere the file may be one that nobody writes again.
    with open(path, "rb+" if os.name == "nt" else "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows has no handle on a folder to flush; NTFS journals the rename itself.
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)
