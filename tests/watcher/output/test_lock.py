"""An output folder that a daemon holds: taken again where that can be done, and never through a link."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from defocus.engine.errors import DefocusError
from defocus.watcher.journal import Journal
from defocus.watcher.journal_entry import FileState, JournalEntry
from defocus.watcher.output.lock import FolderLock


def test_a_folder_that_was_made_again_is_taken_again(tmp_path):
    out = tmp_path / "out"
    with FolderLock(out) as lock:
        assert lock.why_lost() is None
        shutil.rmtree(out)
        out.mkdir()
        with ThreadPoolExecutor() as pool:  # as the thread that finds files does
            assert pool.submit(lock.why_lost).result() is None
        assert json.loads((out / ".defocus" / "daemon.json").read_text())["pid"] == os.getpid()
        with pytest.raises(DefocusError, match="another defocus-watch writes there"), FolderLock(out):
            pass
        (out / ".defocus" / "daemon.json").unlink()
        with ThreadPoolExecutor() as pool:
            assert pool.submit(lock.why_lost).result() is None


def test_what_another_daemon_holds_by_now_is_not_taken(tmp_path):
    out = tmp_path / "out"
    with FolderLock(out) as lock:
        shutil.rmtree(out)
        with FolderLock(out):
            (out / ".defocus" / "daemon.json").unlink()
            lost = lock.why_lost()
    assert lost is not None
    assert "another defocus-watch writes there" in str(lost)


def test_links_in_the_place_of_our_files_are_not_followed(tmp_path):
    out, victim = tmp_path / "out", tmp_path / "victim"
    (out / ".defocus").mkdir(parents=True)
    victim.write_text("precious")
    for name in ("daemon.lock", "daemon.json", "journal.sqlite", "journal.sqlite-journal"):
        (out / ".defocus" / name).symlink_to(victim if name != "journal.sqlite" else tmp_path / "made")
    with FolderLock(out), Journal(out) as journal:
        assert "was a link, which is not followed" in (journal.warning or "")
        journal.record(JournalEntry("a.tif", (1, 1), "d", "m", FileState.DONE))
        assert stat.S_IMODE((out / ".defocus").stat().st_mode) == 0o700
    assert victim.read_text() == "precious"
    assert not (tmp_path / "made").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / ".defocus").symlink_to(tmp_path)
    with pytest.raises(DefocusError), FolderLock(other):
        pass


def test_a_journal_that_is_deleted_in_use_is_begun_anew(tmp_path):
    with Journal(tmp_path) as journal:
        journal.path.unlink()
        journal.record(JournalEntry("a.tif", (1, 1), "d", "m", FileState.DONE))
        assert journal.find(Path("a.tif")) is not None
    with Journal(tmp_path) as journal:
        assert journal.find(Path("a.tif")) is not None


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
@pytest.mark.parametrize("kind", ["pipe", "link to a device", "a megabyte", "nested"])
def test_what_takes_the_place_of_daemon_json_is_neither_waited_for_nor_read(tmp_path, kind):
    with FolderLock(tmp_path) as lock:
        who = tmp_path / ".defocus" / "daemon.json"
        who.unlink()
        if kind == "pipe":
            os.mkfifo(who)
        elif kind == "link to a device":
            who.symlink_to("/dev/zero")
        else:
            who.write_text("[" * (1 << 20 if kind == "a megabyte" else 4000))
        assert lock.why_lost() is None
        if kind != "nested":
            assert json.loads(who.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", ["somebody's", "empty", "ours"])
def test_another_name_of_the_journal_is_not_written_to(tmp_path, content):
    out, victim = tmp_path / "out", tmp_path / "victim"
    (out / ".defocus").mkdir(parents=True)
    if content == "ours":
        with Journal(out) as journal:
            journal.record(JournalEntry("old.tif", (1, 1), "d", "m", FileState.DONE))
        os.link(journal.path, victim)
    else:
        with closing(sqlite3.connect(victim)) as database, database:
            database.execute("CREATE TABLE theirs (x)" if content == "somebody's" else "SELECT 1")
        os.link(victim, out / ".defocus" / "journal.sqlite")
    before = victim.read_bytes()
    with Journal(out) as journal:
        journal.record(JournalEntry("a.tif", (1, 1), "d", "m", FileState.DONE))
        assert journal.find(Path("a.tif")) is not None
        assert (journal.find(Path("old.tif")) is not None) == (content == "ours")
    assert victim.read_bytes() == before


def test_a_journal_of_a_terabyte_of_nothing_is_kept_aside(tmp_path):
    (tmp_path / ".defocus").mkdir()
    path = tmp_path / ".defocus" / "journal.sqlite"
    path.write_bytes(b"x")
    os.truncate(path, 1 << 40)
    with Journal(tmp_path) as journal:
        assert "damaged" in (journal.warning or "")
