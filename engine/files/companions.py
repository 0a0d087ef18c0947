"""Companion files: what belongs to an acquisition beside its TIFFs, copied so that the output opens as a dataset, too.

Links are not followed: whoever made one would choose which file of the machine is copied.

A copy is ours if `OUT/.defocus/companions.json` knows its content. Somebody else's file is never replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from ..errors import InputError
from .atomic import commit, output_error
from .folders import check_inside
from .version import open_regular, read_own

COMPANIONS = ("*.companion.ome", "NDTiff.index", "*.nd", "*.HTD", "metadata.txt", "*_metadata.txt", "comments.txt")
COMPANIONS = (*COMPANIONS, "DisplaySettings.json", "display_and_comments.txt")  # what is copied unless the user says
_RECORD = Path(".defocus", "companions.json")
_LARGEST = 1 << 30  # bytes; what is larger is no companion


class Companions:
    """The companion files below one input folder. Used by one thread."""

    def __init__(self, folder: Path, out: Path, patterns: Iterable[str] = COMPANIONS) -> None:
        """`patterns` of file names, in either case; "none": nothing is copied."""
        self._folder, self._out = folder, out
        self._patterns = tuple(pattern.lower() for pattern in patterns if pattern.lower() not in ("", "none"))
        self._folders: set[Path] = set()
        self._known: dict[Path, tuple[int, int]] = {}

    def add(self, relative: Path) -> None:
        """A TIFF, by its path below the folder, has an output: its folder, and those above it, are looked into."""
        self._folders.update(relative.parents)

    def copy(self) -> Iterator[str]:
        """Copy what is new or has changed; says in a line what is not copied and why.

        Raises OutputError if the output cannot be written.
        """
        for parent in sorted(self._folders) if self._patterns else ():
            with suppress(OSError):  # of a folder that has gone
                entries = sorted(os.scandir(self._folder / parent), key=lambda entry: entry.name)
                for entry in entries:
                    if any(fnmatch(entry.name.lower(), pattern) for pattern in self._patterns):
                        yield from self._copy_one(parent / entry.name)

    def _copy_one(self, relative: Path) -> Iterator[str]:
        source, target = self._folder / relative, self._out / relative
        try:
            stat = os.lstat(source)
            version = stat.st_size, stat.st_mtime_ns
            if (self._known.get(relative) == version and os.path.lexists(target)) or stat.st_size > _LARGEST:
                return
            with open_regular(source, follow=False) as file:
                content = file.read(stat.st_size)
        except OSError:
            return  # it has gone, or is no file
        if len(content) != stat.st_size:
            return  # it is being written: the next look takes it
        if relative.name == "NDTiff.index" and _compressed(content):
            self._known[relative] = version
            yield f"{source}: not copied, as compressed planes may lie elsewhere in the corrected files"
            return
        content_hash = hashlib.sha256(content).hexdigest()
        record = self._record()
        try:
            check_inside(self._out, target)
            target_hash = hashlib.sha256(read_own(target, _LARGEST)).hexdigest() if os.path.lexists(target) else None
        except InputError as error:
            if self._known.get(relative) != version:
                self._known[relative] = version
                yield str(error)
            return
        except OSError:
            target_hash = ""
        if target_hash not in (None, content_hash, record.get(relative.as_posix())):
            if self._known.get(relative) != version:
                self._known[relative] = version
                yield f"{target}: not replaced by the one of the acquisition folder, as defocus did not make it"
            return
        if target_hash != content_hash:
            self._write(target, content, source, stat.st_mode)
            record[relative.as_posix()] = content_hash
            text = json.dumps(record, indent=1, sort_keys=True).encode()
            self._write(self._out / _RECORD, text, self._folder / "x", 0o666)
        self._known[relative] = version

    def _record(self) -> dict[str, str]:
        try:
            record = json.loads(read_own(self._out / _RECORD, _LARGEST))
        except (OSError, ValueError, RecursionError):
            return {}
        return record if isinstance(record, dict) else {}

    def _write(self, target: Path, content: bytes, source: Path, mode: int) -> None:
        try:
            with commit(target, like=source.parent, within=self._out) as temporary:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
                with open(os.open(temporary, flags, 0o666 & mode), "wb") as file:
                    file.write(content)
        except OSError as error:
            raise output_error(target, error) from error


def _compressed(index: bytes) -> bool:
    """Whether an NDTiff index tells of compressed planes, or cannot be read."""
    at = 0
    try:
        while at < len(index):
            for _ in range(2):  # axes and file name
                at += 4 + struct.unpack_from("<I", index, at)[0]
            if struct.unpack_from("<8I", index, at)[4]:
                return True
            at += 32
    except struct.error:
        return True
    return False


def copy_companions(pairs: Iterable[tuple[Path, Path]], out: Path, patterns: Iterable[str]) -> Iterator[str]:
    """Copy the companions of inputs whose outputs lie below `out`, by pairs of input and output; lines as `copy`.

    Raises OutputError if the output cannot be written.
    """
    by_root: dict[Path, Companions] = {}
    for source, target in pairs:
        relative = target.relative_to(out)
        root = source.parents[len(relative.parts) - 1]
        by_root.setdefault(root, Companions(root, out, patterns)).add(relative)
    for companions in by_root.values():
        yield from companions.copy()
