"""An output folder that a daemon holds: taken again where that can be done, and never through a link."""

from __future__ import annotations

import json
import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
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
