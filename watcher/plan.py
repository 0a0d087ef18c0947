"""What the daemon would do with what lies in a folder now (`--dry-run`); nothing is made or changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..engine.batch import is_done
from ..engine.card import Card
from ..engine.errors import DefocusError, InputError
from ..engine.jobs import Job
from ..engine.pipeline import stat_of
from ..engine.tiff_structure import check_whole
from .arrivals import scan
from .settings import WatchSettings


def plan(settings: WatchSettings, card: Card) -> Iterator[tuple[Path, str]]:
    """Each TIFF below the folder, by path, and what would become of it: "correct", "done", "left alone" or why not.

    Raises
    ------
    InputError
        The folder cannot be read.
    """
    folder = settings.acquisition
    try:
        found = sorted(scan(folder))
    except OSError as error:
        raise InputError(folder, f"cannot be read ({error.strerror})", "check the path") from error
    for path in found:
        relative = path.relative_to(folder)
        try:
            stat = stat_of(path)
            if not settings.wants(relative, stat[1]):
                yield relative, "left alone"
            elif is_done(Job(path, settings.out / relative, stat), card):
                yield relative, "done"
            else:
                check_whole(path)
                yield relative, "correct"
        except OSError:
            continue  # gone meanwhile
        except DefocusError as error:
            yield relative, f"set aside: {error}"
