"""Several folders in one daemon: the trouble of one must not be that of the others."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from defocus import Engine
from defocus.engine.errors import OutputError
from defocus.watcher import daemon
from defocus.watcher import folder as processor
from defocus.watcher.discovery.scanner import ScanTiming
from defocus.watcher.events import WatchEvent
from defocus.watcher.health import Health
from defocus.watcher.journal import Journal
from defocus.watcher.settings import FolderSettings

from .conftest import outputs, wait_for, write_tiff

PACE = ScanTiming(settle=0.05, rescan=0.1, patience=0.3)


class Two:
    """The folders `a` and `b`, watched by one daemon in a thread of its own."""

    def __init__(self, root: Path, engine: Engine) -> None:
        self.a, self.b = (FolderSettings(root / name, root / f"{name}_out", PACE, keep_sharp=False) for name in "ab")
        for one in (self.a, self.b):
            one.acquisition.mkdir()
        self.events: list[WatchEvent] = []
        self.health, self._engine, self._stop = Health(), engine, threading.Event()

    @contextmanager
    def watched(self) -> Iterator[None]:
        arguments = ([self.a, self.b], self._engine, self._stop, self.events.append, self.health)
        thread = threading.Thread(target=daemon.watch, args=arguments)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(20)
        assert not thread.is_alive()

    def told(self, kind: str) -> Counter[tuple[str, str]]:
        return Counter(
            (event.folder.name if event.folder else "", event.relative) for event in self.events if event.kind == kind
        )


@pytest.fixture
def two(tmp_path, tiny_model) -> Iterator[Two]:
    with Engine.load(tiny_model, backend="cpu") as engine:
        yield Two(tmp_path, engine)


@pytest.mark.parametrize("length", [daemon.LENGTH, 2], ids=["all put by", "some left to the rescan"])
def test_a_folder_without_room_holds_up_no_other(two, monkeypatch, length):
    full = {two.a.out}
    error = OutputError(two.a.out, "only 1 MB free, waiting for 200 MB", "make room")
    monkeypatch.setattr(processor, "missing_room", lambda out, least: error if out in full else None)
    monkeypatch.setattr(processor, "OUTPUT_PAUSE", 0.2)
    monkeypatch.setattr(daemon, "LENGTH", length)
    names = [f"{number}.tif" for number in range(5)]
    for number, name in enumerate(names):
        write_tiff(two.a.acquisition / name, number)
        os.utime(two.a.acquisition / name, (1e9, 1e9))  # the oldest: their turn is before that of the others
        write_tiff(two.b.acquisition / name, number)
    with two.watched():
        wait_for(lambda: outputs(two.b.out) == names)
        wait_for(lambda: two.told("done") == Counter(("b", name) for name in names))
        assert outputs(two.a.out) == []
        assert two.health.problems() == [str(error)]
        assert not two.health.stuck()
        full.clear()
        wait_for(lambda: two.told("done") == Counter((folder, name) for folder in "ab" for name in names))
        assert two.health.problems() == []
    assert outputs(two.a.out) == names
    assert two.told("paused") == {("a", ""): 1}
    assert [event.text for event in two.events if event.kind == "warning"] == [f"{two.a.out}: can be written to again"]


def test_a_folder_whose_output_cannot_be_written_holds_up_no_other(two, monkeypatch):
    monkeypatch.setattr(processor, "OUTPUT_PAUSE", 60.0)
    (two.a.acquisition / "sub").mkdir()
    two.a.out.mkdir()
    (two.a.out / "sub").write_text("a file in the place of a folder")
    write_tiff(two.a.acquisition / "sub" / "x.tif")
    os.utime(two.a.acquisition / "sub" / "x.tif", (1e9, 1e9))
    with two.watched():
        wait_for(lambda: two.told("paused") == {("a", "sub/x.tif"): 1})
        for number in range(4):
            write_tiff(two.b.acquisition / f"{number}.tif", number)
        wait_for(lambda: two.told("done") == Counter(("b", f"{number}.tif") for number in range(4)))
    assert two.told("quarantined") == {}


def test_a_folder_without_room_does_not_find_its_files_again_and_again(two, monkeypatch, tiny_model):
    errors: list[OutputError | None] = [OutputError(two.a.out, "only 1 MB free, waiting for 200 MB", "make room")]
    monkeypatch.setattr(processor, "missing_room", lambda out, least: errors[-1])
    monkeypatch.setattr(processor, "OUTPUT_PAUSE", 0.05)
    with Engine.load(tiny_model, backend="cpu") as engine, Journal(two.a.out) as journal:
        one = processor.FolderProcessor(two.a, engine, journal, two.events.append, Health())
        assert not one.needs_nothing(Path("a.tif"), (1, 1), False)
        assert not one.has_disk_space()
        time.sleep(0.1)
        assert one.needs_nothing(Path("a.tif"), (1, 1), False)
        errors.append(None)
        wait_for(lambda: not one.needs_nothing(Path("a.tif"), (1, 1), False), 2)
    assert [event.kind for event in two.events] == ["paused", "warning"]
