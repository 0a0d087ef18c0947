"""The journal's database: its tables are made, brought up to date and recognised; what an error of SQLite means."""

from __future__ import annotations

import os
import sqlite3
from contextlib import ExitStack
from pathlib import Path

from ..engine.errors import DefocusError, shortage
from ..engine.files.atomic import output_error
from ..engine.files.version import open_regular

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
    report TEXT NOT NULL DEFAULT ''  -- JSON: the summary of the planes of a file that is done; else {"code": ErrorCode}
) WITHOUT ROWID
"""
# A row here is a file that was being corrected; one that is found at a start was when its process died.
_IN_PROGRESS = """
CREATE TABLE IF NOT EXISTS in_progress (
    relative TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    attempts INTEGER NOT NULL  -- how often this version was begun and no outcome came of it
) WITHOUT ROWID
"""
_TABLES = {"files": 10, "in_progress": 4}  # with their numbers of columns


def create_tables(connection: sqlite3.Connection) -> None:
    """Make the tables where they are not there yet. Raises sqlite3.DatabaseError for tables that are not ours."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, 1, SCHEMA):
        raise sqlite3.DatabaseError(f"its format is {version}, this defocus writes {SCHEMA}")
    with connection:
        connection.execute(_TABLE)
        connection.execute(_IN_PROGRESS)
        if version == 1:
            connection.execute("ALTER TABLE files ADD COLUMN report TEXT NOT NULL DEFAULT ''")
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
    _check_tables(connection)


def _check_tables(connection: sqlite3.Connection) -> None:
    """Raise DatabaseError unless the tables are ours: a column more, a view or a trigger would stop every write."""
    rows = connection.execute("SELECT type, name FROM sqlite_master WHERE type != 'index'").fetchall()
    if sorted(rows) != sorted(("table", name) for name in _TABLES):
        raise sqlite3.DatabaseError("it holds unknown tables, views or triggers")
    for name, count in _TABLES.items():
        if len(connection.execute(f"PRAGMA table_info({name})").fetchall()) != count:
            raise sqlite3.DatabaseError(f"its table {name} has unknown columns")


def disk_error(path: Path, error: sqlite3.DatabaseError) -> DefocusError:
    """The error of a disk, or of too few descriptors, of which SQLite tells as of any file that cannot be opened."""
    try:
        with ExitStack() as files:  # it needs another two, for its own journal and for the folder
            files.enter_context(open(os.devnull, "rb"))
            files.enter_context(open_regular(path))
    except OSError as cause:
        if shortage(cause):
            return output_error(path, cause)
    return output_error(path, OSError(0, str(error)))


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether an error says that the content is damaged, and not that it cannot be read or written just now."""
    if isinstance(error, sqlite3.OperationalError):
        return error.sqlite_errorcode == sqlite3.SQLITE_ERROR  # a table is missing: the file was emptied
    return True
