"""The focus score: falls with distance, whatever the light, the offset or the noise."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from defocus.engine.image.normalization import DTYPES
from defocus.engine.quality.focus import focus_score, windows
from defocus.engine.tiff.read import read_tiff
from defocus.training.physics.optics import Camera, Optics, defocus
from defocus.training.physics.specimen import draw_cells, draw_filaments, draw_points

OPTICS = Optics(na=0.55)


def ranks(values) -> np.ndarray:
    return np.argsort(np.argsort(values))


@pytest.mark.parametrize("draw", ["cells", "points", "filaments"])
@pytest.mark.parametrize("peak", [60, 1500])
def test_it_ranks_a_drawn_series_by_distance(draw, peak):
    rng = np.random.default_rng(3)
    shape = (300, 340)
    field = {
        "cells": lambda: draw_cells(shape, rng),
        "points": lambda: draw_points(shape, rng, 60, 2.0),
        "filaments": lambda: draw_filaments(shape, rng, 30),
    }[draw]()
    camera = Camera(photons_per_count=3.0, read_noise=1.5)
    distances = range(0, 36, 4)
    scores = [focus_score(camera.expose(defocus(field * peak, OPTICS, z), rng)) for z in distances]
    assert all(score is not None and 0 < score < 0.5 for score in scores)
    assert np.corrcoef(ranks(distances), ranks(scores))[0, 1] < -0.9


def test_offset_and_scale_do_not_change_it():
    plane = draw_cells((200, 220), np.random.default_rng(0)) + np.random.default_rng(1).normal(0, 0.02, (200, 220))
    score = focus_score(plane)
    assert score is not None
    for other in (plane * 1e-30, plane * 1e30, plane * 7 + 5000, -plane):
        assert focus_score(other) == pytest.approx(score, rel=1e-3)


def test_it_ranks_real_bead_stacks_on_both_sides(shared_data):
    folder = shared_data / "beads"
    with open(folder / "planes.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["field"], row["wavelength_slot"]) == ("E07_s1", "w1")]
    scores = {int(row["z_index"]): focus_score(np.squeeze(read_tiff(folder / row["file"]).data)) or 0.0 for row in rows}
    in_order = [scores[z] for z in sorted(scores)]
    sharpest = int(np.argmax(in_order))
    assert sorted(scores)[sharpest] == 5
    assert in_order[: sharpest + 1] == sorted(in_order[: sharpest + 1])
    assert in_order[sharpest:] == sorted(in_order[sharpest:], reverse=True)


@pytest.mark.parametrize("level", [3, 300, 30000])
def test_noise_alone_has_no_score(level):
    for seed, shape in enumerate([(16, 16), (40, 50), (128, 128), (520, 696)]):
        assert focus_score(np.random.default_rng(seed).poisson(level, shape).astype(np.uint16)) is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_planes_of_every_kind_give_a_number_or_none(dtype):
    blob = np.exp(-((np.mgrid[:64, :64] - 30) ** 2).sum(0) / 50) * 100
    saturated = np.where(blob > 20, np.iinfo(dtype).max if dtype.kind in "iu" else 1e4, 0)
    for plane in (np.zeros((64, 64)), np.full((20, 20), 7), blob, saturated, blob[:16, :16], blob[:3, :3]):
        with np.errstate(all="raise", under="ignore"):
            score = focus_score(plane.astype(dtype))
        assert score is None or (np.isfinite(score) and 0 < score <= 0.5)
    assert focus_score(blob.astype(dtype)) is not None


def test_windows_cover_a_plane_or_are_few():
    plane = np.zeros((520, 696), np.uint8)
    for view in windows(plane, 256, 20):
        assert view.shape == (256, 256)
        view += 1
    assert plane.min() > 0
    assert len(list(windows(np.zeros((4096, 4096), np.uint8), 256, 6))) == 6
    assert [view.shape for view in windows(np.zeros((16, 300)), 256, 6)] == [(16, 256)] * 2
