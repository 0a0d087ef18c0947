"""What the status page knows: numbers from events and from the journal, by folder."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import tifffile

from defocus.engine.errors import ErrorCode, OutputError
from defocus.engine.pipeline.jobs import Job, Outcome
from defocus.engine.quality.report import PlaneReport
from defocus.watcher.alerts.health import Health
from defocus.watcher.configuration.config import Config, Folder
from defocus.watcher.events import WatchEvent
from defocus.watcher.journal import Journal
from defocus.watcher.journal_entry import FileState, JournalEntry
from defocus.watcher.status.folder_statistics import SHOWN_FAILURES, Histogram, MicroscopeSettings
from defocus.watcher.status.history import LATEST, is_corrected, read_history, thin
from defocus.watcher.status.metrics import metrics
from defocus.watcher.status.page import StatusPage, _microscopes
from defocus.watcher.status.statistics import State

from ..conftest import free_port
from .test_status import ask, state

OME = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Instrument ID="I:0">'
    '<Objective ID="O:0" LensNA="0.5" Immersion="Air"/></Instrument><Image ID="Image:0"><ObjectiveSettings ID="O:0"/>'
    '<Pixels ID="P:0" DimensionOrder="XYZCT" Type="uint16" SizeX="32" SizeY="32" SizeZ="1" SizeC="1" SizeT="1" '
    'PhysicalSizeX="500" PhysicalSizeXUnit="nm"><TiffData/></Pixels></Image></OME>'
)


@pytest.fixture
def settings(tmp_path):
    return Config(folders=(Folder(str(tmp_path / "acq"), str(tmp_path / "out")),)).settings()


def entry(name: str, state: FileState = FileState.DONE, **more) -> JournalEntry:
    return JournalEntry(name, (1, 1), "d", "m", state, **more)


def test_a_restart_remembers_totals_focus_and_what_was_quarantined(tmp_path, settings):
    with Journal(tmp_path / "out") as journal:
        for index in range(3):
            report = json.dumps([PlaneReport(focus_in=0.1, blur_px=float(index)).as_dict()])
            journal.record(entry(f"{index}.tif", report=report))
        code = json.dumps({"code": ErrorCode.TRUNCATED.value})
        journal.record(entry("bad.tif", FileState.QUARANTINED, reason="truncated", report=code))
    seen = State(settings, Health())
    assert sorted(point[1] for point in seen.points(0, 0)) == [0.0, 1.0, 2.0]
    scope = seen.picture()["folders"][0]
    assert (scope["total"], scope["done"], scope["failed"]) == (3, 0, 1)
    assert scope["failures"][0]["files"][0][1:] == ["bad.tif", "truncated"]
    assert scope["failures"][0]["code"] == "truncated"
    seen.see(WatchEvent("quarantined", "b.tif", "b.tif: not a TIFF", folder=tmp_path / "acq", code=ErrorCode.NOT_TIFF))
    seen.see(WatchEvent("paused", text="the disk is full", queued=7))
    picture = seen.picture()
    assert (picture["queue"], picture["notes"][0][1], picture["failed"]) == (7, "the disk is full", 2)
    assert picture["folders"][0]["failures"][0]["code"] == "not_tiff"  # the newest first
    text = metrics(seen)
    assert f'defocus_failed_files_total{{folder="{tmp_path / "acq"}",reason="not_tiff"}} 1' in text
    assert "defocus_queue_files 7" in text
    assert seen.retry(0, "bad.tif") == 1
    assert seen.retry(0, "bad.tif") == 0
    assert Journal.peek(tmp_path / "out") == []


def test_counters_are_whole_numbers_in_full(settings):
    seen = State(settings, Health())
    scope = seen.microscopes[0]
    scope.counts["done"], scope.bytes, seen.queued = 1_234_567, 98_765_432_109_876, 10_000_001
    scope.latency.count, scope.latency.total = 1_234_567, 2_345_678.9
    text = metrics(seen)
    folder = f'folder="{settings[0].acquisition}"'
    assert f'defocus_files_total{{{folder},outcome="done"}} 1234567\n' in text
    assert f"defocus_read_bytes_total{{{folder}}} 98765432109876\n" in text
    assert "defocus_queue_files 10000001\n" in text
    assert f"defocus_latency_seconds_sum{{{folder}}} 2345678.9\n" in text
    assert "e+" not in text


def test_failures_are_one_number_grouped_by_reason_newest_first_and_tried_again_together(tmp_path, settings):
    with Journal(tmp_path / "out") as journal:
        for index in range(SHOWN_FAILURES + 5):
            journal.record(entry(f"{index:03d}.tif", FileState.QUARANTINED, reason="truncated"))
    seen = State(settings, Health())
    for name, code in (("a.tif", ErrorCode.EMPTY), ("b.tif", ErrorCode.EMPTY)):
        seen.see(WatchEvent("quarantined", name, f"{name}: empty", folder=tmp_path / "acq", code=code))
        with Journal(tmp_path / "out") as journal:
            journal.record(entry(name, FileState.QUARANTINED, reason=f"{name}: empty"))
    picture = seen.picture()
    assert picture["failed"] == SHOWN_FAILURES + 7
    empty, former = picture["folders"][0]["failures"]
    assert (empty["code"], [file[1] for file in empty["files"]]) == ("empty", ["b.tif", "a.tif"])
    assert (former["code"], former["count"], len(former["files"])) == ("", SHOWN_FAILURES + 5, SHOWN_FAILURES)
    assert seen.retry(0, code="empty") == 2
    assert seen.picture()["failed"] == SHOWN_FAILURES + 5
    assert seen.retry(0, f"{SHOWN_FAILURES + 4:03d}.tif") == 1
    assert seen.retry(0, code="") == SHOWN_FAILURES + 4
    assert seen.picture()["failed"] == 0
    assert Journal.peek(tmp_path / "out") == []


def test_a_file_that_is_corrected_is_no_failure_any_more(tmp_path, settings):
    seen = State(settings, Health())
    event = WatchEvent("quarantined", "a.tif", "a.tif: empty", folder=tmp_path / "acq", code=ErrorCode.EMPTY)
    seen.see(event)
    assert seen.picture()["failed"] == 1
    outcome = Outcome(Job(tmp_path / "acq" / "a.tif", tmp_path / "out" / "a.tif"), reports=(PlaneReport(copied=True),))
    seen.see(WatchEvent("done", "a.tif", folder=tmp_path / "acq", outcome=outcome))
    picture = seen.picture()
    assert (picture["failed"], picture["total"]) == (0, 1)
    assert picture["folders"][0]["last"][3:7] == ["kept", 1, 1, 0]


def test_a_backlog_is_told_with_its_time_and_does_not_count_as_latency(tmp_path, settings):
    seen, folder = State(settings, Health()), tmp_path / "acq"
    outcome = Outcome(Job(Path("a"), Path("b"), (1000, 1)), reports=(PlaneReport(blur_px=5.0),))
    seen.see(WatchEvent("backlog", left=400, forecast=720.0, folder=folder))
    picture = seen.picture()
    assert (picture["queue"], picture["backlog_s"], picture["folders"][0]["left"]) == (400, 720, 400)
    seen.see(WatchEvent("done", "a.tif", folder=folder, outcome=outcome, queued=255, left=399))
    seen.see(WatchEvent("done", "b.tif", folder=folder, outcome=outcome, queued=255, latency=0.5))
    picture = seen.picture()
    assert (picture["queue"], picture["backlog_s"], picture["folders"][0]["left"]) == (399, 718, 399)
    assert picture["folders"][0]["latency_p50_s"] == 0.5
    assert f'defocus_latency_seconds_count{{folder="{folder}"}} 1' in metrics(seen)
    assert f'defocus_backlog_files{{folder="{folder}"}} 399' in metrics(seen)
    seen.see(WatchEvent("done", "c.tif", folder=folder, outcome=outcome, left=0))
    assert (seen.picture()["queue"], seen.picture()["backlog_s"]) == (0, None)


def test_two_microscopes_have_everything_of_their_own(tmp_path):
    config = Config(
        folders=(
            Folder(str(tmp_path / "one" / "raw"), str(tmp_path / "1")),
            Folder(str(tmp_path / "two" / "raw"), str(tmp_path / "2")),
            Folder(str(tmp_path / "three"), str(tmp_path / "3"), "Spinning disk"),
        )
    )
    with Journal(tmp_path / "2") as journal:
        journal.record(entry("b.tif", report=json.dumps([PlaneReport(blur_px=9.0).as_dict()])))
    seen = State(
        config.settings(), Health(), [MicroscopeSettings(folder.name) for folder in config.folders], drift_px=4.0
    )
    outcome = Outcome(Job(Path("a"), Path("b"), (1000, 1)), reports=(PlaneReport(blur_px=5.0),))
    for _ in range(5):
        seen.see(WatchEvent("done", "a.tif", folder=tmp_path / "one" / "raw", outcome=outcome, latency=0.5))
    one, two, three = seen.picture()["folders"]
    assert [scope["name"] for scope in (one, two, three)] == ["raw", "raw (2)", "Spinning disk"]
    assert [scope["total"] for scope in (one, two, three)] == [5, 1, 0]
    assert [scope["drifted"] for scope in (one, two, three)] == [True, False, False]
    assert (one["drift_blur_px"], one["latency_p50_s"], two["latency_p50_s"]) == (5.0, 0.5, None)
    assert [point[-1] for point in seen.points(0, 0)] == ["a.tif"] * 5
    assert [point[-1] for point in seen.points(1, 0)] == ["b.tif"]
    text = metrics(seen)
    for name in ("one/raw", "two/raw", "three"):
        assert f'defocus_files_total{{folder="{tmp_path / name}",outcome="done"}}' in text
    assert f'defocus_folder_info{{folder="{tmp_path / "three"}",name="Spinning disk"' in text
    assert f'defocus_drifted{{folder="{tmp_path / "one" / "raw"}"}} 1' in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0.5 * math.sqrt(1 - 0.25) / 0.5),
        ({"na": 0.8}, 0.5 * math.sqrt(1 - 0.64) / 0.8),  # the settings go before what the file says
        ({"pixel_size_um": 0.1}, 0.1 * math.sqrt(1 - 0.25) / 0.5),
    ],
)
def test_blur_becomes_a_distance_where_the_optics_are_known(tmp_path, changes, expected):
    (tmp_path / "out").mkdir()
    tifffile.imwrite(tmp_path / "out" / "a.tif", np.zeros((32, 32), np.uint16), description=OME, metadata=None)
    config = Config(folders=(Folder(str(tmp_path / "acq"), str(tmp_path / "out"), **changes),))
    with Journal(tmp_path / "out") as journal:
        journal.record(entry("a.tif"))
    page_scopes = _microscopes(config)
    seen = State(config.settings(), Health(), page_scopes)
    assert seen.picture()["folders"][0]["um_per_px"] == pytest.approx(expected)


def test_without_optics_blur_stays_in_px(settings):
    assert State(settings, Health()).picture()["folders"][0]["um_per_px"] is None


def test_history_is_thinned_by_minutes_hours_and_days():
    day = 86400.0
    recent = [(1e9 - second, f"r{second}") for second in range(2 * LATEST)]  # a file a second
    hours = [(1e9 - 2 * day - second, f"h{second}") for second in range(0, 36_000, 60)]
    days = [(1e9 - 30 * day - second, f"d{second}") for second in range(0, int(5 * day), 1800)]
    times = sorted([*recent, *hours, *days])
    kept = thin(times)
    assert kept == sorted(kept)
    assert set(kept) < set(times)
    assert sorted(times)[-LATEST:] == kept[-LATEST:]
    counts = [sum(name.startswith(letter) for _, name in kept) for letter in "rhd"]
    assert LATEST + 8 <= counts[0] <= LATEST + 10
    assert 10 <= counts[1] <= 11
    assert 5 <= counts[2] <= 6
    assert thin([]) == []


def test_100_000_rows_answer_at_once(tmp_path, settings):
    """A state and the points of the plot, from a journal of half a year; 20 times, so that no hiccup counts."""
    report = json.dumps([PlaneReport(0.1, 0.2, 0.99, 0.1, 4.0).as_dict()])
    with Journal(tmp_path / "out") as journal:
        journal.record(entry("x.tif"))
        path = journal.path
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with closing(sqlite3.connect(path)) as connection, connection:
        columns = "relative, size, mtime_ns, digest, model, state, attempts, reason, updated, report"
        times = ((start + timedelta(seconds=150 * n)).isoformat(timespec="seconds") for n in range(100_000))
        rows = (
            (f"p{n // 1000}/{n:06d}.tif", 1, 1, "d", "m", "done" if n % 20 else "quarantined", 1, "cut", when, report)
            for n, when in enumerate(times)
        )
        connection.executemany(f"INSERT INTO files ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    config = Config(folders=(Folder(str(tmp_path / "acq"), str(tmp_path / "out")),), status=str(free_port()))
    page = StatusPage.of(config, settings, Health())
    assert page is not None
    with page:
        port, times = int(config.status), []
        for number in range(20):
            page.state.see(
                WatchEvent("quarantined", f"{number}.tif", "bad", folder=tmp_path / "acq")
            )  # nothing is cached
            begun = time.process_time()  # the page is of this process
            seen = state(port)
            times.append(time.process_time() - begun)
        assert sorted(times)[10] < 0.2
        scope = seen["folders"][0]
        assert (scope["total"], scope["failed"]) == (95_001, 5_020)
        begun = time.process_time()
        body = ask(port, "/api/points?folder=0&after=0")[2]
        assert time.process_time() - begun < 2
        points = json.loads(body)
        assert 500 <= len(points) <= 1500
        assert points[0][0] < start.timestamp() + 2 * 86400
        assert len(ask(port, "/api/state")[2]) < 20_000
        assert ask(port, f"/api/points?folder=0&after={points[-1][0]}")[2] == b"[]"


def test_odd_rows_of_a_journal_are_no_end(tmp_path, settings):
    """Whoever can write the output folder can write the journal."""
    with Journal(tmp_path / "out") as journal:
        for number in range(8):
            journal.record(entry(f"{number}.tif"))
        path = journal.path
    odd = ["{", "[1, 2]", '{"count": "many", "verdicts": 3}', "[" * 5000, '[{"blur_px": "wide", "copied": 7}]', "null"]
    with closing(sqlite3.connect(path)) as connection, connection:
        for number, report in enumerate(odd):
            connection.execute("UPDATE files SET report = ? WHERE relative = ?", (report, f"{number}.tif"))
        connection.execute("UPDATE files SET updated = 'yesterday' WHERE relative = '6.tif'")
        connection.execute("UPDATE files SET relative = '../../etc/passwd' WHERE relative = '7.tif'")
    history = read_history(tmp_path / "out")
    assert history.done == len(history.points) == 8
    assert is_corrected(tmp_path / "out", "../../etc/passwd")
    seen = State(settings, Health())
    assert seen.picture()["total"] == 8
    assert seen.pair(0, "../../etc/passwd") is None


def test_the_page_leaves_a_damaged_journal_to_the_daemon(tmp_path, settings):
    """Which keeps it aside and says so; the page would have done it in silence, before the daemon was there."""
    path = tmp_path / "out" / ".defocus" / "journal.sqlite"
    path.parent.mkdir(parents=True)
    path.write_text("this is no database" * 100)
    seen = State(settings, Health())
    scope = seen.picture()["folders"][0]
    assert (seen.points(0, 0), scope["failures"], scope["total"]) == ([], [], 0)
    assert seen.retry(0, "a.tif") == 0
    seen.see(WatchEvent("quarantined", "a.tif", "bad", folder=settings[0].acquisition))
    with pytest.raises(OutputError, match="journal cannot be written"):
        seen.retry(0, "a.tif")
    assert path.read_text().startswith("this is no database")
    assert list(path.parent.iterdir()) == [path]


def test_a_histogram_counts_all_that_is_below():
    histogram = Histogram()
    for seconds in (0.01, 0.3, 1000.0):
        histogram.add(seconds)
    assert histogram.counts[0] == 1
    assert histogram.counts[-1] == 2
    assert (histogram.count, histogram.total) == (3, 1000.31)
