"""What the journal remembers, read beside the daemon that writes it: totals, days of focus, what is quarantined."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ...engine.quality.overview import FileOverview, overview
from ..journal import FOLDER, NAME
from ..journal_entry import LONGEST_REASON, FileState

LATEST = 500  # files that are all shown
# Of older ones, one every so many s for those of the last so many s.
THINNED = ((3600.0 * 6, 60.0), (86400.0 * 7, 3600.0), (86400.0 * 1000, 86400.0))
_BATCH = 500  # paths a query
# Rows that are not of our making may hold megabytes; what is ours is smaller: two paths, 64 planes.
_NAMED = "length(relative) < 32768"
_REASON = f"substr(reason, 1, {LONGEST_REASON})"
_REPORT = "CASE WHEN length(report) < 65536 THEN report ELSE '' END"


@dataclass(frozen=True)
class Point:
    """A corrected file in the plot of the focus: when it was (s since 1970), and what is known of it."""

    time: float
    file: str
    known: FileOverview = field(default_factory=FileOverview)

    def as_list(self) -> list[Any]:
        """For the page: time, blur in px, fidelity, verdict, planes, kept and doubtful planes, file."""
        known = self.known
        numbers = [value if value is None else round(value, 3) for value in (known.blur_px, known.fidelity)]
        return [round(self.time, 1), *numbers, known.verdict, known.planes, known.kept, known.doubtful, self.file]


@dataclass(frozen=True)
class Failure:
    """A file that is quarantined: `code` is an ErrorCode's value, "" in journals that were written before."""

    time: float
    file: str
    code: str
    reason: str


@dataclass(frozen=True)
class FocusHistory:
    """What a journal holds: points in the order of time, thinned; failures newest first; how many files are done."""

    points: list[Point] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    done: int = 0


def read_history(out: Path) -> FocusHistory:
    """What the journal of an output folder holds; nothing if there is none, or none that can be read now."""
    try:
        with closing(_connect(out, "ro")) as connection:
            done = FileState.DONE.value
            query = f"SELECT relative, updated FROM files WHERE state = ? AND {_NAMED}"
            rows = connection.execute(query, (done,)).fetchall()
            times = sorted((_time(updated), str(relative)) for relative, updated in rows)
            points = []
            for part in _batches(thin(times)):
                marks = ", ".join("?" * len(part))
                query = f"SELECT relative, {_REPORT} FROM files WHERE relative IN ({marks})"
                reports = dict(connection.execute(query, [relative for _, relative in part]).fetchall())
                points += [Point(time, relative, _overview(reports.get(relative))) for time, relative in part]
            return FocusHistory(points, _failures(connection), len(times))
    except (sqlite3.Error, OSError, ValueError, TypeError):
        return FocusHistory()  # busy, damaged or not there: the daemon itself tells


def is_corrected(out: Path, relative: str) -> bool:
    """Whether the journal knows a path below the acquisition folder as corrected."""
    try:
        with closing(_connect(out, "ro")) as connection:
            query = "SELECT 1 FROM files WHERE relative = ? AND state = ?"
            return connection.execute(query, (relative, FileState.DONE.value)).fetchone() is not None
    except sqlite3.Error:
        return False


def forget(out: Path, files: Sequence[str]) -> int:
    """Take quarantined files out of the journal, so that the next rescan takes them; how many. Raises sqlite3.Error."""
    count = 0
    with closing(_connect(out, "rw")) as connection, connection:
        for part in _batches(files):
            marks = ", ".join("?" * len(part))
            query = f"DELETE FROM files WHERE state = ? AND relative IN ({marks})"
            count += connection.execute(query, [FileState.QUARANTINED.value, *part]).rowcount
    return count


def thin(times: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Of points in the order of time the latest, and one a minute, hour or day of those before: the last of each."""
    if len(times) <= LATEST:
        return list(times)
    now, kept = times[-1][0], list(times[-LATEST:])
    slot: tuple[float, float] | None = None
    for point in reversed(times[:-LATEST]):
        step = next((step for age, step in THINNED if now - point[0] <= age), None)
        if step is None:
            break
        if slot != (step, point[0] // step):
            slot = step, point[0] // step
            kept.append(point)
    return sorted(kept)


def _connect(out: Path, mode: str) -> sqlite3.Connection:
    path = (Path(out) / FOLDER / NAME).resolve()
    return sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, timeout=5)


def _failures(connection: sqlite3.Connection) -> list[Failure]:
    query = f"SELECT updated, relative, {_REPORT}, {_REASON} FROM files WHERE state = ? AND {_NAMED}"
    rows = connection.execute(query, (FileState.QUARANTINED.value,)).fetchall()
    failures = [
        Failure(_time(updated), str(relative), _code(report), str(why)) for updated, relative, report, why in rows
    ]
    return sorted(failures, key=lambda failure: (-failure.time, failure.file))


def _code(report: object) -> str:
    try:
        return str(json.loads(report)["code"]) if isinstance(report, str) and report else ""
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _overview(report: object) -> FileOverview:
    try:
        return overview(json.loads(report)) if isinstance(report, str) and report else FileOverview()
    except (ValueError, RecursionError):
        return FileOverview()


def _time(updated: object) -> float:
    """Seconds since 1970 of a time as the journal writes it; 0 for one that is none."""
    try:
        return datetime.fromisoformat(str(updated)).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def _batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]
