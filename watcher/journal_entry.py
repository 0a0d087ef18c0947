"""What the journal knows of a file: an entry, the key of its path, and whether a row of the database makes sense."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..engine.errors import printable
from ..engine.pipeline.steps import Stat


class FileState(StrEnum):
    DONE = "done"
    FAILED = "failed"
    QUARANTINED = "quarantined"


LONGEST_REASON = 16384  # characters; our own have two paths at most
_STATES = {state.value for state in FileState}
_ESCAPED = re.compile(r"\\u(dc[0-9a-f]{2})|\\\\")


@dataclass(frozen=True)
class JournalEntry:
    """What the journal knows of a path."""

    relative: str
    stat: Stat
    digest: str
    model: str
    state: FileState
    attempts: int = 0
    reason: str = ""
    report: str = ""


def journal_key(relative: Path) -> str:
    """What a path below the acquisition folder is called in the journal and on screens: two paths, two keys.

    Bytes that are no UTF-8 are escaped as `\\udcXX`; in such a name, and in one that looks like that, a backslash is
    doubled. Every other name is itself.
    """
    text = relative.as_posix()
    plain = printable(text)
    return printable(text.replace("\\", r"\\")) if r"\udc" in plain else plain


def path_of(key: str) -> Path:
    """The path that a key stands for."""
    if r"\udc" not in key:
        return Path(key)
    return Path(_ESCAPED.sub(lambda match: chr(int(match[1], 16)) if match[1] else "\\", key))


def entries_of(rows: Iterable[tuple]) -> list[JournalEntry]:
    """Rows as entries; those that make no sense are passed over, so that their files are dealt with anew."""
    entries = []
    for relative, size, mtime_ns, digest, model, state, attempts, reason, report in rows:
        texts, numbers = (relative, digest, model, state, reason, report), (size, mtime_ns, attempts)
        if state not in _STATES or not all(isinstance(text, str) for text in texts):
            continue
        if (
            not relative.startswith("/")
            and ".." not in relative.split("/")
            and all(isinstance(n, int) for n in numbers)
        ):
            version = (relative, (size, mtime_ns), digest, model)
            entries.append(JournalEntry(*version, FileState(state), attempts, reason[:LONGEST_REASON], report))
    return entries
