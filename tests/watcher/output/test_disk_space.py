"""When a folder is paused, and when what fails is the fault of one file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from defocus.engine.errors import ErrorCode, OutputError
from defocus.watcher.alerts.health import Health
from defocus.watcher.events import WatchEvent
from defocus.watcher.output import disk_space
from defocus.watcher.output.disk_space import PAUSE, OutputGuard

from ...helpers.clock import ManualClock


class Output:
    """A folder with a guard, and what it reports."""

    def __init__(self, out: Path) -> None:
        self.clock, self.health, self.events = ManualClock(), Health(), list[WatchEvent]()
        self.out = out
        self.guard = OutputGuard(out, 0.0, self.events.append, self.health, clock=self.clock)

    def fails(self, name: str, code: ErrorCode, size: int = 1000) -> bool:
        return self.guard.is_to_blame(size, OutputError(self.out / name, "failed", "wait", code))


@pytest.fixture
def output(tmp_path) -> Output:
    return Output(tmp_path)


def test_a_file_that_alone_cannot_be_written_pauses_nothing(output):
    for _ in range(3):
        assert not output.fails("large.tif", ErrorCode.DISK_FULL, shutil.disk_usage(output.out).total + 1)
        assert not output.fails("sub/a.tif", ErrorCode.PERMISSION)
        assert not output.fails("sub/b.tif", ErrorCode.PERMISSION)
    assert output.guard.available()
    assert output.events == []
    assert len(output.health.problems()) == 1  # until a write has worked
    output.guard.worked()
    assert output.health.problems() == []


@pytest.mark.parametrize("name", ["b.tif", "c.tif"])
@pytest.mark.parametrize("code", [ErrorCode.DISK_FULL, ErrorCode.SHORTAGE])
def test_a_disk_that_is_full_twice_in_a_row_pauses_the_folder_until_a_file_fits(output, name, code):
    assert not output.fails("a.tif", code)
    output.guard.worked()
    assert not output.fails("b.tif", code)
    for _ in range(3):
        assert output.fails(name, code)
        assert output.guard.paused()
        output.clock.advance(PAUSE)
        assert output.guard.available()  # a small file can be written: others have their turn
    assert [event.kind for event in output.events] == ["paused"]
    output.guard.worked()
    assert [event.kind for event in output.events] == ["paused", "warning"]
    assert not output.fails("d.tif", code)


def test_a_file_that_was_in_progress_when_the_folder_was_paused_is_not_to_blame(output, monkeypatch):
    """Two are corrected at once; the share is away for a moment, and back when the second failure is looked into."""
    away = [OutputError(output.out, "stale file handle", "check the disk", ErrorCode.UNWRITABLE)]
    monkeypatch.setattr(disk_space, "why_not_writable", lambda out: away.pop() if away else None)
    assert output.fails("a.tif", ErrorCode.UNWRITABLE)
    assert output.fails("b.tif", ErrorCode.UNWRITABLE)
    output.clock.advance(PAUSE)
    assert output.guard.available()
    assert not output.fails("c.tif", ErrorCode.UNWRITABLE)


def test_an_output_that_takes_no_file_pauses_the_folder_until_it_does(output, monkeypatch):
    error = OutputError(output.out, "no permission to write", "give it", ErrorCode.PERMISSION)
    broken = [error]
    monkeypatch.setattr(disk_space, "why_not_writable", lambda out: broken[0] if broken else None)
    assert output.fails("a.tif", ErrorCode.PERMISSION)
    for _ in range(3):
        output.clock.advance(PAUSE)
        assert not output.guard.available()
    broken.clear()
    assert not output.guard.available()  # not looked at again so soon
    output.clock.advance(PAUSE)
    assert output.guard.available()
    assert [event.kind for event in output.events] == ["paused", "warning"]
    assert len(output.health.problems()) == 1
    output.guard.worked()
    assert output.health.problems() == []
