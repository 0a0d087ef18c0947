"""Several folders in one daemon: the trouble of one must not be that of the others."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from defocus import Engine
from defocus.engine.errors import OutputError
from defocus.watcher import daemon
from defocus.watcher.alerts.health import Health
from defocus.watcher.configuration.settings import DaemonSettings, FolderSettings
from defocus.watcher.discovery.scanner import ScanTiming
from defocus.watcher.events import WatchEvent
from defocus.watcher.folder import FolderProcessor
from defocus.watcher.journal import Journal
from defocus.watcher.output import disk_space
from defocus.watcher.queue import Order

from ..helpers.clock import ManualClock
from ..helpers.waiting import wait_for
from .conftest import outputs, write_tiff

TIMING = ScanTiming(settle=0.05, rescan=0.1, patience=0.3)


class Two:
    """The folders `a` and `b`, watched by one daemon in a thread of its own."""

    def __init__(self, root: Path, engine: Engine) -> None:
        self.a, self.b = (FolderSettings(root / name, root / f"{name}_out", TIMING, keep_sharp=False) for name in "ab")
        for one in (self.a, self.b):
            one.acquisition.mkdir()
        self.events: list[WatchEvent] = []
        self.health, self._engine, self._stop = Health(), engine, threading.Event()

    @contextmanager
    def watched(self) -> Iterator[None]:
        arguments = (DaemonSettings((self.a, self.b)), self._engine, self._stop, self.events.append, self.health)
        thread = threading.Thread(target=daemon.watch, args=arguments)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(300)
        assert not thread.is_alive()

    def told(self, kind: str) -> Counter[tuple[str, str]]:
        return Counter(
            (event.folder.name if event.folder else "", event.relative) for event in self.events if event.kind == kind
        )


@pytest.fixture
def two(tmp_path, tiny_model) -> Iterator[Two]:
    with Engine.load(tiny_model, backend="cpu") as engine:
        yield Two(tmp_path, engine)


def test_a_folder_without_room_holds_up_no_other(two, monkeypatch):
    full = {two.a.out}
    error = OutputError(two.a.out, "only 1 MB free, waiting for 200 MB", "free some space")
    monkeypatch.setattr(disk_space, "missing_room", lambda out, *rest: error if out in full else None)
    monkeypatch.setattr(disk_space, "PAUSE", 0.2)
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


def test_a_file_whose_output_cannot_be_written_holds_up_no_other(two, monkeypatch):
    monkeypatch.setattr(disk_space, "PAUSE", 0.1)
    (two.a.acquisition / "sub").mkdir()
    two.a.out.mkdir()
    (two.a.out / "sub").write_text("a file in the place of a folder")
    write_tiff(two.a.acquisition / "sub" / "x.tif")
    os.utime(two.a.acquisition / "sub" / "x.tif", (1e9, 1e9))
    with two.watched():
        wait_for(lambda: two.told("retry") >= Counter([("a", "sub/x.tif")]))
        names = [f"{number}.tif" for number in range(4)]
        for number, name in enumerate(names):
            write_tiff(two.a.acquisition / name, number)
            write_tiff(two.b.acquisition / name, number)
        wait_for(lambda: two.told("done") == Counter((folder, name) for folder in "ab" for name in names))
        wait_for(lambda: two.told("quarantined") == {("a", "sub/x.tif"): 1})
    assert two.told("retry") == {("a", "sub/x.tif"): 2}
    assert two.told("paused") == {}


def test_a_folder_without_room_does_not_find_its_files_again_and_again(two, monkeypatch, tiny_model):
    errors: list[OutputError | None] = [OutputError(two.a.out, "only 1 MB free, waiting for 200 MB", "free some space")]
    monkeypatch.setattr(disk_space, "missing_room", lambda *given: errors[-1])
    clock, said = ManualClock(), list[str]()
    guard = disk_space.OutputGuard(two.a.out, report=lambda event: said.append(event.kind), clock=clock)
    with Engine.load(tiny_model, backend="cpu") as engine, Journal(two.a.out) as journal:
        folder = FolderProcessor(two.a, engine, journal, guard, clock=clock)
        assert not folder.needs_nothing(Path("a.tif"), (1, 1), False)
        assert not guard.available()
        clock.advance(disk_space.PAUSE + 1)
        assert folder.needs_nothing(Path("a.tif"), (1, 1), False)
        errors.append(None)
        assert folder.needs_nothing(Path("a.tif"), (1, 1), False)  # not looked at again so soon
        clock.advance(disk_space.PAUSE + 1)
        assert not folder.needs_nothing(Path("a.tif"), (1, 1), False)
    assert said == ["paused", "warning"]


def test_each_folder_has_its_own_order_and_keeps_sharp_planes_or_not(tmp_path, make_model):
    """What was taken from the first folder for all of them before."""
    sharp = np.random.default_rng(0).integers(100, 3000, (64, 64), dtype=np.uint16)  # noise passes for sharp
    folders = []
    for name, order, keep_sharp in (("a", Order.NEWEST, True), ("b", Order.OLDEST, False)):
        settings = FolderSettings(
            tmp_path / name, tmp_path / f"{name}_out", replace(TIMING, settle=0), order=order, keep_sharp=keep_sharp
        )
        settings.acquisition.mkdir()
        for number in range(6):
            tifffile.imwrite(settings.acquisition / f"{number}.tif", sharp)
            os.utime(settings.acquisition / f"{number}.tif", (1e9 + number, 1e9 + number))
        folders.append(settings)
    taken: list[Path] = []  # the order in which files are done is another one: two are corrected at a time

    class Recorder(Health):
        def file_started(self, name: str) -> None:
            taken.append(Path(name))
            super().file_started(name)

    with Engine.load(make_model(tmp_path / "m.onnx"), backend="cpu") as engine:
        daemon.watch(DaemonSettings(tuple(folders), once=True), engine, threading.Event(), health=Recorder())
    order = {name: [path.name for path in taken if path.parent == tmp_path / name] for name in "ab"}
    assert order["b"] == [f"{number}.tif" for number in range(6)]
    assert order["a"] != sorted(order["a"])
    assert order["a"][-1] in ("0.tif", "1.tif")  # the first are taken while the others are being found
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a_out" / "0.tif"), sharp)
    assert not np.array_equal(tifffile.imread(tmp_path / "b_out" / "0.tif"), sharp)
