"""The daemon on a disk that is really full."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import tifffile

from defocus import Engine
from defocus.watcher.alerts.health import Health
from defocus.watcher.configuration.settings import DaemonSettings, FolderSettings
from defocus.watcher.daemon import watch
from defocus.watcher.discovery.scanner import ScanTiming
from defocus.watcher.events import WatchEvent
from defocus.watcher.output import disk_space

from ...helpers.waiting import wait_for
from ..conftest import QUICK, Watching, outputs, write_tiff

LARGE = (200, 250)  # 100 KB


def fill(path: Path) -> None:
    """Write until the disk takes no more."""
    with open(path, "wb", buffering=0) as file:
        while os.statvfs(path).f_bavail:
            file.write(bytes(1024))


def test_the_daemon_waits_for_room_and_goes_on(small_disk, tmp_path, tiny_model):
    acquisition, out, log = tmp_path / "acq", small_disk / "out", tmp_path / "log.txt"
    acquisition.mkdir()
    ballast = small_disk / "ballast"
    process = Watching(acquisition, out, tiny_model, log, *QUICK, "--min-free-mb", "0").ready()
    try:
        fill(ballast)
        write_tiff(acquisition / "a.tif", shape=LARGE)
        wait_for(lambda: "paused: " in process.said())
        assert "the disk is full" in process.said()
        ballast.unlink()
        wait_for((out / "a.tif").exists)
        assert tifffile.imread(out / "a.tif").shape == LARGE
        wait_for(lambda: "can be written to again" in process.said())
    finally:
        assert process.stop() == 0
    assert "quarantined" not in process.said()


class Watched:
    """A daemon in this process, with short pauses: its events by kind, and its health."""

    def __init__(self, folder: FolderSettings, engine: Engine) -> None:
        self.events, self.health, self._stop = list[WatchEvent](), Health(), threading.Event()
        given = (DaemonSettings((folder,)), engine, self._stop, self.events.append, self.health)
        self._thread = threading.Thread(target=watch, args=given)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def on_small_disk(small_disk, tmp_path, tiny_model, monkeypatch):
    """Watch a folder whose outputs go to the small disk: `on_small_disk(retries)`, to be used in a with statement."""
    monkeypatch.setattr(disk_space, "PAUSE", 0.1)
    (tmp_path / "acq").mkdir()
    with Engine.load(tiny_model, backend="cpu") as engine:
        timing = ScanTiming(settle=0.05, rescan=0.05)
        yield lambda retries: Watched(
            FolderSettings(tmp_path / "acq", small_disk / "out", timing, keep_sharp=False, retries=retries), engine
        )


@pytest.fixture
def failures(monkeypatch) -> list[int]:
    """The sizes of the files whose outputs failed, one after the other."""
    sizes, real = list[int](), disk_space.OutputGuard.is_to_blame

    def is_to_blame(guard, size, error):
        sizes.append(size)
        return real(guard, size, error)

    monkeypatch.setattr(disk_space.OutputGuard, "is_to_blame", is_to_blame)
    return sizes


@pytest.mark.parametrize("retries", [1, 3])
def test_the_only_file_for_which_there_is_no_room_pauses_and_is_not_given_up(
    on_small_disk, small_disk, tmp_path, failures, retries
):
    """A small file would fit: that the disk is full shows when this one has failed twice."""
    (small_disk / "ballast").write_bytes(bytes(150 * 1024))
    write_tiff(tmp_path / "acq" / "a.tif", shape=LARGE)
    with on_small_disk(retries) as watched:
        wait_for(lambda: len(failures) >= 6)
        assert watched.kinds() == ["retry", "paused"]  # told once, however often it is tried
        assert any("the disk is full" in problem for problem in watched.health.problems())
        (small_disk / "ballast").unlink()
        wait_for(lambda: "done" in watched.kinds())
        assert watched.health.problems() == []
    assert watched.kinds() == ["retry", "paused", "warning", "done"]
    assert outputs(small_disk / "out") == ["a.tif"]


def test_a_file_larger_than_the_disk_is_quarantined_and_pauses_nothing(on_small_disk, small_disk, tmp_path, failures):
    write_tiff(tmp_path / "acq" / "large.tif", shape=(400, 500))
    with on_small_disk(3) as watched:
        wait_for(lambda: "quarantined" in watched.kinds())
        write_tiff(tmp_path / "acq" / "small.tif")
        wait_for(lambda: "done" in watched.kinds())
        assert watched.health.problems() == []
    assert watched.kinds() == ["retry", "retry", "quarantined", "done"]
    assert failures == []  # its size was looked at before it was begun: nobody asks whether the folder is to blame
