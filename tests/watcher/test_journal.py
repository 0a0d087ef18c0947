"""The journal: one row a path, also after damage."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from pathlib import Path

import pytest

from defocus.engine.errors import OutputError
from defocus.watcher.journal import Journal
from defocus.watcher.journal_entry import FileState, JournalEntry


def entry(name: str = "a/b.tif", state: FileState = FileState.DONE, **changes) -> JournalEntry:
    return JournalEntry(**({"relative": name, "stat": (10, 20), "digest": "d", "model": "m", "state": state} | changes))


def test_what_is_recorded_is_found_after_a_restart(tmp_path):
    with Journal(tmp_path) as journal:
        journal.record(entry())
        journal.record(entry("c.tif", FileState.QUARANTINED, attempts=3, reason="truncated; write it again"))
    with Journal(tmp_path) as journal:
        assert journal.warning is None
        assert journal.find(Path("a/b.tif")) == entry()
        assert journal.find(Path("missing.tif")) is None
        (quarantined,) = journal.quarantined()
        assert (quarantined.relative, quarantined.attempts, quarantined.reason) == (
            "c.tif",
            3,
            "truncated; write it again",
        )
        assert journal.counts() == {FileState.DONE: 1, FileState.FAILED: 0, FileState.QUARANTINED: 1}


def test_a_new_version_takes_the_place_of_the_old(tmp_path):
    with Journal(tmp_path) as journal:
        journal.record(entry(state=FileState.QUARANTINED))
        journal.record(entry(stat=(11, 21)))
        found = journal.find(Path("a/b.tif"))
        assert found is not None
        assert (found.stat, found.state) == ((11, 21), FileState.DONE)
        assert journal.quarantined() == []


def test_it_serves_two_threads(tmp_path):
    with Journal(tmp_path) as journal:
        errors = []

        def work(start):
            try:
                for i in range(50):
                    journal.record(entry(f"{start + i}.tif"))
                    assert journal.find(Path(f"{start + i}.tif")) is not None
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(start,)) for start in (0, 1000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert journal.counts()[FileState.DONE] == 100


@pytest.mark.parametrize("damage", ["text", "middle", "newer"])
def test_a_damaged_journal_is_kept_aside_and_begun_anew(tmp_path, damage):
    with Journal(tmp_path) as journal:
        for i in range(500):
            journal.record(entry(f"{i}.tif"))
        path = journal.path
    if damage == "text":
        path.write_text("this is no database" * 100)
    elif damage == "middle":
        content = bytearray(path.read_bytes())
        content[4096:20000] = b"\xff" * (20000 - 4096)
        path.write_bytes(content)
    else:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
    with Journal(tmp_path) as journal:
        assert journal.warning is not None
        assert str(path) in journal.warning
        assert "\n" not in journal.warning
        assert journal.find(Path("0.tif")) is None
        journal.record(entry())
    assert len(list(path.parent.glob("*.damaged-*"))) == 1
    with Journal(tmp_path) as journal:
        assert journal.warning is None


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError) as error:
        Journal(tmp_path / "file")
    assert "\n" not in str(error.value)
    (tmp_path / ".defocus" / "journal.sqlite").mkdir(parents=True)
    with pytest.raises(OutputError):
        Journal(tmp_path)


def test_a_journal_of_the_first_format_is_taken_over(tmp_path):
    with Journal(tmp_path) as journal:
        journal.record(entry())
        path = journal.path
    connection = sqlite3.connect(path)
    connection.execute("ALTER TABLE files DROP COLUMN report")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    with Journal(tmp_path) as journal:
        assert journal.warning is None
        assert journal.find(Path("a/b.tif")) == entry()
        journal.record(entry("c.tif", report="[]"))
        assert journal.find(Path("c.tif")) == entry("c.tif", report="[]")


def test_what_cannot_be_written_is_known_all_the_same_and_written_later(tmp_path):
    """Another program holds the file; SQLite waits for it 10 s, here not at all."""
    with Journal(tmp_path, busy_timeout=0) as journal:
        other = sqlite3.connect(journal.path)
        other.execute("BEGIN EXCLUSIVE")
        for name in ("a.tif", "b.tif"):
            with pytest.raises(OutputError, match="locked"):
                journal.record(entry(name))
        with pytest.raises(OutputError, match="locked"):
            journal.find(Path("c.tif"))
        assert journal.find(Path("a.tif")) == entry("a.tif")
        other.rollback()
        assert journal.find(Path("c.tif")) is None
        assert other.execute("SELECT COUNT(*) FROM files").fetchone() == (2,)
        other.close()
    with Journal(tmp_path) as journal:
        assert [journal.find(Path(name)) for name in ("a.tif", "b.tif")] == [entry("a.tif"), entry("b.tif")]


def test_its_trouble_is_told_until_all_is_written(tmp_path):
    """As the daemon has it: nothing is raised for what is written later."""
    told: list[OutputError | None] = []
    with Journal(tmp_path, told.append, busy_timeout=0) as journal:
        other = sqlite3.connect(journal.path)
        other.execute("BEGIN EXCLUSIVE")
        journal.record(entry("a.tif"))
        with pytest.raises(OutputError, match="locked"):
            journal.find(Path("b.tif"))
        assert "locked" in str(told[0])
        assert None not in told
        other.rollback()
        assert journal.find(Path("b.tif")) is None
        assert told[-1] is None
        assert other.execute("SELECT COUNT(*) FROM files").fetchone() == (1,)
        other.close()


def _another(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (what)")
    connection.close()


REPLACED = {
    "link": lambda path: path.symlink_to(path.with_name("elsewhere")),
    "pipe": os.mkfifo,
    "another": _another,
}


@pytest.mark.skipif(sys.platform == "win32", reason="needs a file that may be replaced while it is open, and pipes")
@pytest.mark.parametrize("name", REPLACED)
def test_one_in_whose_place_something_else_is_put_is_begun_anew_also_while_it_is_in_use(tmp_path, name):
    with Journal(tmp_path) as journal:
        journal.record(entry("before.tif"))
        for used in ("a.tif", "b.tif"):
            journal.path.unlink()
            REPLACED[name](journal.path)
            journal.record(entry(used))
            assert journal.path.is_file()
            assert not journal.path.is_symlink()
    with Journal(tmp_path) as journal:
        assert journal.find(Path("b.tif")) == entry("b.tif")
        journal.path.unlink()
        REPLACED[name](journal.path)
    with Journal(tmp_path) as journal:
        assert journal.warning
        assert journal.quarantined() == []
    assert not (tmp_path / ".defocus" / "elsewhere").exists()
