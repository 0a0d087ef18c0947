"""Versions: which content of a path is meant (promise P6).

Identity is relative path, size, modification time and a hash of head and tail. Never the order of times: files that
are copied with old times count as any other.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from .walk import walk

SAMPLE = 64 * 1024  # bytes of head and of tail that are hashed


class NotRegularError(OSError):
    """A pipe, a device or a socket under the name of a file."""


@contextmanager
def open_regular(path: str | os.PathLike[str], follow: bool = True) -> Iterator[BinaryIO]:
    """Open a file for reading, once, and only if it is one: a pipe or a device under its name is never waited for.

    Raises
    ------
    OSError
        It cannot be opened; IsADirectoryError for a folder, NotRegularError for what is neither, and for a link unless
        links are to be followed.
    """
    if not follow and os.path.islink(path):
        raise NotRegularError(errno.ELOOP, "a link, which is not followed", os.fspath(path))
    with open(path, "rb", opener=partial(_opened, follow=follow)) as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(mode):
            raise NotRegularError(errno.EINVAL, "not a regular file", os.fspath(path))
        yield file


def _opened(path: str, flags: int, follow: bool) -> int:
    no_follow = 0 if follow else getattr(os, "O_NOFOLLOW", 0)
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | no_follow)


def read_own(path: Path, most: int) -> bytes:
    """The content of a small file that we wrote. Raises OSError: for a link, a pipe and a larger file, too."""
    with open_regular(path, follow=False) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), os.fspath(path))
    return content


def folder_version(folder: Path) -> tuple[int, int]:
    """Bytes of all files below a folder, and the latest modification time there, ns. Raises OSError."""
    stats = [os.stat(folder)]
    for parent, folders, names in walk(folder, _raise):
        stats += [os.stat(parent / name) for name in (*folders, *names)]
    sizes = (status.st_size for status in stats if stat.S_ISREG(status.st_mode))
    return sum(sizes), max(status.st_mtime_ns for status in stats)


def _raise(error: OSError) -> None:
    raise error


def digest(path: Path) -> str:
    """Hash of the first and last 64 KiB and of the size of a file, hexadecimal; of a folder, of its files' versions.

    Raises OSError.
    """
    if path.is_dir():
        files = (parent / name for parent, _, names in walk(path, _raise) for name in names)
        listed = sorted((os.fspath(file), os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files)
        return hashlib.sha256(os.fsencode(repr(listed))).hexdigest()[:32]
    with open_regular(path) as file:
        return digest_of(file)


def digest_of(file: BinaryIO) -> str:
    """The same of an open file. Raises OSError."""
    size = os.fstat(file.fileno()).st_size
    hasher = hashlib.sha256(str(size).encode())
    file.seek(0)
    hasher.update(file.read(SAMPLE))
    if size > SAMPLE:
        file.seek(max(SAMPLE, size - SAMPLE))
        hasher.update(file.read(SAMPLE))
    return hasher.hexdigest()[:32]
