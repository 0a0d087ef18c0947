"""The room where channel files wait: what the real process gets into too rarely to wait for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from defocus.engine.pipeline.channel_pattern import Pattern
from defocus.engine.pipeline.steps import stat_of
from defocus.watcher.configuration.settings import FolderSettings
from defocus.watcher.discovery import channel_assembler
from defocus.watcher.discovery.arrival import Arrival
from defocus.watcher.discovery.channel_assembler import ChannelAssembler
from defocus.watcher.discovery.scanner import ScanTiming
from defocus.watcher.tracker import FileTracker

from ...helpers.clock import ManualClock
from ..conftest import write_tiff


class Folder:
    """An acquisition folder with a room, and the files that its journal would give back."""

    def __init__(
        self,
        root: Path,
        pattern: str | None = "*_w{channel=1,2}{ignore}",
        once: bool = False,
        partner_wait: float = 20.0,
    ) -> None:
        self.path = root / "acq"
        self.path.mkdir()
        self.known: list[Arrival] = []
        self.tracker, self.clock = FileTracker(), ManualClock()
        settings = FolderSettings(
            self.path,
            root / "out",
            ScanTiming(rescan=0.1),
            channels=Pattern.parse(pattern) if pattern else None,
            partner_wait=partner_wait,
        )
        self.room = ChannelAssembler(settings, 2, lambda glob, newest: self.known, once, self.tracker, self.clock)

    def file(self, name: str, seen: float = 0.0, **arguments) -> Arrival:
        write_tiff(self.path / name, 1, **arguments)
        return Arrival(self.path / name, Path(name), stat_of(self.path / name), seen)

    def overdue(self) -> list[Arrival]:
        """What goes on after the time to wait is over."""
        self.clock.advance(30)
        return self.room.overdue()


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


def names(arrivals: list[Arrival]) -> list[list[str]]:
    return [[one.relative.name for one in arrival.each()] for arrival in arrivals]


def test_a_group_leaves_in_the_order_of_channels_as_its_last_file_came(folder):
    assert folder.room.take(folder.file("a_w2.tif", seen=3.0)) == []
    assert folder.tracker.waiting == 1
    found = folder.room.take(folder.file("a_w1.tif", seen=5.0))
    assert names(found) == [["a_w1.tif", "a_w2.tif"]]
    assert [one.seen for one in found[0].each()] == [5.0, 5.0]  # its latency does not count the waiting
    assert folder.tracker.waiting == 0


def test_nothing_is_missing_while_it_is_being_written(folder):
    folder.room.take(folder.file("a_w1.tif"))
    (folder.path / "a_w2.tif").write_bytes(b"II*\0")
    assert folder.overdue() == []
    (folder.path / "a_w2.tif").unlink()
    (late,) = folder.overdue()
    assert "waited 20 s in vain for channel 2 (a_w2*.tif)" in str(late.problem)


def test_nothing_is_missing_while_the_folder_is_gone(folder):
    folder.room.take(folder.file("a_w1.tif"))
    folder.path.rename(folder.path.with_name("away"))
    assert folder.overdue() == []
    assert folder.tracker.waiting == 1
    folder.path.with_name("away").rename(folder.path)
    assert len(folder.overdue()) == 1


def test_one_that_has_gone_itself_is_not_set_aside(folder):
    folder.room.take(folder.file("a_w1.tif"))
    (folder.path / "a_w1.tif").unlink()
    (gone,) = folder.overdue()
    assert gone.problem is None  # the pipeline finds that it has vanished, and it is forgotten


def test_a_new_version_takes_the_place_of_the_old_one(folder):
    folder.room.take(folder.file("a_w1.tif"))
    newer = folder.file("a_w1.tif", shape=(32, 32))
    assert folder.room.take(newer) == []
    (found,) = folder.room.take(folder.file("a_w2.tif"))
    assert found.stat == newer.stat


def test_one_written_again_with_all_channels_waits_no_longer(folder):
    folder.room.take(folder.file("a_w1.tif"))
    tifffile.imwrite(folder.path / "a_w1.tif", np.ones((2, 16, 16), np.uint16), imagej=True, metadata={"axes": "CYX"})
    whole = Arrival(folder.path / "a_w1.tif", Path("a_w1.tif"), stat_of(folder.path / "a_w1.tif"), 0.0)
    assert folder.room.take(whole) == [whole]
    assert folder.tracker.waiting == 0


def test_the_same_channel_twice_names_both(folder):
    folder.room.take(folder.file("a_w1x.tif"))
    (second,) = folder.room.take(folder.file("a_w1y.tif"))
    assert second.relative.name == "a_w1y.tif"
    assert "channel 1 is there twice (a_w1x.tif and a_w1y.tif)" in str(second.problem)
    assert names(folder.room.take(folder.file("a_w2.tif"))) == [["a_w1x.tif", "a_w2.tif"]]


def test_one_that_was_renamed_is_not_there_twice(folder):
    old = folder.file("a_w1x.tif")
    folder.room.take(old)
    (folder.path / "a_w1x.tif").unlink()
    assert folder.room.take(folder.file("a_w1y.tif")) == [old]
    assert names(folder.room.take(folder.file("a_w2.tif"))) == [["a_w1y.tif", "a_w2.tif"]]


def test_known_files_come_along(folder):
    known = replace(folder.file("a_w1.tif"), recalled=True)
    other = replace(folder.file("a_wide.tif"), recalled=True)  # looks like it to SQLite only
    folder.known = [other, known]
    (found,) = folder.room.take(folder.file("a_w2.tif", seen=2.0))
    assert [one.recalled for one in found.each()] == [True, False]
    assert names([found]) == [["a_w1.tif", "a_w2.tif"]]


def test_known_files_come_along_also_if_they_became_known_later(folder):
    folder.room.take(folder.file("a_w2.tif"))
    folder.known = [replace(folder.file("a_w1.tif"), recalled=True)]
    assert names(folder.overdue()) == [["a_w1.tif", "a_w2.tif"]]


def test_known_files_that_make_a_channel_twice(folder):
    folder.known = [replace(folder.file(name), recalled=True) for name in ("a_w1x.tif", "a_w2x.tif")]
    (found,) = folder.room.take(folder.file("a_w1y.tif"))
    assert "channel 1 is there twice" in str(found.problem)
    assert folder.tracker.waiting == 0


def test_a_known_file_with_all_channels_is_no_partner(folder):
    path = folder.path / "a_w1.tif"
    tifffile.imwrite(path, np.ones((2, 16, 16), np.uint16), imagej=True, metadata={"axes": "CYX"})
    folder.known = [Arrival(path, Path("a_w1.tif"), stat_of(path), 0.0, recalled=True)]
    assert folder.room.take(folder.file("a_w2.tif")) == []
    assert names(folder.overdue()) == [["a_w2.tif"]]


def test_it_looks_only_now_and_then(folder, monkeypatch):
    looks = []
    real = channel_assembler.scan
    monkeypatch.setattr(channel_assembler, "scan", lambda path: looks.append(path) or real(path))
    folder.room.take(folder.file("a_w1.tif"))
    (folder.path / "a_w2.tif").write_bytes(b"II*\0")
    folder.clock.advance(30)
    for _ in range(100):
        folder.clock.advance(0.01)
        folder.room.overdue()
    assert 1 <= len(looks) <= 11


def test_with_once_nobody_waits(tmp_path):
    folder = Folder(tmp_path, once=True, partner_wait=1000.0)
    folder.room.take(folder.file("a_w1.tif"))
    (late,) = folder.room.overdue()
    assert "cannot be corrected without channel 2 (a_w2*.tif)" in str(late.problem)


def test_without_a_pattern_nothing_waits(tmp_path):
    folder = Folder(tmp_path, pattern=None)
    arrival = folder.file("a_w1.tif")
    assert folder.room.take(arrival) == [arrival]
    assert folder.room.overdue() == []
