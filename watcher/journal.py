"""The journal: what is known of every file, in one SQLite file outside the acquisition folder.

It holds one row a path: the version that was dealt with last, and how. A file that is not in it, or is there in another
version, is still to be done. So nothing is lost when the process is killed: what was committed but not written down
says in its own provenance what it was made from (see `batch.is_done`).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..engine.errors import DefocusError, OutputError
from ..engine.files.atomic import make_private, output_error
from ..engine.files.version import open_regular
from ..engine.pipeline.steps import Stat
from .journal_database import create_tables, disk_error, is_damage
from .journal_entry import FileState, JournalEntry, entries_of, journal_key, path_of

FOLDER, NAME = ".defocus", "journal.sqlite"
_BESIDE = ("-journal", "-wal", "-shm")
_READ = 4096  # blocks of 64 KiB that are read to see whether a file can be

_COLUMNS = "relative, size, mtime_ns, digest, model, state, attempts, reason, report"
_KNOWN = f"SELECT {_COLUMNS} FROM files"
_QUARANTINED = f"{_KNOWN} WHERE state = ? ORDER BY relative"


def _raise(error: OutputError | None) -> None:
    if error is not None:
        raise error


class Journal:
    """The journal of one output folder; a context manager. Its methods may be called from any thread.

    While it cannot be read or written, `trouble` is called with an OutputError, which by default it raises; what was to
    be written is kept and written later, and `trouble` is called with None once nothing is left to be written. A method
    that reads raises the OutputError in any case. DefocusError is raised if the file was damaged while it was in use.

    Attributes
    ----------
    path : Path
        The SQLite file, `OUT/.defocus/journal.sqlite`.
    warning : str or None
        Set when a damaged journal was moved aside and a new one begun.
    """

    def __init__(
        self, out: Path, trouble: Callable[[OutputError | None], None] = _raise, busy_timeout: float = 10.0
    ) -> None:
        """Open or begin the journal of the output folder `out`. Raises OutputError if it cannot be written.

        Another program that holds the file is waited for, `busy_timeout` s.
        """
        self.path = Path(out) / FOLDER / NAME
        self.warning: str | None = None
        self._lock, self._trouble, self._failing = threading.Lock(), trouble, False
        self._unwritten: dict[str, JournalEntry] = {}
        self._unwritable = False  # the last write failed: that it can be read says nothing
        self._busy_timeout = busy_timeout
        self._opened: tuple[int, int] | None = None  # the identity of the file that the connection has open
        try:
            make_private(self.path.parent)
            self._connection = self._open()
            rows = self._connection.execute("SELECT relative, size, mtime_ns, attempts FROM in_progress").fetchall()
        except OSError as error:
            raise output_error(self.path, error) from error
        except sqlite3.OperationalError as error:  # no permission, full disk
            raise disk_error(self.path, error) from error
        self._attempts = {relative: ((size, mtime_ns), attempts) for relative, size, mtime_ns, attempts in rows}

    def find(self, relative: Path) -> JournalEntry | None:
        """What is known of a path below the acquisition folder; what could not be written before is written now."""
        key = journal_key(relative)
        entry = self._unwritten.get(key)
        with suppress(OutputError):
            for unwritten in list(self._unwritten.values()):
                if not self._write(unwritten):
                    break  # it still fails
        if entry is not None:
            return entry
        rows = self._read(f"{_KNOWN} WHERE relative = ?", (key,))
        self._works()
        return next(iter(entries_of(rows)), None)

    def like(self, glob: str) -> list[JournalEntry]:
        """What is known of the paths that look like this, with SQLite's `*`, `?` and `[...]`."""
        return entries_of(self._read(f"{_KNOWN} WHERE relative GLOB ? ORDER BY relative", (glob,)))

    def record(self, entry: JournalEntry) -> None:
        """Write down what became of a version, in place of what was known of its path.

        If it cannot be written it is kept in memory, and tried again when any path is asked for.
        """
        self._unwritten[entry.relative] = entry
        if self._write(entry):
            self._works()

    def begin(self, entries: Iterable[tuple[Path, Stat]]) -> None:
        """Write down that versions are being corrected: should that end the process, the next one knows."""
        rows = [(journal_key(path), *stat, 1 + self.deaths(path, stat)) for path, stat in entries]
        self._change("INSERT OR REPLACE INTO in_progress VALUES (?, ?, ?, ?)", rows)

    def leave(self, entries: Iterable[tuple[Path, Stat]]) -> None:
        """Write down that versions were left before an outcome came, which is no fault of theirs."""
        for path, stat in entries:
            key, deaths = journal_key(path), self.deaths(path, stat)
            if deaths:
                self._change("UPDATE in_progress SET attempts = ? WHERE relative = ?", [(deaths, key)])
            else:
                self._change("DELETE FROM in_progress WHERE relative = ?", [(key,)])

    def deaths(self, relative: Path, stat: Stat) -> int:
        """How many processes died while they were correcting a version, since the last outcome of it."""
        version, attempts = self._attempts.get(journal_key(relative), ((0, 0), 0))
        return attempts if version == stat else 0

    def quarantined(self) -> list[JournalEntry]:
        """The files that are quarantined, by path."""
        return entries_of(self._read(_QUARANTINED, (FileState.QUARANTINED.value,)))

    def forget(self, relative: str) -> bool:
        """Take a path out, so that its file is dealt with anew; whether it was there."""
        self._unwritten.pop(relative, None)
        self._attempts.pop(relative, None)
        with self._used() as connection, connection:
            connection.execute("DELETE FROM in_progress WHERE relative = ?", (relative,))
            return connection.execute("DELETE FROM files WHERE relative = ?", (relative,)).rowcount > 0

    def prune(self, acquisition: Path, days: float) -> int:
        """Drop what was dealt with over `days` ago and is no longer in the acquisition folder, and shrink the file.

        What is still there stays known, or it would be done again. Returns how many went.
        """
        if days > 36500:  # beyond what dates hold
            return 0
        limit = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
        with self._used() as connection:
            rows = connection.execute("SELECT relative FROM files WHERE updated < ?", (limit,)).fetchall()
            gone = [row for row in rows if not _is_there(acquisition, row[0])]
            with connection:
                connection.executemany("DELETE FROM files WHERE relative = ?", gone)
            if gone:
                connection.execute("VACUUM")
        return len(gone)

    @staticmethod
    def peek(out: Path) -> list[JournalEntry]:
        """The files that are quarantined below `out`, without opening its journal for writing; [] if there is none."""
        return entries_of(_peek(out, _QUARANTINED, (FileState.QUARANTINED.value,)))

    def counts(self) -> dict[FileState, int]:
        """How many paths are in each state."""
        rows = dict(self._read("SELECT state, COUNT(*) FROM files GROUP BY state"))
        return {state: rows.get(state.value, 0) for state in FileState}

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, query: str, parameters: tuple = ()) -> list[tuple]:
        try:
            with self._used() as connection:
                return connection.execute(query, parameters).fetchall()
        except OutputError as error:
            self._fails(error)
            raise

    def _write(self, entry: JournalEntry) -> bool:
        """Whether an entry could be written."""
        row = (entry.relative, *entry.stat, entry.digest, entry.model, entry.state.value, entry.attempts, entry.reason)
        stamped = (*row, entry.report, datetime.now(UTC).isoformat(timespec="seconds"))
        query = f"INSERT OR REPLACE INTO files ({_COLUMNS}, updated) VALUES ({', '.join('?' * len(stamped))})"
        if not self._change(query, [stamped], entry):
            return False
        self._attempts.pop(entry.relative, None)
        if self._unwritten.get(entry.relative) is entry:
            del self._unwritten[entry.relative]
        return True

    def _change(self, query: str, rows: list[tuple], done: JournalEntry | None = None) -> bool:
        """Whether rows could be written; with `done`, together with the end of its being in progress."""
        try:
            with self._used() as connection, connection:
                connection.executemany(query, rows)
                if done is not None:
                    connection.execute("DELETE FROM in_progress WHERE relative = ?", (done.relative,))
        except OutputError as error:
            self._unwritable = True
            self._fails(error)
            return False
        self._unwritable = False
        return True

    def _fails(self, error: OutputError) -> None:
        self._failing = True
        self._trouble(error)

    def _works(self) -> None:
        if self._failing and not self._unwritten and not self._unwritable:
            self._failing = False
            self._trouble(None)

    @contextmanager
    def _used(self) -> Iterator[sqlite3.Connection]:
        """The connection, held by this thread alone; what SQLite raises becomes one of our own errors."""
        try:
            with self._lock:
                if _identity(self.path) != self._opened and self.path.parent.is_dir():
                    # It was deleted or replaced: what is written to the old one is lost. If there can be no new one
                    # yet, the old one can still be read.
                    with suppress(OSError, sqlite3.OperationalError):
                        connection = self._open()
                        self._connection.close()
                        self._connection = connection
                yield self._connection
        except OSError as error:
            raise output_error(self.path, error) from error
        except sqlite3.DatabaseError as error:
            if not is_damage(error):  # a disk that fails or is full
                raise disk_error(self.path, error) from error
            self._check_readable()
            remedy = "start defocus-watch again: it renames the damaged file and begins a new one"
            raise DefocusError(self.path, f"was damaged while it was in use ({error})", remedy) from error

    def _open(self) -> sqlite3.Connection:
        for path in (self.path, *(self.path.with_name(NAME + suffix) for suffix in _BESIDE)):
            if path.is_symlink():  # somebody wants us to write elsewhere
                os.replace(path, path.with_name(f"{path.name}.link-{datetime.now(UTC):%Y%m%dT%H%M%S}"))
                self.warning = f"{path}: was a link, which is not followed; beginning a new one"
            elif path.exists() and not path.is_file() and not path.is_dir():  # a pipe would be waited for
                os.replace(path, path.with_name(f"{path.name}.other-{datetime.now(UTC):%Y%m%dT%H%M%S}"))
                self.warning = f"{path}: was a pipe or a device; beginning a new one"
            elif path.is_file() and path.stat().st_nlink > 1:  # another name of it is not written to, either
                copy = path.with_name(f"{path.name}.{os.getpid()}")
                copy.unlink(missing_ok=True)
                shutil.copyfile(path, copy)
                os.replace(copy, path)
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self._check_readable()
            aside = self.path.with_name(f"{NAME}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}")
            os.replace(self.path, aside)
            for suffix in _BESIDE:
                with suppress(OSError):
                    self.path.with_name(NAME + suffix).unlink()
            self.warning = f"{self.path}: damaged ({error}); kept as {aside.name}, beginning a new one"
            return self._connect()

    def _check_readable(self) -> None:
        """Raise OutputError if the file cannot be read now: SQLite calls that damage, too."""
        try:
            with open_regular(self.path) as file:
                for _ in range(_READ):
                    if not file.read(1 << 16):
                        break
        except OSError as error:
            raise output_error(self.path, error) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=self._busy_timeout, check_same_thread=False)
        try:
            # Not WAL: the output folder may lie on a share, where WAL does not work.
            connection.execute("PRAGMA journal_mode = TRUNCATE")
            connection.execute("PRAGMA synchronous = NORMAL")
            with closing(connection.execute("PRAGMA quick_check")) as cursor:
                (verdict,) = cursor.fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            create_tables(connection)
        except BaseException:
            connection.close()
            raise
        self._opened = _identity(self.path)
        return connection


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one that takes its place; None if there is none. Raises OSError."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def _peek(out: Path, query: str, parameters: tuple) -> list[tuple]:
    path = Path(out) / FOLDER / NAME
    if not os.path.isfile(path):
        return []
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            return connection.execute(query, parameters).fetchall()
    except sqlite3.Error:
        return []  # busy or damaged: the daemon itself tells


def _is_there(folder: Path, key: object) -> bool:
    return isinstance(key, str) and os.path.lexists(folder / path_of(key))
