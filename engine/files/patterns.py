"""Which files a user means: --include and --exclude, the same in every command."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import PurePath


def is_wanted(relative: PurePath, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> bool:
    """Whether a path below a folder, or its name, is like one of `include`, if there are any, and none of `exclude`.

    Patterns are the shell's: `*_w1*`, `plate2/*`.
    """
    names = (relative.as_posix(), relative.name)
    if include and not any(fnmatch(name, pattern) for name in names for pattern in include):
        return False
    return not any(fnmatch(name, pattern) for name in names for pattern in exclude)
