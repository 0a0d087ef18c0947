"""Arrays that lie on disk, for images too large to be held in memory.

The system keeps in memory what is in use and may take the rest back at any time. An array lies in a nameless file of
its own, which goes with its last user, or it is a map of an input or of an output that is being made.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import tempfile
import weakref
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..errors import ChangedError, ErrorCode, InputError, OutputError
from ..files.atomic import output_error
from ..files.folders import make_folders

_CHUNK = 1 << 24  # bytes
_LARGE = 1 << 20  # bytes of a file for which it is worth the while to have room set aside
_SMALL_PLANE = 1 << 20  # px; a plane that may be worked on beside others
_LOCAL = {"ext2", "ext3", "ext4", "xfs", "f2fs", "jfs", "zfs", "tmpfs", "overlay"}
_MOUNTS = Path("/proc/self/mountinfo")


class _Mapped(NamedTuple):
    """What lies behind a map: nothing with a name, an output, or an input with its descriptor and its version."""

    path: Path | None = None
    descriptor: int | None = None
    version: tuple[int, int] = (0, 0)  # size in bytes and modification time in ns


_ours: weakref.WeakKeyDictionary[mmap.mmap, _Mapped] = weakref.WeakKeyDictionary()  # the maps made here


class Allocator:
    """Makes arrays, of any numbers: in memory."""

    def __call__(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return np.empty(shape, dtype)

    def maps(self, file: BinaryIO, nbytes: int) -> bool:
        """Whether an open input is to be mapped, not read."""
        return False

    def check(self, nbytes: int, output: int = 0) -> None:
        """Raise InputError or OutputError if so many bytes in all can never, or not now, be placed.

        `output` are those of the output alone, which goes to the disk in any case.
        """


in_memory = Allocator()


class DiskAllocator(Allocator):
    """The place for what is too large: images of more than `room` bytes lie on the disk of `folder`; 0: none does."""

    def __init__(self, folder: Path, room: int, like: Path | None = None, map_inputs: bool = True) -> None:
        self._folder, self._room, self._like = folder, room, folder if like is None else like
        self._map_inputs = map_inputs

    def __call__(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array on disk if it is too large for memory. Raises OutputError if the disk has no room."""
        if not self._room or prod(shape) * np.dtype(dtype).itemsize <= self._room:
            return np.empty(shape, dtype)
        try:
            make_folders(self._folder, self._like)
            return on_disk(self._folder, shape, dtype)
        except OSError as error:
            raise output_error(self._folder, error) from error

    def maps(self, file: BinaryIO, nbytes: int) -> bool:
        """Large inputs on a disk of this machine are mapped; those on a share, which may go at any time, are copied."""
        return self._map_inputs and 0 < self._room < nbytes and is_local(file.fileno())

    def check(self, nbytes: int, output: int = 0) -> None:
        """Look at the disk before anything is begun on it."""
        scratch = nbytes if self._room and nbytes > self._room else 0
        needed, subject = max(scratch, output), "pixels take" if scratch > output else "output takes"
        folders = (self._folder, *self._folder.absolute().parents)
        try:
            disk = shutil.disk_usage(next(folder for folder in folders if _is_there(folder)))
        except OSError:
            return  # the write itself will tell
        elsewhere = "choose another output folder with -o"
        if needed > disk.total:
            cause = f"the {subject} {_size(needed)} of the output's disk, which has {_size(disk.total)}"
            raise InputError(self._folder, cause, elsewhere, ErrorCode.UNSUPPORTED)
        if needed > disk.free:
            cause = f"the disk is full: the {subject} {_size(needed)}, {_size(disk.free)} are free"
            raise OutputError(self._folder, cause, f"free some space or {elsewhere}", ErrorCode.DISK_FULL)


def _is_there(folder: Path) -> bool:
    """Raises OSError where that cannot be told, as on a share that is away: what lies above is another disk."""
    try:
        os.stat(folder)
    except FileNotFoundError:
        return False
    return True


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.3g} MB"


def on_disk(folder: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
    """An array of any numbers whose bytes lie in a nameless file in `folder`, freed with its last reference.

    Raises
    ------
    OSError
        The folder cannot be written, or its disk has no room: now, not when a page is first touched, which would end
        the process.
    """
    nbytes = max(1, prod(shape) * np.dtype(dtype).itemsize)
    with tempfile.TemporaryFile(dir=folder) as file:
        _reserve(file, nbytes)
        array = np.memmap(file, dtype, mode="r+", shape=shape)
    _ours[_raw(array)] = _Mapped()
    return array


def map_input(file: BinaryIO, path: Path, nbytes: int) -> np.ndarray:
    """The first bytes of an open file, read-only, without a copy; `check_unchanged` asks later whether they still are.

    A page that is no longer there when it is touched ends the process. So whoever goes through such an array calls
    `drop_resident_pages` or `check_length` between its parts, which look at the length of the file before the next one.
    """
    array = np.memmap(file, np.uint8, mode="r", shape=(nbytes,))
    descriptor = os.dup(file.fileno())
    _ours[_raw(array)] = _Mapped(path, descriptor, _version(descriptor))
    weakref.finalize(_raw(array), os.close, descriptor)
    return array.view(np.ndarray)


def map_output(path: Path, nbytes: int, mode: int) -> np.ndarray:
    """The bytes of a new file with these permissions; its disk has room for them. Raises OSError."""
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode), "r+b") as file:
        _reserve(file, nbytes)
        array = np.memmap(file, np.uint8, mode="r+", shape=(nbytes,))
    _ours[_raw(array)] = _Mapped(path)
    return array.view(np.ndarray)


def lies_in(array: np.ndarray, path: Path) -> bool:
    """Whether an array is part of what `map_output` made under a path."""
    mapped = _map(array)
    return mapped is not None and _ours[mapped].path == path


def is_disk_backed(array: np.ndarray) -> bool:
    """Whether an array, or what it is a view of, is one of those above."""
    return _map(array) is not None


def may_shrink(array: np.ndarray) -> bool:
    """Whether an array is part of a mapped input: it is gone through part by part, with `check_length` between."""
    mapped = _map(array)
    return mapped is not None and _ours[mapped].descriptor is not None


def one_by_one(array: np.ndarray, pixels: int) -> bool:
    """Whether planes of so many pixels of an array are worked on in turn, not on all cores at once.

    Several large ones take too much memory at a time, and a map that is cut short while it is touched ends the process.
    """
    return pixels > _SMALL_PLANE or may_shrink(array)


def check_unchanged(array: np.ndarray) -> None:
    """Raise ChangedError if an array is part of a mapped input that is no longer the version that was mapped."""
    mapped = _map(array)
    behind = _ours[mapped] if mapped is not None else _Mapped()
    if behind.descriptor is not None and _version(behind.descriptor) != behind.version:
        raise ChangedError(behind.path, "changed while it was corrected", "try again when it is complete")


def drop_resident_pages(*arrays: np.ndarray) -> None:
    """Take the pages of arrays that were made here out of this process; their contents stay.

    Does nothing to other arrays: a caller's own map may be private (copy on write) and would lose what was written.
    Raises ChangedError as `check_length` does.
    """
    check_length(*arrays)
    for array in arrays:
        mapped = _map(array)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):  # Windows trims by itself
            mapped.madvise(mmap.MADV_DONTNEED)


def check_length(*arrays: np.ndarray) -> None:
    """Raise ChangedError if an array is part of a mapped input that has become shorter: it must not be touched."""
    for array in arrays:
        mapped = _map(array)
        if mapped is not None and (behind := _ours[mapped]).descriptor is not None and mapped.size() < len(mapped):
            raise ChangedError(behind.path, "became shorter while it was corrected", "try again when it is complete")


def _version(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def _raw(array: np.memmap) -> mmap.mmap:
    return array._mmap  # type: ignore[attr-defined]


def _map(array: np.ndarray) -> mmap.mmap | None:
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    return base if base is not None and base in _ours else None


def _reserve(file: BinaryIO, nbytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, nbytes)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    zeros = bytes(_CHUNK)
    for start in range(0, nbytes, _CHUNK):
        file.write(zeros[: min(_CHUNK, nbytes - start)])
    file.flush()


def reserve(file: BinaryIO, nbytes: int) -> None:
    """Have the file system set room aside for a large file that is to be written, where it does that at once.

    To write it takes less then, and a full disk says so before. Raises OSError where there is no room.
    """
    if nbytes < _LARGE or (function := _fallocate()) is None:
        return
    if function(file.fileno(), 0, 0, nbytes) and ctypes.get_errno() in (errno.ENOSPC, errno.EDQUOT):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@cache
def _fallocate() -> Any:
    """Linux's own: posix_fallocate writes into every block where a file system, such as a share's, cannot do it."""
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate
    except (AttributeError, OSError, TypeError):  # another system
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return function if ctypes.sizeof(ctypes.c_long) == 8 else None


def is_local(descriptor: int) -> bool:
    """Whether a file lies on a disk of this machine, not on a share or a stick that may go while it is in use.

    False where that is not known: on other systems than Linux, and of file systems not named here.
    """
    device = os.fstat(descriptor).st_dev
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for fields in map(str.split, lines):  # 36 35 98:0 /root /mount options shared:1 - ext4 /dev/sda1 options
        if len(fields) > 2 and fields[2] == wanted and "-" in fields:
            return fields[fields.index("-") + 1] in _LOCAL
    return False
