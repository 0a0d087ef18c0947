"""Which files arrive, and when: complete ones, once, whatever their writers do."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from watchdog import observers as observers_module

from defocus.engine.errors import DefocusError
from defocus.engine.files.version import digest
from defocus.watcher.discovery import scanner
from defocus.watcher.discovery.arrival import Arrival
from defocus.watcher.discovery.completeness import Completeness, PendingFile, look, suffix_matches
from defocus.watcher.discovery.fs_events import MOST, FileEvents
from defocus.watcher.discovery.scanner import ScanTiming, arrivals, scan

from ...helpers.clock import ManualClock
from ...helpers.waiting import wait_for

QUICK = ScanTiming(settle=0.3, rescan=0.2, patience=1.0)
POLLING = ScanTiming(settle=0.3, rescan=0.2, patience=1.0, polling=True)


class Collector:
    """Runs `arrivals` in a thread and keeps what it yields, as the daemon does; time passes only as a test says."""

    def __init__(self, folder: Path, timing: ScanTiming) -> None:
        self.found: list[Arrival] = []
        self.warnings: list[str] = []
        self.stop, self.clock = threading.Event(), ManualClock()
        self.versions: set[tuple[Path, tuple[int, int]]] = set()
        self._rounds = 0

        def known(relative, stat, from_event):
            return (relative, stat) in self.versions

        def on_pass(reachable):
            self._rounds += 1

        def run():
            more = {"warn": self.warnings.append, "on_pass": on_pass, "clock": self.clock}
            for arrival in arrivals(folder, self.stop, known, timing, **more):
                self.versions.add((arrival.relative, arrival.stat))
                self.found.append(arrival)

        self.thread = threading.Thread(target=run, daemon=True)

    def __enter__(self) -> Collector:
        self.thread.start()
        wait_for(lambda: self._rounds)  # the observer is up
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.clock.advance(1)
        self.thread.join(300)
        assert not self.thread.is_alive()

    def names(self) -> list[str]:
        return [arrival.relative.as_posix() for arrival in self.found]

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass, in steps; each is over when what was due has been done."""
        for _ in range(round(seconds / 0.1)):
            self.clock.advance(0.1)
            wait_for(self.clock.idle)

    def wait(self, count: int) -> None:
        """Until so many have arrived, as time passes."""
        wait_for(lambda: len(self.found) >= count or self.clock.advance(0.05))


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "acq").mkdir()
    return tmp_path / "acq"


def tiff_bytes(tmp_path: Path, pages: int = 3) -> bytes:
    path = tmp_path / "source.tif"
    tifffile.imwrite(path, np.arange(pages * 64 * 64, dtype=np.uint16).reshape(pages, 64, 64), photometric="minisblack")
    return path.read_bytes()


@pytest.mark.parametrize("timing", [QUICK, POLLING], ids=["events", "polling"])
def test_backlog_and_new_files_arrive_once(folder, tmp_path, timing):
    content = tiff_bytes(tmp_path)
    (folder / "sub").mkdir()
    (folder / "old.tif").write_bytes(content)
    os.utime(folder / "old.tif", (1, 1))  # copied with a time of 1970
    with Collector(folder, timing) as collector:
        collector.wait(1)
        (folder / "sub" / "new name \u00fc.TIFF").write_bytes(content)
        collector.wait(2)
        collector.pass_time(3 * timing.rescan)
    assert collector.names() == ["old.tif", "sub/new name \u00fc.TIFF"]
    assert all(arrival.problem is None for arrival in collector.found)


def test_a_close_is_believed_at_once(folder, tmp_path):
    content = tiff_bytes(tmp_path)
    with Collector(folder, ScanTiming(settle=30, rescan=0.5)) as collector:
        before = collector.clock.monotonic()
        (folder / "a.tif").write_bytes(content)
        collector.wait(1)
        assert collector.clock.monotonic() - before < 30


def test_a_rename_into_place_is_believed_at_once(folder, tmp_path):
    (folder / "a.tif.tmp").write_bytes(tiff_bytes(tmp_path))
    with Collector(folder, ScanTiming(settle=30, rescan=0.5)) as collector:
        before = collector.clock.monotonic()
        (folder / "a.tif.tmp").rename(folder / "a.tif")
        collector.wait(1)
        assert collector.clock.monotonic() - before < 30
    assert collector.names() == ["a.tif"]


@pytest.mark.parametrize("timing", [QUICK, POLLING], ids=["events", "polling"])
def test_a_slow_writer_is_waited_for(folder, tmp_path, timing):
    content = tiff_bytes(tmp_path)
    with Collector(folder, timing) as collector, open(folder / "a.tif", "wb") as file:
        for start in range(0, len(content), 4000):
            file.write(content[start : start + 4000])
            file.flush()
            collector.pass_time(0.2)
            assert collector.names() == []
        file.close()
        collector.wait(1)
        assert collector.found[0].stat[0] == len(content)
        assert collector.found[0].problem is None


def test_a_writer_that_pauses_is_waited_for(folder, tmp_path):
    """Longer than it takes to settle: the structure says that it is not whole."""
    content = tiff_bytes(tmp_path)
    with Collector(folder, POLLING) as collector:
        with open(folder / "a.tif", "wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            collector.pass_time(0.8)
            assert collector.names() == []
            file.write(content[len(content) // 2 :])
        collector.wait(1)
        assert collector.found[0].problem is None


def test_a_writer_that_closes_between_its_pieces_is_waited_for(folder, tmp_path):
    content = tiff_bytes(tmp_path)
    with Collector(folder, QUICK) as collector:
        (folder / "a.tif").write_bytes(content[:9000])
        collector.pass_time(0.6)
        assert collector.names() == []
        with open(folder / "a.tif", "ab") as file:
            file.write(content[9000:])
        collector.wait(1)
        assert collector.found[0].problem is None


@pytest.mark.parametrize("content", [b"", b"a diary\n", b"\0" * 5000, "half"])
def test_what_stays_broken_arrives_with_its_problem(folder, tmp_path, content):
    whole = tiff_bytes(tmp_path)
    (folder / "a.tif").write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with Collector(folder, QUICK) as collector:
        collector.wait(1)
        assert collector.found[0].problem is not None
        assert str(folder / "a.tif") in str(collector.found[0].problem)
        (folder / "a.tif").write_bytes(whole)  # a changed input is a new version
        collector.wait(2)
    assert collector.found[1].problem is None


def test_a_rewritten_file_arrives_again(folder, tmp_path):
    content = tiff_bytes(tmp_path)
    with Collector(folder, QUICK) as collector:
        (folder / "a.tif").write_bytes(content)
        collector.wait(1)
        (folder / "a.tif").write_bytes(content)
        collector.wait(2)
    assert collector.names() == ["a.tif", "a.tif"]
    assert collector.found[0].stat != collector.found[1].stat


def test_the_rescan_finds_what_no_event_told(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(FileEvents, "on_any_event", lambda self, event: None)
    with Collector(folder, QUICK) as collector:
        (folder / "a.tif").write_bytes(tiff_bytes(tmp_path))
        collector.wait(1)


def test_an_observer_that_cannot_start_is_told_and_done_without(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(FileEvents, "start", lambda self: "inotify watch limit reached")
    (folder / "a.tif").write_bytes(tiff_bytes(tmp_path))
    with Collector(folder, QUICK) as collector:
        collector.wait(1)
        collector.pass_time(0.6)
    assert len(collector.warnings) == 1
    assert "inotify watch limit reached" in collector.warnings[0]


def test_no_inotify_instance_left_means_rescans_and_a_line(folder, tmp_path, monkeypatch):
    """A user has 128 of them; watchdog raises as soon as an observer is made."""

    def none_left():
        raise OSError(errno.EMFILE, "inotify instance limit reached")

    monkeypatch.setattr("watchdog.observers.Observer", none_left)
    (folder / "a.tif").write_bytes(tiff_bytes(tmp_path))
    with Collector(folder, QUICK) as collector:
        collector.wait(1)
    assert len(collector.warnings) == 1
    assert "does not tell defocus about new files (inotify instance limit reached)" in collector.warnings[0]


@pytest.mark.parametrize(
    ("number", "cause"), [(errno.EMFILE, "not enough file descriptors"), (errno.EIO, "cannot be reached")]
)
def test_with_an_end_a_folder_that_cannot_be_reached_is_not_waited_for(folder, monkeypatch, number, cause):
    def broken(path):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(scanner.os, "scandir", broken)
    timing = ScanTiming(settle=0.01, rescan=0.01, patience=0.05, polling=True)
    with pytest.raises(DefocusError, match=cause):
        list(arrivals(folder, threading.Event(), lambda *_: True, timing, until=lambda: True))


def test_an_observer_that_dies_is_started_again(folder, tmp_path, monkeypatch):
    observers = []
    real = observers_module.Observer
    monkeypatch.setattr(observers_module, "Observer", lambda: observers.append(real()) or observers[-1])
    events = FileEvents(folder)
    assert events.start() is None
    assert events.alive()
    observers[0].stop()
    observers[0].join(300)
    assert not events.alive()
    assert events.start() is None
    (folder / "a.tif").write_bytes(b"x")
    events.wait(5)
    assert {event.path.name for event in events.take()} == {"a.tif"}
    events.stop()


def test_hints_are_bounded():
    events = FileEvents(Path("acq"))
    assert events._queue.maxlen == MOST


def test_a_folder_that_vanishes_and_returns(folder, tmp_path):
    content = tiff_bytes(tmp_path)
    (folder / "a.tif").write_bytes(content)
    with Collector(folder, QUICK) as collector:
        collector.wait(1)
        folder.rename(tmp_path / "away")
        collector.pass_time(0.8)
        assert "cannot be reached" in collector.warnings[-1]
        (tmp_path / "away").rename(folder)
        (folder / "b.tif").write_bytes(content)
        collector.wait(2)
        assert "is back" in collector.warnings[-1]
        collector.pass_time(0.5)
        (folder / "c.tif").write_bytes(content)  # and its events are heard again
        collector.wait(3)
    assert collector.names() == ["a.tif", "b.tif", "c.tif"]


def test_until_ends_it(folder, tmp_path):
    (folder / "a.tif").write_bytes(tiff_bytes(tmp_path))
    seen: set[Path] = set()
    found = []
    for arrival in arrivals(
        folder, threading.Event(), lambda path, stat, from_event: path in seen, QUICK, lambda: True
    ):
        seen.add(arrival.relative)
        found.append(arrival.relative.name)
    assert found == ["a.tif"]


def test_an_error_of_known_is_not_swallowed(folder, tmp_path):
    (folder / "a.tif").write_bytes(tiff_bytes(tmp_path))

    def known(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        next(arrivals(folder, threading.Event(), known, QUICK))


def test_scan_takes_tiffs_only_and_follows_no_links(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("a.tif", "b.TIFF", "c.ome.tif", "d.png", ".hidden.tif", "~lock.tif", ".defocus-1.part"):
        (folder / name).write_bytes(b"")
    (elsewhere / "e.tif").write_bytes(b"")
    (folder / "link").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    assert sorted(path.name for path in scan(folder)) == ["a.tif", "b.TIFF", "c.ome.tif"]
    with pytest.raises(OSError):
        list(scan(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.tif", True),
        ("a.TIF", True),
        ("a b.ome.tiff", True),
        ("a.tif.part", False),
        (".a.tif", False),
        ("tif", False),
    ],
)
def test_names_that_are_taken(name, expected):
    assert suffix_matches(name) is expected


def test_stability_is_measured_by_our_own_clock(folder, tmp_path):
    """A modification time in the future, or long ago, changes nothing."""
    path = folder / "a.tif"
    path.write_bytes(tiff_bytes(tmp_path))
    for when in (1, int(time.time()) + 10**6):
        os.utime(path, (when, when))
        stat = scanner.stat_of(path)
        assert look(path, PendingFile(stat, since=0.0, seen=0.0), 1.0, 2.0, 30.0) is Completeness.WAITING
        assert look(path, PendingFile(stat, since=0.0, seen=0.0), 2.0, 2.0, 30.0) is Completeness.COMPLETE
    changed = PendingFile((1, 1), since=0.0, seen=0.0, closed=True)
    assert look(path, changed, 5.0, 2.0, 30.0) is Completeness.WAITING
    assert (changed.since, changed.closed) == (5.0, False)
    path.unlink()
    assert look(path, changed, 5.0, 2.0, 30.0) is Completeness.GONE


def test_a_digest_sees_head_tail_and_size(tmp_path):
    path = tmp_path / "a"
    base = bytearray(300_000)
    found = set()
    for change in (None, 0, 10, 299_999, "longer"):
        content = bytearray(base)
        if isinstance(change, int):
            content[change] = 1
        path.write_bytes(content + b"\0" if change == "longer" else content)
        found.add(digest(path))
    assert len(found) == 5
