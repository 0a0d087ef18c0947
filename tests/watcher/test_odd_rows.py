"""Rows of a journal that are not of our making: none ends the daemon, fills the page or leads out of the folder."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from defocus.watcher.alerts.health import Health
from defocus.watcher.configuration.settings import FolderSettings
from defocus.watcher.journal import Journal
from defocus.watcher.journal_entry import LONGEST_REASON, FileState, JournalEntry
from defocus.watcher.status.history import read_history
from defocus.watcher.status.statistics import State


def _change(out: Path, query: str, *values: object) -> None:
    """Change the row of a.tif by hand."""
    with Journal(out) as journal:
        journal.record(JournalEntry("a.tif", (1, 1), "d", "m", FileState.DONE))
    with closing(sqlite3.connect(journal.path)) as connection, connection:
        connection.execute(f"UPDATE files SET {query}", values)


@pytest.mark.parametrize(
    "report",
    [
        '[{"blur_px": NaN, "fidelity": -Infinity}]',
        '[{"blur_px": 1e999, "fidelity": 1e999}]',
        f'[{{"blur_px": {10**400}}}]',
    ],
)
def test_the_page_says_only_numbers_that_json_has(tmp_path, report):
    acquisition = tmp_path / "acq"
    acquisition.mkdir()
    _change(tmp_path / "out", "report = ?", report)
    state = State([FolderSettings(acquisition, tmp_path / "out")], Health())
    assert json.dumps(state.points(0, 0), allow_nan=False)
    assert json.dumps(state.picture(), allow_nan=False)


def test_megabytes_in_a_row_do_not_reach_the_page_or_the_log(tmp_path):
    _change(tmp_path, "state = 'quarantined', reason = ?", "x" * 10_000_000)
    (failure,) = read_history(tmp_path).failures
    with Journal(tmp_path) as journal:
        (entry,) = journal.quarantined()
    assert len(failure.reason) == len(entry.reason) == LONGEST_REASON
    _change(tmp_path, "report = ?", "[" + "{}," * 3_000_000 + "{}]")
    (point,) = read_history(tmp_path).points
    assert point.known.planes == 0
    _change(tmp_path, "relative = ?", "n" * 10_000_000)
    assert read_history(tmp_path).points == []


def test_no_row_leads_out_of_the_folder(tmp_path):
    for relative in ("../outside.tif", "/etc/outside.tif", "sub/../../outside.tif"):
        _change(tmp_path, "relative = ?", relative)
        with Journal(tmp_path) as journal:
            assert journal.like("*outside.tif") == []
            journal.forget(relative)


def test_a_name_that_is_no_text_does_not_end_the_tidying(tmp_path):
    _change(tmp_path, "relative = ?, updated = '2001-01-01T00:00:00+00:00'", b"\xff\0")
    with Journal(tmp_path) as journal:
        assert journal.prune(tmp_path, 1) == 1
