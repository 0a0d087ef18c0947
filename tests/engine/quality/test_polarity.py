"""Polarity: transmitted light is told from fluorescence, at every distance from focus and in any light."""

from __future__ import annotations

import numpy as np
import pytest

from defocus.engine.api import assess
from defocus.engine.quality.polarity import polarity
from defocus.engine.quality.report import DOUBTFUL_POLARITY
from defocus.training.data.fields import load_field
from defocus.training.evaluation.heldout import counts_pair
from defocus.training.physics.optics import Camera, Optics, defocus
from defocus.training.physics.specimen import draw_cells, draw_filaments, draw_points

OPTICS, CAMERA = Optics(na=0.55), Camera(photons_per_count=3.0, read_noise=1.5)
SHAPE = (420, 500)


def brightfield(seed: int, z_um: float, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Drawn cells in transmitted light: they absorb a little, and their edges refract."""
    rng = np.random.default_rng(seed)
    cells = draw_cells(shape, rng)
    return CAMERA.expose(defocus(3000 * (1 - 0.06 * cells + 0.25 * sum(np.gradient(cells))), OPTICS, z_um), rng)


@pytest.mark.parametrize("z_um", [0, 10, 20])
def test_drawn_transmitted_light_is_dark_on_bright(z_um):
    planes = [brightfield(seed, z_um) for seed in range(4)]
    assert min(map(polarity, planes)) > DOUBTFUL_POLARITY


@pytest.mark.parametrize("draw", ["cells", "points", "filaments"])
@pytest.mark.parametrize("peak", [40, 1500])
@pytest.mark.parametrize("z_um", [0, 10, 34])
def test_drawn_fluorescence_is_bright_on_dark(draw, peak, z_um):
    rng = np.random.default_rng(5)
    field = {
        "cells": lambda: draw_cells(SHAPE, rng),
        "points": lambda: draw_points(SHAPE, rng, 60, 2.0),
        "filaments": lambda: draw_filaments(SHAPE, rng, 30),
    }[draw]()
    uneven = 1 + 0.3 * np.linspace(-1, 1, SHAPE[1])  # light that falls off to one side
    assert polarity(CAMERA.expose(defocus(uneven * field * peak, OPTICS, z_um), rng)) < DOUBTFUL_POLARITY


def test_real_fields_are_bright_on_dark_near_and_far(shared_data):
    folders = ("bbbc006/infocus_w1", "bbbc006/infocus_w2", "dsb2018/520x696", "cellprofiler_gfp")
    fields = [load_field(path) for name in folders for path in sorted((shared_data / name).iterdir())[:3]]
    largest = max(polarity(counts_pair(field, z)[0]) for field in fields for z in (0, 10, 34))
    assert 0.3 < largest < DOUBTFUL_POLARITY


def test_offset_and_scale_do_not_change_it_and_inversion_mirrors_it():
    plane = draw_cells(SHAPE, np.random.default_rng(0)).astype(np.float64)
    known = polarity(plane)
    for other in (plane * 1e-300, plane * 1e300, plane * 7 + 5000):
        assert polarity(other) == pytest.approx(known, abs=1e-3)
    assert polarity(-plane) == pytest.approx(1 - known, abs=1e-3)


@pytest.mark.parametrize("shape", [(16, 16), (17, 700), (1600, 1700)])
def test_planes_of_any_size_have_one(shape):
    plane = np.random.default_rng(2).normal(100, 5, shape)
    assert 0.3 < polarity(plane) < 0.7
    assert polarity(np.zeros(shape, np.uint16)) == 0.5


def test_an_output_of_transmitted_light_is_doubtful_however_well_it_explains_its_input():
    plane = brightfield(1, 20)
    (report,) = assess(plane, plane, "YX")
    assert report.fidelity is not None
    assert report.fidelity > 0.99
    assert report.verdict == "doubtful"
