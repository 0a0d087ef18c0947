"""What the daemon decides, driven in process: failures that a real disk or runtime gives too rarely to wait for."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tifffile

from defocus import Engine
from defocus.engine.errors import BackendError, ChangedError, DefocusError, OutputError
from defocus.engine.pipeline import steps
from defocus.engine.pipeline.steps import stat_of
from defocus.watcher import daemon
from defocus.watcher.alerts.health import LOOP_STUCK, Health
from defocus.watcher.configuration.settings import DaemonSettings, FolderSettings, default_out
from defocus.watcher.daemon import watch
from defocus.watcher.discovery.scanner import ScanTiming
from defocus.watcher.events import WatchEvent
from defocus.watcher.folder import PRUNE_INTERVAL, FolderProcessor
from defocus.watcher.journal import Journal
from defocus.watcher.journal_entry import FileState, JournalEntry
from defocus.watcher.output import disk_space
from defocus.watcher.output.disk_space import OutputGuard
from defocus.watcher.queue import ArrivalQueue

from ..helpers.clock import ManualClock
from ..helpers.sessions import watched_engine
from ..helpers.waiting import wait_for
from .conftest import outputs, write_tiff

TIMING = ScanTiming(settle=0.1, rescan=0.1, patience=0.3)


def watching(acquisition: Path, out: Path, once: bool = False, **changes) -> DaemonSettings:
    """The settings of a daemon that watches one folder."""
    return DaemonSettings((FolderSettings(acquisition, out, TIMING, keep_sharp=False),), once, **changes)


@pytest.fixture
def run(folders, tiny_model):
    """Run the daemon over what is in the folder; return what it reported and what it quarantined."""

    def go(once=True, **changes):
        events: list[WatchEvent] = []
        with Engine.load(tiny_model, backend="cpu") as engine:
            folder = FolderSettings(*folders, timing=TIMING, keep_sharp=False, **changes)
            quarantined = watch(DaemonSettings((folder,), once), engine, threading.Event(), events.append)
        return events, quarantined

    return go


def failing(monkeypatch, errors):
    """Make the engine fail with these errors, one a file, and work after."""
    real, left = Engine.restore_many, list(errors)

    def together(self, images, *rest):
        return [left.pop(0) for _ in images] if left else real(self, images, *rest)

    monkeypatch.setattr(Engine, "restore_many", together)


def test_a_failure_is_tried_again(folders, run, monkeypatch):
    write_tiff(folders[0] / "a.tif")
    failing(monkeypatch, [BackendError("gpu", "hiccup", "wait"), BackendError("gpu", "hiccup", "wait")])
    events, quarantined = run()
    assert [event.kind for event in events] == ["retry", "retry", "done"]
    assert quarantined == []
    assert outputs(folders[1]) == ["a.tif"]


def test_tries_are_bounded(folders, run, monkeypatch):
    write_tiff(folders[0] / "a.tif")
    write_tiff(folders[0] / "b.tif", 1)
    real, error = Engine.restore_many, BackendError("gpu", "always this", "give up")

    def together(self, images, *rest):
        return [error if Path(str(image.name)).name == "a.tif" else real(self, [image], *rest)[0] for image in images]

    monkeypatch.setattr(Engine, "restore_many", together)
    events, quarantined = run(retries=3)
    assert [event.kind for event in events if event.relative == "a.tif"] == ["retry", "retry", "quarantined"]
    assert [(entry.relative, entry.attempts, entry.state) for entry in quarantined] == [
        ("a.tif", 3, FileState.QUARANTINED)
    ]
    assert "always this" in quarantined[0].reason
    assert outputs(folders[1]) == ["b.tif"]


@pytest.mark.parametrize("shape", [(64, 64), (3, 64, 64)])
def test_pixels_that_cannot_be_used_are_not_tried_again(folders, run, shape):
    image = np.ones(shape, np.float32)
    image[..., 5, 5] = np.nan
    tifffile.imwrite(folders[0] / "nan.tif", image, photometric="minisblack")
    events, quarantined = run(retries=3)
    assert [event.kind for event in events] == ["quarantined"]
    assert [(entry.relative, entry.attempts) for entry in quarantined] == [("nan.tif", 1)]
    assert "holds NaN values; replace them" in quarantined[0].reason


def test_a_file_that_was_set_aside_and_is_gone_is_not_told_again(folders, run):
    (folders[0] / "bad.tif").write_bytes(b"II*\0broken")
    assert [entry.relative for entry in run()[1]] == ["bad.tif"]
    assert [entry.relative for entry in run()[1]] == ["bad.tif"]
    (folders[0] / "bad.tif").unlink()
    assert run()[1] == []
    with Journal(folders[1]) as journal:  # but it is not forgotten: it may come back unchanged
        assert [entry.relative for entry in journal.quarantined()] == ["bad.tif"]


def test_a_file_that_changed_while_read_is_no_failure(folders, run, monkeypatch):
    write_tiff(folders[0] / "a.tif")
    real, left = steps.check_unchanged, [True]

    def check(path, version):
        if left:
            left.pop()
            raise ChangedError(path, "changed while it was read", "try again")
        real(path, version)

    monkeypatch.setattr(steps, "check_unchanged", check)
    events, quarantined = run()
    assert [event.kind for event in events] == ["done"]
    assert quarantined == []


def test_a_full_disk_pauses_and_sets_nothing_aside(folders, tiny_model, monkeypatch):
    write_tiff(folders[0] / "a.tif")
    failing(monkeypatch, [OutputError("out", "the disk is full", "free some space")])
    errors = [None, OutputError("out", "the disk is full", "free some space")]
    monkeypatch.setattr(disk_space, "why_not_writable", lambda out: errors.pop() if len(errors) > 1 else errors[0])
    monkeypatch.setattr(disk_space, "PAUSE", 0.05)
    stop, events = threading.Event(), []

    def report(event):
        events.append(event)
        if event.kind == "done":
            stop.set()

    with Engine.load(tiny_model, backend="cpu") as engine:
        quarantined = watch(watching(*folders), engine, stop, report)
    assert [event.kind for event in events] == ["paused", "warning", "done"]
    assert quarantined == []


def test_with_once_a_full_disk_ends_it(folders, run, monkeypatch):
    write_tiff(folders[0] / "a.tif")
    failing(monkeypatch, [OutputError("out", "the disk is full", "free some space")])
    monkeypatch.setattr(disk_space, "why_not_writable", lambda out: OutputError("out", "the disk is full", "wait"))
    with pytest.raises(OutputError, match="disk is full"):
        run()


def test_with_once_a_journal_that_cannot_be_written_ends_it(folders, run, monkeypatch):
    """It would otherwise be found again and again."""
    write_tiff(folders[0] / "a.tif")

    def record(self, entry):
        raise OutputError(self.path, "the disk is full", "free some space")

    monkeypatch.setattr(Journal, "record", record)
    with pytest.raises(OutputError, match="disk is full"):
        run()
    assert outputs(folders[1]) == ["a.tif"]


def test_with_once_a_journal_that_cannot_be_read_ends_it(folders, run, monkeypatch):
    """No file would be found that is to be done, and the exit code would be 0."""
    write_tiff(folders[0] / "a.tif")
    used, trouble = Journal._used, iter([OutputError("journal", "is locked", "wait")])

    def once(self):
        if threading.current_thread().name == "defocus-scan" and (error := next(trouble, None)):
            raise error
        return used(self)

    monkeypatch.setattr(Journal, "_used", once)
    with pytest.raises(DefocusError, match="is locked"):
        run()


def test_a_dead_finder_ends_the_daemon(run, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("oops")
        yield

    monkeypatch.setattr(daemon, "arrivals", broken)
    with pytest.raises(DefocusError, match="looking for files failed"):
        run(once=False)


def test_a_long_backlog_is_no_silence(folders, tiny_model, monkeypatch):
    """The line is full for as long as the engine takes; the thread that finds files waits, and says so."""
    for number in range(12):
        write_tiff(folders[0] / f"{number}.tif", number)
    go_on, stop, now, lines = threading.Event(), threading.Event(), [0.0], []

    def line(*arguments, **how):
        lines.append(ArrivalQueue(*arguments, length=2, **how))
        return lines[0]

    real = Engine.restore_many
    monkeypatch.setattr(Engine, "restore_many", lambda *arguments: go_on.wait(300) and real(*arguments))
    monkeypatch.setattr(daemon, "ArrivalQueue", line)
    monkeypatch.setattr(daemon, "LEAST_BACKLOG", 13)  # no plane is timed
    health = Health(lambda: now[0])
    with Engine.load(tiny_model, backend="cpu") as engine:
        settings = watching(*folders)
        thread = threading.Thread(target=watch, args=(settings, engine, stop, lambda event: None, health))
        thread.start()
        wait_for(lambda: lines and len(lines[0]) == 2)
        now[0] = LOOP_STUCK + 1
        wait_for(lambda: not health.problems())
        assert not health.stuck()
        go_on.set()
        wait_for(lambda: len(outputs(folders[1])) == 12)
        stop.set()
        thread.join(300)


def test_another_model_makes_everything_anew(folders, run, make_model, tmp_path):
    write_tiff(folders[0] / "a.tif")
    assert [event.kind for event in run()[0]] == ["done"]
    assert run()[0] == []  # known, not even looked at
    other = make_model(tmp_path / "other.onnx", name="other")
    with Engine.load(other, backend="cpu") as engine:
        events: list[WatchEvent] = []
        watch(watching(*folders, once=True), engine, threading.Event(), events.append)
    assert [event.kind for event in events] == ["done"]


def test_the_default_output_folder_lies_beside(tmp_path):
    assert default_out(tmp_path / "acq") == tmp_path.resolve() / "acq_corrected"


def test_of_two_versions_in_a_row_the_newer_one_is_there_at_the_end(folders, tiny_model, monkeypatch):
    """The older one is still being written when the newer comes: stages overlap, versions of a file do not."""
    source, stop = folders[0] / "a.tif", threading.Event()
    write_tiff(source, seed=0)
    writing, rewritten, real = threading.Event(), threading.Event(), steps.write_tiff

    def slow(source, restored, path, account):
        if not writing.is_set():  # the first version's
            writing.set()
            assert rewritten.wait(300)
        real(source, restored, path, account)

    monkeypatch.setattr(steps, "write_tiff", slow)

    def rewrite():
        writing.wait(300)
        write_tiff(folders[0] / ".new", seed=1)
        os.replace(folders[0] / ".new", source)
        rewritten.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    done: list[WatchEvent] = []

    def told(event: WatchEvent) -> None:
        done.append(event)
        if len([one for one in done if one.kind == "done"]) == 2:
            stop.set()

    with Engine.load(tiny_model, backend="cpu") as engine:
        watch(watching(*folders), engine, stop, told)
        writer.join()
        expected = engine(tifffile.imread(source))
    np.testing.assert_array_equal(tifffile.imread(folders[1] / "a.tif"), expected)
    with Journal(folders[1]) as journal:
        entry = journal.find(Path("a.tif"))
    assert entry is not None
    assert entry.stat == stat_of(source)


def test_a_stop_leaves_a_large_file_for_the_next_start(folders, tiny_model):
    """What lies on disk because it is large is not finished first; what is in memory is."""
    image = np.random.default_rng(0).integers(100, 3000, (600, 600), dtype=np.uint16)
    tifffile.imwrite(folders[0] / "large.tif", image)
    stop = threading.Event()
    runs = []

    def before(batch, stream):
        runs.append(len(batch))
        if len(runs) == 3:
            stop.set()

    with watched_engine(tiny_model, before, tile=64, streams=1) as engine:
        watch(watching(*folders, memory=1000), engine, stop)
        assert len(runs) == 3
        assert outputs(folders[1]) == []
        watch(watching(*folders, memory=1000, once=True), engine, threading.Event())
        expected = engine(image)
    np.testing.assert_array_equal(tifffile.imread(folders[1] / "large.tif"), expected)


def test_the_journal_forgets_what_is_gone_once_a_day(folders, tiny_model):
    """A daemon that runs for months is not started anew to have its journal cleared."""
    write_tiff(folders[0] / "there.tif", 1)
    clock, settings = ManualClock(), FolderSettings(*folders, keep_days=1.0)
    with Engine.load(tiny_model, backend="cpu") as engine, Journal(folders[1]) as journal:
        for name in ("gone.tif", "there.tif"):
            journal.record(JournalEntry(name, (1, 1), "d", "m", FileState.DONE))
        with closing(sqlite3.connect(journal.path)) as connection, connection:
            connection.execute("UPDATE files SET updated = '2020-01-01T00:00:00+00:00'")
        processor = FolderProcessor(settings, engine, journal, OutputGuard(folders[1]), clock=clock)
        (folders[0] / "gone.tif").write_bytes(b"still there")
        processor.prune_journal()
        assert journal.counts()[FileState.DONE] == 2
        (folders[0] / "gone.tif").unlink()
        clock.advance(PRUNE_INTERVAL - 1)
        processor.prune_journal()
        assert journal.counts()[FileState.DONE] == 2
        clock.advance(1)
        processor.prune_journal()
        assert journal.counts()[FileState.DONE] == 1
        assert journal.find(Path("there.tif")) is not None
