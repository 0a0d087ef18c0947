"""Classical deconvolution on a drawn plane: the true PSF sharpens, a wrong one does worse."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("skimage", reason='needs scikit-image: pip install ".[train]"')

from skimage.restoration import denoise_tv_chambolle

from defocus.training.classical.admm import admm
from defocus.training.classical.padding import middle, reflected, transfer_of
from defocus.training.classical.richardson_lucy import richardson_lucy
from defocus.training.classical.wiener import wiener
from defocus.training.evaluation.heldout import CAMERA, OPTICS, counts_pair
from defocus.training.evaluation.metrics import psnr
from defocus.training.evaluation.suite import drawn_fields
from defocus.training.physics.optics import psf

Z = 10


@pytest.fixture(scope="module")
def plane() -> tuple[np.ndarray, np.ndarray]:
    """(light recorded 10 um out of focus, truth), counts above the offset."""
    seen, sharp = counts_pair(drawn_fields(1)[0], Z)
    return np.clip(seen - np.float32(CAMERA.offset), 0, None), sharp - np.float32(CAMERA.offset)


def plug_and_play(light: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return admm(light, kernel, lambda image, sigma: denoise_tv_chambolle(image, weight=sigma / 4, max_num_iter=10))


@pytest.fixture(scope="module")
def cut(plane) -> tuple[np.ndarray, np.ndarray]:
    """The same, cut after the defocus: light from beyond its borders has come in."""
    inner = (slice(100, 356), slice(150, 470))
    return plane[0][inner], plane[1][inner]


METHODS = {"wiener": wiener, "rl": richardson_lucy, "admm": plug_and_play}


@pytest.mark.parametrize("name", METHODS)
def test_the_true_psf_sharpens_and_a_wrong_one_does_worse(plane, name):
    light, truth = plane
    scores = {share: psnr(truth, METHODS[name](light, psf(OPTICS, Z * share))) for share in (0.5, 1.0, 2.0)}
    assert scores[1.0] > psnr(truth, light) + 1.5
    assert scores[1.0] > scores[0.5] + 0.5
    assert scores[1.0] > scores[2.0] + 0.5


@pytest.mark.parametrize("name", METHODS)
def test_shape_type_and_light_stay(plane, name):
    light = plane[0][:90, :130]
    restored = METHODS[name](light, psf(OPTICS, Z))
    assert restored.dtype == np.float32
    assert restored.shape == light.shape
    assert restored.sum() == pytest.approx(light.sum(), rel=0.03)


@pytest.mark.parametrize("name", METHODS)
def test_a_dark_plane_stays_dark(name):
    assert not METHODS[name](np.zeros((40, 50), np.float32), psf(OPTICS, Z)).any()


@pytest.mark.parametrize("name", METHODS)
def test_borders_do_no_harm_to_what_lies_between(cut, name):
    light, truth = cut
    restored = METHODS[name](light, psf(OPTICS, Z))
    assert psnr(truth, restored) > psnr(truth, light) + 2.2


@pytest.mark.parametrize("shape", [(1, 1), (4, 6), (5, 8), (7, 9)])
def test_a_reflected_plane_goes_on_smoothly_all_around(shape):
    plane = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    twice = reflected(plane)
    np.testing.assert_array_equal(middle(twice), plane)
    np.testing.assert_array_equal(reflected(middle(twice)), twice)
    for axis in (0, 1):
        steps = np.abs(twice - np.roll(twice, 1, axis))
        assert steps.max() <= np.abs(np.diff(plane, axis=axis)).max(initial=0)


def test_the_default_of_wiener_is_near_the_best(cut):
    light, truth = cut
    kernel = psf(OPTICS, Z)
    scores = {ratio: psnr(truth, wiener(light, kernel, ratio)) for ratio in (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)}
    assert max(scores, key=lambda ratio: scores[ratio]) == 3e-3


def test_the_otf_of_a_psf_wider_than_the_plane_wraps():
    kernel = psf(OPTICS, 20)
    otf = transfer_of(kernel, (32, 36))
    assert otf[0, 0] == pytest.approx(1, abs=1e-4)
    assert np.abs(otf).max() <= 1 + 1e-4


def test_torch_is_not_needed():
    imports = ", ".join(f"defocus.training.classical.{name}" for name in ("admm", "richardson_lucy", "wiener"))
    code = f"import sys; sys.modules['torch'] = None; import {imports}"
    subprocess.run([sys.executable, "-c", code], check=True)
