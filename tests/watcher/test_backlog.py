"""Files that are there at the start: how many, about how long, and no latency, since nobody knows when they came."""

from __future__ import annotations

import json
import re
import threading

import pytest

from defocus import Engine
from defocus.engine.pipeline.forecast import Forecast
from defocus.watcher import daemon
from defocus.watcher.configuration.settings import DaemonSettings, FolderSettings
from defocus.watcher.daemon import watch
from defocus.watcher.discovery.scanner import ScanTiming
from defocus.watcher.events import WatchEvent

from ..helpers.waiting import wait_for
from .conftest import QUICK, command, free_port, outputs, write_tiff
from .status.test_status import ask, listens, state

TIMING = ScanTiming(settle=0.1, rescan=0.1, patience=0.3)


@pytest.fixture
def run(folders, tiny_model):
    """Run a daemon in this process until an event satisfies `last`; return what it reported."""

    def go(last=lambda event: False, once=False):
        events: list[WatchEvent] = []
        stop = threading.Event()

        def report(event: WatchEvent) -> None:
            events.append(event)
            if last(event):
                stop.set()

        with Engine.load(tiny_model, backend="cpu") as engine:
            folder = FolderSettings(*folders, timing=TIMING, keep_sharp=False)
            watch(DaemonSettings((folder,), once), engine, stop, report)
        return events

    return go


def fill(folder, count):
    for number in range(count):
        write_tiff(folder / f"{number:02d}.tif", number)


def test_it_is_told_before_its_first_file_is_begun(folders, run):
    fill(folders[0], 12)
    first, *others = run(once=True)
    assert (first.kind, first.left) == ("backlog", 12)
    assert first.forecast is not None
    assert first.forecast > 0
    assert [(event.kind, event.left) for event in others] == [("done", left) for left in range(11, -1, -1)]
    assert {event.latency for event in others} == {None}


def test_a_few_files_are_no_backlog_to_be_told_of_and_have_no_latency_either(folders, run, monkeypatch):
    monkeypatch.setattr(Forecast, "seconds", None)  # it is not asked
    fill(folders[0], daemon.LEAST_BACKLOG - 1)
    events = run(once=True)
    assert {event.kind for event in events} == {"done"}
    assert {event.latency for event in events} == {None}


def test_what_comes_later_has_a_latency(folders, run, monkeypatch):
    fill(folders[0], 10)
    real = Forecast.seconds

    def arriving(*arguments):
        told = real(*arguments)
        write_tiff(folders[0] / "new.tif", 99)
        return told

    monkeypatch.setattr(Forecast, "seconds", arriving)
    done = {event.relative: event for event in run(lambda event: len(outputs(folders[1])) == 11) if event.outcome}
    new = done.pop("new.tif")
    assert new.left is None
    assert new.latency is not None
    assert 0 < new.latency < 60
    assert {event.latency for event in done.values()} == {None}


def test_files_that_vanish_are_not_waited_for(folders, run, monkeypatch):
    fill(folders[0], 12)

    def vanishing(*_):
        for number in range(3):
            (folders[0] / f"{number:02d}.tif").unlink()

    monkeypatch.setattr(Forecast, "seconds", vanishing)
    events = run(lambda event: event.left == 0)
    assert (events[0].left, events[0].forecast) == (12, None)
    assert events[-1].left == 0
    assert len(outputs(folders[1])) == 9


def test_outputs_of_defocus_among_them_end_it_as_well(folders, run):
    fill(folders[0], 1)
    run(once=True)
    (folders[0] / "00.tif").write_bytes((folders[1] / "00.tif").read_bytes())
    events = run(lambda event: event.left == 0)
    assert [event.kind for event in events] == ["waiting", "warning"]


def test_the_lines_and_the_page_of_a_real_daemon(folders, start):
    """The page's latency is that of files whose arrival was seen; a backlog has its count and its time."""
    fill(folders[0], 12)
    port = free_port()
    watching = start(*QUICK, "--status", str(port))
    wait_for(lambda: listens(port), 60)
    wait_for(lambda: len(outputs(folders[1])) == 12, 60)
    lines = watching.said().splitlines()
    told = next(number for number, line in enumerate(lines) if "12 files waiting, about " in line)
    assert re.fullmatch(rf"{re.escape(str(folders[0]))}: 12 files waiting, about \d+ s", lines[told])
    assert told < next(number for number, line in enumerate(lines) if ": corrected in " in line)
    wait_for(lambda: re.search(r"\n8 files left, about \d+ s\n", watching.said()))
    wait_for(lambda: state(port)["done"] == 12)
    seen = state(port)
    assert (seen["queue"], seen["backlog_s"]) == (0, None)
    assert (seen["folders"][0]["latency_p50_s"], seen["folders"][0]["left"]) == (None, 0)
    text = ask(port, "/metrics")[2].decode()
    assert f'defocus_latency_seconds_count{{folder="{folders[0]}"}} 0' in text
    assert f'defocus_backlog_files{{folder="{folders[0]}"}} 0' in text
    write_tiff(folders[0] / "new.tif", 50)
    wait_for(lambda: state(port)["done"] == 13)
    assert state(port)["folders"][0]["latency_p50_s"] > 0


def test_json_lines_of_a_backlog(folders, tiny_model):
    fill(folders[0], 10)
    how = ("--once", "--all-planes", "--backend", "cpu", "--model", tiny_model, "--log-json", *QUICK)
    done = command(folders[0], "-o", folders[1], *how)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    told = next(line for line in lines if line["event"] == "backlog")
    assert told["left"] == 10
    assert told["forecast"] >= 0
    corrected = [line for line in lines if line["event"] == "done"]
    assert [line["left"] for line in corrected] == list(range(9, -1, -1))
    assert not [line for line in corrected if "latency" in line]
