"""Extremes and hot pixels of a plane are found once on the way of a file, and the same as when they are found anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tifffile

from defocus.engine.image import plane_statistics
from defocus.engine.image.plane_statistics import PlaneStatistics
from defocus.engine.inference.engine import Engine
from defocus.engine.inference.tasks import ImageRequest
from defocus.engine.pipeline.jobs import Job
from defocus.engine.pipeline.run import pipeline
from defocus.engine.quality.assess import assess


def draw(shape: tuple[int, ...]) -> np.ndarray:
    image = np.random.default_rng(5).integers(100, 4000, shape).astype(np.uint16)
    image[..., 30, 40] = 65535  # a hot pixel a plane
    return image


@pytest.fixture
def searches(monkeypatch) -> dict[str, list[tuple[int, ...]]]:
    """The shapes of what was searched for extremes and for hot pixels."""
    found: dict[str, list[tuple[int, ...]]] = {"extremes": [], "hot_pixels": []}

    def counted(name, real):
        return lambda values, *rest: found[name].append(values.shape) or real(values, *rest)

    for name in found:
        monkeypatch.setattr(plane_statistics, name, counted(name, getattr(plane_statistics, name)))
    return found


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_file_is_searched_once_a_plane(tmp_path, tiny_model, searches, ahead):
    tifffile.imwrite(tmp_path / "a.tif", draw((3, 64, 80)), compression="lzw", photometric="minisblack")
    with Engine.load(tiny_model, backend="cpu") as engine:
        (outcome,) = pipeline([Job(tmp_path / "a.tif", tmp_path / "out.tif")], engine, ahead=ahead)
    assert outcome.error is None
    assert len(outcome.reports) == 3
    assert searches == {"extremes": [(64, 80)] * 3, "hot_pixels": [(64, 80)] * 3}


def test_so_are_files_that_belong_together(tmp_path, tiny_model_2c, searches):
    jobs = [Job(tmp_path / f"w{channel}.tif", tmp_path / "out" / f"w{channel}.tif") for channel in (1, 2)]
    for job in jobs:
        tifffile.imwrite(job.source, draw((64, 80)))
    with Engine.load(tiny_model_2c, backend="cpu") as engine:
        (outcome,) = pipeline([replace(jobs[0], others=(jobs[1],))], engine, ahead=0)
    assert [each.error for each in outcome.each()] == [None, None]
    assert searches == {"extremes": [(64, 80)] * 2, "hot_pixels": [(64, 80)] * 2}


@pytest.mark.parametrize("axes", ["ZCYX", "CZYX", "CYXZ", "ZYXC"])
def test_what_is_handed_on_changes_no_report(tiny_model_2c, axes, searches):
    image = np.einsum(f"ZCYX->{axes}", draw((3, 2, 64, 80)))
    statistics = PlaneStatistics()
    with Engine.load(tiny_model_2c, backend="cpu") as engine:
        (result,) = engine.restore_many([ImageRequest(image, axes, statistics=statistics)])
    assert isinstance(result, np.ndarray)
    reports = assess(image, result, axes, statistics)
    assert {name: len(shapes) for name, shapes in searches.items()} == {"extremes": 6, "hot_pixels": 6}
    assert reports == assess(image, result, axes)
