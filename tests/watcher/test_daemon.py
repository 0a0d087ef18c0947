"""What the daemon decides, driven in process: failures that a real disk or runtime gives too rarely to wait for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from defocus import Engine
from defocus.engine import pipeline as pipeline_module
from defocus.engine.errors import BackendError, ChangedError, DefocusError, OutputError
from defocus.watcher import daemon, desk
from defocus.watcher.arrivals import Pace
from defocus.watcher.daemon import watch
from defocus.watcher.journal import Journal, State
from defocus.watcher.settings import Event, WatchSettings, default_out

from .conftest import outputs, write_tiff

PACE = Pace(settle=0.1, rescan=0.1, patience=0.3)


@pytest.fixture
def run(folders, tiny_model):
    """Run the daemon over what is in the folder; return what it reported and what it set aside."""

    def go(**changes):
        events: list[Event] = []
        with Engine.load(tiny_model, backend="cpu") as engine:
            settings = WatchSettings(*folders, **({"pace": PACE, "once": True} | changes))
            aside = watch(settings, engine, threading.Event(), events.append)
        return events, aside

    return go


def failing(monkeypatch, errors):
    """Make the engine fail with these errors, one a call, and work after."""
    real, left = Engine.__call__, list(errors)

    def call(self, *arguments, **names):
        if left:
            raise left.pop(0)
        return real(self, *arguments, **names)

    monkeypatch.setattr(Engine, "__call__", call)


def test_a_failure_is_tried_again(folders, run, monkeypatch):
    write_tiff(folders[0] / "a.tif")
    failing(monkeypatch, [BackendError("gpu", "hiccup", "wait"), BackendError("gpu", "hiccup", "wait")])
    events, aside = run()
    assert [event.kind for event in events] == ["retry", "retry", "done"]
    assert aside == []
    assert outputs(folders[1]) == ["a.tif"]


def test_tries_are_bounded(folders, run, monkeypatch):
    write_tiff(folders[0] / "a.tif")
    write_tiff(folders[0] / "b.tif", 1)
    real = Engine.__call__

    def call(self, image, axes=None, name="image"):
        if Path(str(name)).name == "a.tif":
            raise BackendError("gpu", "always this", "give up")
        return real(self, image, axes, name)

    monkeypatch.setattr(Engine, "__call__", call)
    events, aside = run(retries=3)
    assert [event.kind for event in events if event.relative == "a.tif"] == ["retry", "retry", "quarantined"]
    assert [(entry.relative, entry.attempts, entry.state) for entry in aside] == [("a.tif", 3, State.QUARANTINED)]
    assert "always this" in aside[0].reason
    assert outputs(folders[1]) == ["b.tif"]


def test_a_file_that_changed_while_read_is_no_failure(folders, run, monkeypatch):
    write_tiff(folders[0] / "a.tif")
    real, left = pipeline_module.check_unchanged, [True]

    def check(path, version):
        if left:
            left.pop()
            raise ChangedError(path, "changed while it was read", "try again")
        real(path, version)

    monkeypatch.setattr(pipeline_module, "check_unchanged", check)
    events, aside = run()
    assert [event.kind for event in events] == ["done"]
    assert aside == []


def test_a_full_disk_pauses_and_sets_nothing_aside(folders, tiny_model, monkeypatch):
    write_tiff(folders[0] / "a.tif")
    failing(monkeypatch, [OutputError("out", "the disk is full", "free some space")])
    monkeypatch.setattr(desk, "OUTPUT_PAUSE", 0.05)
    stop, events = threading.Event(), []

    def report(event):
        events.append(event)
        if event.kind == "done":
            stop.set()

    with Engine.load(tiny_model, backend="cpu") as engine:
        aside = watch(WatchSettings(*folders, pace=PACE), engine, stop, report)
    assert [event.kind for event in events] == ["paused", "done"]
    assert aside == []


def test_with_once_a_full_disk_ends_it(folders, run, monkeypatch):
    write_tiff(folders[0] / "a.tif")
    failing(monkeypatch, [OutputError("out", "the disk is full", "free some space")])
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


def test_a_dead_finder_ends_the_daemon(run, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("oops")
        yield

    monkeypatch.setattr(daemon, "arrivals", broken)
    with pytest.raises(DefocusError, match="looking for files failed"):
        run(once=False)


def test_another_model_makes_everything_anew(folders, run, make_model, tmp_path):
    write_tiff(folders[0] / "a.tif")
    assert [event.kind for event in run()[0]] == ["done"]
    assert run()[0] == []  # known, not even looked at
    other = make_model(tmp_path / "other.onnx", name="other")
    with Engine.load(other, backend="cpu") as engine:
        events: list[Event] = []
        watch(WatchSettings(*folders, pace=PACE, once=True), engine, threading.Event(), events.append)
    assert [event.kind for event in events] == ["done"]


def test_the_default_output_folder_lies_beside(tmp_path):
    assert default_out(tmp_path / "acq") == tmp_path.resolve() / "acq_corrected"
