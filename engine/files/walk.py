"""Walking a tree of folders without recursion: trees may be deeper than Python's limit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def walk(
    folder: Path, on_error: Callable[[OSError], None] = lambda error: None
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield (folder, names of its subfolders, names of its files) for a folder and those below it, as os.walk does.

    The list of subfolders may be changed to say which are entered, and in which order. Links to folders are not
    entered. `on_error` is told of a folder that cannot be listed.
    """
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        folders: list[str] = []
        files: list[str] = []
        links: set[str] = set()
        try:
            with os.scandir(current) as entries:
                for entry in entries:
                    (folders if _is_folder(entry) else files).append(entry.name)
                    if entry.is_symlink():
                        links.add(entry.name)
        except OSError as error:
            on_error(error)
            continue
        yield current, folders, files
        waiting += [current / name for name in reversed(folders) if name not in links]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # file systems that do not say so in the listing are asked, and may fail
        return False
