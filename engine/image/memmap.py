"""Scratch: arrays that lie on disk, for images too large to be held in memory.

The system keeps in memory what is in use and may take the rest back at any time. The file has no name, or goes with
its last user, so a killed process leaves nothing behind.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
import weakref
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import ErrorCode, InputError, OutputError
from ..files.atomic import output_error
from ..files.folders import make_folders

_CHUNK = 1 << 24  # bytes
_ours: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()  # the maps that `on_disk` made


class Allocator:
    """Where arrays go: in memory, where whoever asks makes one of its own."""

    def __call__(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
        """An array somewhere else, or None."""
        return None

    def check(self, nbytes: int) -> None:
        """Raise InputError or OutputError if so many bytes in all can never, or not now, be placed."""


in_memory = Allocator()


class DiskAllocator(Allocator):
    """The place for what is too large: images of more than `room` bytes lie on the disk of `folder`; 0: none does."""

    def __init__(self, folder: Path, room: int, like: Path | None = None) -> None:
        self._folder, self._room, self._like = folder, room, folder if like is None else like

    def __call__(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
        """An array on disk, or None for one that may be in memory. Raises OutputError if the disk has no room."""
        if not self._room or prod(shape) * np.dtype(dtype).itemsize <= self._room:
            return None
        try:
            make_folders(self._folder, self._like)
            return on_disk(self._folder, shape, dtype)
        except OSError as error:
            raise output_error(self._folder, error) from error

    def check(self, nbytes: int) -> None:
        """Look at the disk before anything is reserved on it."""
        if not self._room or nbytes <= self._room:
            return
        folder = next(folder for folder in (self._folder, *self._folder.absolute().parents) if folder.exists())
        disk = shutil.disk_usage(folder)
        need, elsewhere = f"{nbytes / 1e9:.1f} GB of the output's disk", "choose another output folder with -o"
        if nbytes > disk.total:
            cause = f"the pixels take {need}, which has {disk.total / 1e9:.1f} GB"
            raise InputError(self._folder, cause, elsewhere, ErrorCode.UNSUPPORTED)
        if nbytes > disk.free:
            free = f"{disk.free / 1e9:.1f} GB are free"
            remedy = f"free some space or {elsewhere}"
            raise OutputError(self._folder, f"the pixels take {need}, {free}", remedy, ErrorCode.DISK_FULL)


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
    _ours.add(array._mmap)  # type: ignore[attr-defined]
    return array


def is_disk_backed(array: np.ndarray) -> bool:
    """Whether an array, or what it is a view of, was made by `on_disk`."""
    return _map(array) is not None


def drop_resident_pages(*arrays: np.ndarray) -> None:
    """Take the pages of arrays that `on_disk` made out of this process; their contents stay.

    Does nothing to other arrays: a caller's own map may be private (copy on write) and would lose what was written.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):  # Windows trims by itself
        return
    for array in arrays:
        mapped = _map(array)
        if mapped is not None:
            mapped.madvise(mmap.MADV_DONTNEED)


def _map(array: np.ndarray) -> mmap.mmap | None:
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    return base if base in _ours else None


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
