"""How long many files will take, before the first is begun."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import tifffile

from defocus import Engine
from defocus.engine.errors import BackendError
from defocus.engine.pipeline import forecast
from defocus.engine.pipeline.forecast import Forecast


@pytest.fixture
def engine(tiny_model):
    with Engine.load(tiny_model, backend="cpu") as opened:
        yield opened


@pytest.fixture(autouse=True)
def a_second_a_plane(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(forecast, "perf_counter", lambda: float(next(ticks)))


def files(folder: Path, count: int, **how) -> list[tuple[Path, int]]:
    image = np.random.default_rng(0).integers(0, 200, (96, 128), dtype=np.uint16)
    for number in range(count):
        tifffile.imwrite(folder / f"{number}.tif", image, **how)
    return [(path, path.stat().st_size) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("how", [{}, {"compression": "zlib"}], ids=["as they are", "compressed"])
def test_each_file_is_as_many_planes_as_it_has_pixels(tmp_path, engine, how):
    given = files(tmp_path, 12, **how)
    told = Forecast(engine).seconds(given)
    assert told == pytest.approx(12, rel=0.05)  # headers count as well


def test_a_stack_takes_as_long_as_its_planes(tmp_path, engine):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.zeros((20, 96, 128), np.uint16))
    assert Forecast(engine).seconds([(path, path.stat().st_size)] * 10) == pytest.approx(200, rel=0.05)


def test_the_plane_is_timed_once_for_all_folders(tmp_path, engine, monkeypatch):
    asked = Forecast(engine)
    given = files(tmp_path, 10)
    told = asked.seconds(given)
    monkeypatch.setattr(Engine, "submit", None)
    assert told
    assert asked.seconds(given * 2) == pytest.approx(2 * told)


def test_a_file_that_is_no_tiff_counts_by_its_bytes(tmp_path, engine):
    path = tmp_path / "a.nd2"
    path.write_bytes(b"x" * 2 * 1024 * 1024)
    assert Forecast(engine).seconds([(path, path.stat().st_size)] * 3) == pytest.approx(3)


def test_a_backend_that_fails_tells_nothing(tmp_path, engine, monkeypatch):
    def fails(*_):
        return [BackendError("gpu", "hiccup", "wait")]

    monkeypatch.setattr(Engine, "restore_many", fails)
    assert Forecast(engine).seconds(files(tmp_path, 10)) is None


def test_whoever_ends_does_not_wait_for_it(tmp_path, engine):
    assert Forecast(engine).seconds(files(tmp_path, 10), stop=lambda: True) is None
