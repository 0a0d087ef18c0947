"""The journal: what is known of every file, in one SQLite file outside the acquisition folder.

It holds one row a path: the version that was dealt with last, and how. A file that is not in it, or is there in another
version, is still to be done. So nothing is lost when the process is killed: what was committed but not written down
says in its own provenance what it was made from (see `daemon`).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from ..engine.errors import DefocusError, OutputError, printable
from ..engine.files.atomic import output_error
from ..engine.pipeline.steps import Stat

FOLDER, NAME = ".defocus", "journal.sqlite"
SCHEMA = 2  # 1 had no report

_TABLE = """
CREATE TABLE IF NOT EXISTS files (
    relative TEXT PRIMARY KEY,  -- below the acquisition folder, with /; bytes that are no text escaped
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    digest TEXT NOT NULL,       -- of head and tail
    model TEXT NOT NULL,        -- sha256 of the model file, and the pattern of channel files if there is one
    state TEXT NOT NULL,        -- done, failed (to be tried again) or quarantined
    attempts INTEGER NOT NULL,
    reason TEXT NOT NULL,
    updated TEXT NOT NULL,      -- UTC
    report TEXT NOT NULL DEFAULT ''  -- of a file that is done: engine.report.summary of its planes, JSON
) WITHOUT ROWID
"""
_KNOWN = "SELECT relative, size, mtime_ns, digest, model, state, attempts, reason, report FROM files"
_QUARANTINED = f"{_KNOWN} WHERE state = ? ORDER BY relative"
_RECENT = "SELECT relative, updated, report FROM files WHERE state = ? ORDER BY updated DESC, relative LIMIT ?"


class FileState(StrEnum):
    DONE = "done"
    FAILED = "failed"
    QUARANTINED = "quarantined"


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


class Journal:
    """The journal of one output folder; a context manager. Its methods may be called from any thread.

    They raise OutputError while the journal cannot be read or written, and DefocusError if it was damaged meanwhile.

    Attributes
    ----------
    path : Path
        The SQLite file, `OUT/.defocus/journal.sqlite`.
    warning : str or None
        Set when a damaged journal was moved aside and a new one begun.
    """

    def __init__(self, out: Path) -> None:
        """Open or begin the journal of the output folder `out`. Raises OutputError if it cannot be written."""
        self.path = Path(out) / FOLDER / NAME
        self.warning: str | None = None
        self._lock = threading.Lock()
        self._unwritten: dict[str, JournalEntry] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = self._open()
        except OSError as error:
            raise output_error(self.path, error) from error
        except sqlite3.OperationalError as error:  # no permission, full disk
            raise output_error(self.path, OSError(0, str(error))) from error

    @property
    def behind(self) -> bool:
        """Whether something could not be written down yet."""
        return bool(self._unwritten)

    def find(self, relative: Path) -> JournalEntry | None:
        """What is known of a path below the acquisition folder; what could not be written before is written now."""
        entry = self._unwritten.get(printable(relative.as_posix()))
        with suppress(OutputError):  # at the first that still cannot be written
            for one in list(self._unwritten.values()):
                self.record(one)
        if entry is not None:
            return entry
        with self._used() as connection:
            row = connection.execute(f"{_KNOWN} WHERE relative = ?", (printable(relative.as_posix()),)).fetchone()
        return _entry(row) if row else None

    def like(self, glob: str) -> list[JournalEntry]:
        """What is known of the paths that look like this, with SQLite's `*`, `?` and `[...]`."""
        with self._used() as connection:
            rows = connection.execute(f"{_KNOWN} WHERE relative GLOB ? ORDER BY relative", (glob,)).fetchall()
        return [_entry(row) for row in rows]

    def record(self, entry: JournalEntry) -> None:
        """Write down what became of a version, in place of what was known of its path.

        If it cannot be written (OutputError) it is kept in memory, and tried again when any path is asked for.
        """
        self._unwritten[entry.relative] = entry
        row = (entry.relative, *entry.stat, entry.digest, entry.model, entry.state.value, entry.attempts, entry.reason)
        with self._used() as connection, connection:
            connection.execute(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, datetime.now(UTC).isoformat(timespec="seconds"), entry.report),
            )
        self._unwritten.pop(entry.relative, None)

    def quarantined(self) -> list[JournalEntry]:
        """The files that are quarantined, by path."""
        with self._used() as connection:
            rows = connection.execute(_QUARANTINED, (FileState.QUARANTINED.value,)).fetchall()
        return [_entry(row) for row in rows]

    def forget(self, relative: str) -> bool:
        """Take a path out, so that its file is dealt with anew; whether it was there."""
        self._unwritten.pop(relative, None)
        with self._used() as connection, connection:
            return connection.execute("DELETE FROM files WHERE relative = ?", (relative,)).rowcount > 0

    def prune(self, acquisition: Path, days: float) -> int:
        """Drop what was dealt with over `days` ago and is no longer in the acquisition folder, and shrink the file.

        What is still there stays known, or it would be done again. Returns how many went.
        """
        limit = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
        with self._used() as connection:
            rows = connection.execute("SELECT relative FROM files WHERE updated < ?", (limit,)).fetchall()
            gone = [row for row in rows if not os.path.lexists(acquisition / row[0])]
            with connection:
                connection.executemany("DELETE FROM files WHERE relative = ?", gone)
            if gone:
                connection.execute("VACUUM")
        return len(gone)

    @staticmethod
    def peek(out: Path) -> list[JournalEntry]:
        """The files that are quarantined below `out`, without opening its journal for writing; [] if there is none."""
        return [_entry(row) for row in _peek(out, _QUARANTINED, (FileState.QUARANTINED.value,))]

    @staticmethod
    def peek_recent(out: Path, count: int) -> list[tuple[str, str, str]]:
        """The files that were done last, newest first: (relative, time in UTC, report as JSON), as `peek` does."""
        return _peek(out, _RECENT, (FileState.DONE.value, count))

    def counts(self) -> dict[FileState, int]:
        """How many paths are in each state."""
        with self._used() as connection:
            rows = dict(connection.execute("SELECT state, COUNT(*) FROM files GROUP BY state").fetchall())
        return {state: rows.get(state.value, 0) for state in FileState}

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _used(self) -> Iterator[sqlite3.Connection]:
        """The connection, held by this thread alone; what SQLite raises becomes one of our own errors."""
        try:
            with self._lock:
                yield self._connection
        except sqlite3.OperationalError as error:  # a disk that fails or is full
            raise output_error(self.path, OSError(0, str(error))) from error
        except sqlite3.DatabaseError as error:
            self._check_readable()
            remedy = "start defocus-watch again: it keeps the damaged one aside and begins anew"
            raise DefocusError(self.path, f"was damaged while it was in use ({error})", remedy) from error

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            self._check_readable()
            aside = self.path.with_name(f"{NAME}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}")
            os.replace(self.path, aside)
            for suffix in ("-journal", "-wal", "-shm"):
                with suppress(OSError):
                    self.path.with_name(NAME + suffix).unlink()
            self.warning = f"{self.path}: damaged ({error}); kept as {aside.name}, beginning a new one"
            return self._connect()

    def _check_readable(self) -> None:
        """Raise OutputError if the file cannot be read now: SQLite calls that damage, too."""
        try:
            self.path.read_bytes()
        except OSError as error:
            raise output_error(self.path, error) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=10, check_same_thread=False)
        try:
            # Not WAL: the output folder may lie on a share, where WAL does not work.
            connection.execute("PRAGMA journal_mode = TRUNCATE")
            connection.execute("PRAGMA synchronous = NORMAL")
            with closing(connection.execute("PRAGMA quick_check")) as cursor:
                (verdict,) = cursor.fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, 1, SCHEMA):
                raise sqlite3.DatabaseError(f"its format is {version}, this defocus writes {SCHEMA}")
            with connection:
                connection.execute(_TABLE)
                if version == 1:
                    connection.execute("ALTER TABLE files ADD COLUMN report TEXT NOT NULL DEFAULT ''")
                connection.execute(f"PRAGMA user_version = {SCHEMA}")
        except BaseException:
            connection.close()
            raise
        return connection


def _peek(out: Path, query: str, parameters: tuple) -> list[tuple]:
    path = Path(out) / FOLDER / NAME
    if not path.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            return connection.execute(query, parameters).fetchall()
    except sqlite3.Error:
        return []  # busy or damaged: the daemon itself tells


def _entry(row: tuple) -> JournalEntry:
    relative, size, mtime_ns, digest, model, state, attempts, reason, report = row
    return JournalEntry(relative, (size, mtime_ns), digest, model, FileState(state), attempts, reason, report)
