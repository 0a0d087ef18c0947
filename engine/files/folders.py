"""Folders for outputs, with no more rights than the folders of their inputs have; and the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InputError


def make_folders(folder: Path, like: Path) -> None:
    """Create a folder and what is missing above it. Each gets the rights of `like`, or of what stands above that.

    Raises OSError as `Path.mkdir` does.
    """
    if folder.is_dir():
        return
    if not folder.parent.exists():
        make_folders(folder.parent, like.parent if like.name == folder.name else like)
    try:
        rights = os.stat(like).st_mode & 0o777
    except OSError:
        rights = 0o777
    folder.mkdir(mode=rights | 0o700, exist_ok=True)


def user_cache(name: str) -> Path:
    """A folder in the user's cache folder of this system, or in DEFOCUS_CACHE if that is set; it may not be there."""
    if chosen := os.environ.get("DEFOCUS_CACHE"):
        return Path(chosen) / name
    from platformdirs import user_cache_path

    return user_cache_path("defocus", appauthor=False) / name


def check_inside(out: Path, target: Path) -> None:
    """Raise InputError if a link below the output folder `out` would lead an output out of it."""
    root, parent = Path(os.path.realpath(out)), Path(os.path.realpath(target.parent))  # Path.resolve raises for circles
    if parent != root and root not in parent.parents:
        cause = f"its output would go through a link to {parent}"
        raise InputError(target, cause, "remove the link from the output folder")
