"""The inputs of a command: files, folders and globs become the files that are meant by them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import ErrorCode, InputError, shortage_error
from ..files.walk import walk
from ..formats.names import is_store, readable
from ..formats.other_formats import other_formats

SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".tf2", ".stk", ".lsm")  # what a folder is searched for, in either case


def files_of(text: str, out: Path) -> Iterator[tuple[Path, Path]]:
    """The files of one input, each with its path relative to the output folder `out`, which must not lie in it.

    Raises InputError where there are none, or the input cannot be searched.
    """
    path = Path(text)
    if path.is_dir() and not is_store(path):
        yield from _folder(path, out)
    elif os.path.lexists(path):
        yield path, Path(path.name)
    elif glob.has_magic(text):
        yield from _glob(text, out)
    else:
        raise InputError(text, "no such file or folder", "check the path", ErrorCode.MISSING)


def _folder(folder: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    _refuse_inside(folder, out)
    any_file = False
    for root, folders, names in walk(folder, _unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        stores = [name for name in folders if is_store(Path(name))]
        folders[:] = [name for name in folders if name not in stores]
        for name in sorted([*names, *stores]):
            if (name.lower().endswith(SUFFIXES) or readable(name)) and not name.startswith("."):
                any_file = True
                path = root / name
                yield path, path.relative_to(folder)
    if not any_file:
        if (line := other_formats(folder)) is not None:
            cause, remedy = line.removeprefix(f"{folder}: ").split("; ", 1)
            raise InputError(folder, cause, remedy, ErrorCode.NOT_TIFF)
        raise InputError(folder, f"holds no file that ends in {', '.join(SUFFIXES)}", "give a folder with TIFF files")


def _glob(pattern: str, out: Path) -> Iterator[tuple[Path, Path]]:
    parts = Path(pattern).parts
    magic = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:magic])
    if "**" in parts:
        _refuse_inside(root, out)
    paths = sorted(Path(match) for match in glob.glob(pattern, recursive=True))
    files = [path for path in paths if path.is_file() or is_store(path)]
    if not files:
        raise InputError(pattern, "matches no file", "check the pattern, and put it in quotes")
    yield from ((path, path.relative_to(root)) for path in files)


def _refuse_inside(folder: Path, out: Path) -> None:
    inside, outside = out.resolve(), folder.resolve()
    if outside == inside:
        raise InputError(out, "is the input folder itself", "choose an output folder outside it with -o")
    if outside in inside.parents:
        raise InputError(out, f"lies inside the input folder {folder}", "choose an output folder outside it with -o")


def _unreadable(error: OSError) -> None:
    unreadable = InputError(error.filename, f"cannot be searched ({error.strerror})", "check its permissions")
    raise shortage_error(error.filename, "for searching it", error) or unreadable from error
