"""Frames of a real acquisition of pymmcore-plus, with its own Python devices, restored or measured beside it."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from defocus import Engine
from defocus.acquisition import Connection, Frame, connect, frame_processor, process
from defocus.engine.quality.focus import focus_score

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def engine(tiny_model):
    with Engine.load(tiny_model, backend="cpu") as engine:
        yield engine


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 4000, (64, 80), dtype=np.uint16)


def test_a_frame_is_restored_measured_or_kept(engine):
    seen = image()
    measured = process(None, seen)
    assert measured.restored is None
    assert measured.report.focus_in == focus_score(seen)
    restored = process(engine, seen, "event", all_planes=True)
    assert restored.event == "event"
    assert restored.restored is not None
    np.testing.assert_array_equal(restored.restored, engine(seen))
    kept = process(engine, seen)  # noise: nothing to sharpen
    assert kept.report.copied
    assert kept.restored is not None
    np.testing.assert_array_equal(kept.restored, seen)


def test_the_function_for_other_programs(engine):
    seen, given = image(), {"Axes": {"time": 3}}
    result, metadata = frame_processor(engine, all_planes=True)(seen, given)
    np.testing.assert_array_equal(result, engine(seen))
    assert metadata["Axes"] == {"time": 3}
    assert set(metadata["defocus"]) >= {"focus_in", "blur_px", "verdict"}
    assert "defocus" not in given


def test_when_behind_the_oldest_waiting_frame_is_dropped_and_counted():
    seen, begun, gate = [], threading.Event(), threading.Event()

    def slow(frame: Frame) -> None:
        begun.set()
        assert gate.wait(300)
        seen.append(frame.event)

    with Connection(None, slow, waiting=2) as connection:
        connection.put(image(), 0)
        assert begun.wait(300)
        for number in range(1, 6):
            connection.put(image(number), number)  # returns at once, though the first frame is still being dealt with
        assert not connection.wait(0.0)
        gate.set()
        assert connection.wait(300)
    assert seen == [0, 4, 5]
    assert (connection.processed, connection.dropped, connection.failed) == (3, 3, 0)


def test_what_fails_is_counted_and_logged_once_and_the_rest_goes_on(engine, caplog):
    seen = []

    def broken(frame: Frame) -> None:
        seen.append(frame.event)
        raise OSError("no such stage")

    with caplog.at_level(logging.ERROR, "defocus"), Connection(engine, broken, waiting=9) as connection:
        connection.put(np.zeros((2, 3, 4, 5)), "wrong shape")
        for number in range(3):
            connection.put(image(number), number)
        assert connection.wait(300)
    assert seen == [0, 1, 2]
    assert (connection.processed, connection.failed) == (0, 4)
    assert len(caplog.records) == 1
    connection.put(image())  # after the end nothing is taken, and nothing raised
    assert connection.wait(0.0)


@pytest.fixture
def refocus(monkeypatch) -> Any:
    pytest.importorskip("pymmcore_plus", reason="needs pymmcore-plus: pip install 'pymmcore-plus[io]'")
    monkeypatch.syspath_prepend(ROOT / "demo")
    sys.modules.pop("refocus", None)
    import refocus  # pyright: ignore[reportMissingImports]

    return refocus


def test_an_acquisition_of_pymmcore_plus_is_measured_beside_it(refocus):
    import useq

    core = refocus.UniMMCore()
    camera = refocus.DriftingCamera(refocus.Drive(), 5.0)
    core.loadPyDevice("Camera", camera)
    core.initializeDevice("Camera")
    core.setCameraDevice("Camera")
    core.setAutoShutter(False)
    frames: list[Frame] = []
    with connect(core, None, on_frame=frames.append, waiting=9) as connection:
        core.mda.run([useq.MDAEvent(index={"t": index}) for index in range(3)])  # pyright: ignore[reportArgumentType]
        assert connection.wait(300)
    assert [frame.event.index["t"] for frame in frames] == [0, 1, 2]
    focus = [frame.report.focus_in or 0.0 for frame in frames]
    assert 0.0 not in focus
    assert focus == sorted(focus, reverse=True)  # it drifts away
    core.mda.run([useq.MDAEvent()])  # closed: no longer listening
    assert connection.processed == 3


@pytest.mark.seconds
def test_a_drifting_stage_is_brought_back_by_the_blur_of_its_frames(refocus):
    distances, moves = refocus.run(frames=9, drift_um=4.0)
    assert moves >= 1
    assert max(abs(distance) for distance in distances[-4:]) < 20
    left_alone, none = refocus.run(frames=9, drift_um=4.0, refocus=False)
    assert none == 0
    assert abs(left_alone[-1]) == pytest.approx(32)
