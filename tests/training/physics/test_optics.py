"""The optics against the facts: Airy, energy, the geometric disk, and an independent library."""

from __future__ import annotations

import numpy as np
import pytest

from defocus.training.physics.optics import (
    Aberrations,
    Camera,
    Optics,
    defocus,
    half_width,
    psf,
    psf_oversampled,
    sampling,
    transfer,
)

DRY_20X = Optics(na=0.55, wavelength_um=0.52, pixel_um=0.645)
MICROSCOPES = [DRY_20X, Optics(0.4, 0.46, 0.65), Optics(0.75, 0.6, 0.3), Optics(1.3, 0.52, 0.1, 1.518)]


@pytest.mark.parametrize("optics", MICROSCOPES, ids=str)
def test_in_focus_the_first_dark_ring_is_airys(optics):
    oversample = sampling(optics) * 5
    step = optics.pixel_um / oversample
    fine = psf_oversampled(optics, 0.0, half_width(optics, 0.0), oversample)
    middle = fine.shape[0] // 2
    assert np.unravel_index(fine.argmax(), fine.shape) == (middle, middle)
    profile = fine[middle, middle:]
    ring = next(i for i in range(1, profile.size) if profile[i] <= profile[i + 1])
    assert abs(ring * step - optics.airy_radius_um) <= step
    assert profile[ring] < 1e-3 * profile[0]  # dark


@pytest.mark.parametrize("optics", MICROSCOPES, ids=str)
@pytest.mark.parametrize("z", [0.0, 3.0, 10.0])
def test_normalised_symmetric_and_never_negative(optics, z):
    kernel = psf(optics, z)
    assert kernel.dtype == np.float32
    assert kernel.shape == (2 * half_width(optics, z) + 1,) * 2
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert kernel.min() >= 0
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-6)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-6)
    np.testing.assert_allclose(kernel, psf(optics, -z), atol=1e-6)


def test_energy_is_conserved_through_focus():
    """The same light passes the pupil at every z: what the window holds, before any normalisation, stays equal."""
    half = half_width(DRY_20X, 34.0)
    totals = [psf_oversampled(DRY_20X, z, half, 3).sum() for z in (0.0, 5.0, 10.0, 20.0, 34.0)]
    np.testing.assert_allclose(totals, totals[0], rtol=0.01)


@pytest.mark.parametrize("z", [20.0, 34.0])
def test_wide_defocus_tends_to_the_geometric_disk(z):
    kernel = psf(DRY_20X, z).astype(float)
    half = kernel.shape[0] // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    distance = np.hypot(y, x) * DRY_20X.pixel_um
    disk = DRY_20X.disk_radius_um(z)
    assert kernel[distance <= disk].sum() > 0.95
    # The radius that holds 90 % of the light; of a uniform disk it would be sqrt(0.9) of its radius.
    order = np.argsort(distance, axis=None)
    holds = distance.flat[order][np.searchsorted(np.cumsum(kernel.flat[order]), 0.9)]
    assert 0.85 < holds / disk < 1.0


@pytest.mark.parametrize("z", [0.0, 10.0, 22.0, 34.0])
def test_agrees_with_psfmodels(z):
    """The scalar Gibson-Lanni integral with all indices 1 is the same physics, computed by another route."""
    psfmodels = pytest.importorskip("psfmodels", reason='needs psfmodels: pip install ".[test]"')
    oversample = 5
    step = DRY_20X.pixel_um / oversample
    half = half_width(DRY_20X, z)
    ours = psf_oversampled(DRY_20X, z, half, oversample).astype(float)
    air = dict.fromkeys(("ns", "ni", "ni0", "ng", "ng0"), 1.0)
    theirs = psfmodels.make_psf(
        [z], ours.shape[0], dxy=step, NA=DRY_20X.na, wvl=DRY_20X.wavelength_um, model="scalar", **air
    )[0]
    difference = np.abs(ours / ours.sum() - theirs / theirs.sum()).sum() / 2  # share of the light elsewhere
    assert difference < 0.02


@pytest.mark.parametrize("z", [0.0, 5.0, 20.0, 34.0])
def test_relative_transfer_never_amplifies(z):
    otf = transfer(DRY_20X, z, (128, 160), relative=True)
    assert otf.shape == (128, 81)
    assert np.abs(otf).max() <= 1 + 1e-6
    assert otf[0, 0] == pytest.approx(1, abs=1e-4)


def test_defocus_keeps_a_sharp_plane_and_the_light():
    rng = np.random.default_rng(3)
    sharp = rng.uniform(0, 1000, (90, 121)).astype(np.float32)
    np.testing.assert_allclose(defocus(sharp, DRY_20X, 0.0), sharp, atol=0.01)
    flat = np.full((40, 64), 500, np.float32)
    np.testing.assert_allclose(defocus(flat, DRY_20X, 30.0), flat, rtol=1e-4)
    blurred = [defocus(sharp, DRY_20X, z) for z in (0, 5, 10, 20, 30)]
    contrast = [image.std() for image in blurred]
    assert contrast == sorted(contrast, reverse=True)
    assert blurred[-1].mean() == pytest.approx(sharp.mean(), rel=0.02)


def test_defocus_of_a_point_is_the_psf():
    point = np.zeros((101, 101), np.float32)
    point[50, 50] = 1
    kernel = psf(DRY_20X, 15.0)
    half = kernel.shape[0] // 2
    image = defocus(point, DRY_20X, 15.0, relative=False)
    np.testing.assert_allclose(image[50 - half : 51 + half, 50 - half : 51 + half], kernel, atol=1e-6)


@pytest.mark.parametrize("shape", [(16, 16), (33, 70), (1, 40)])
def test_defocus_of_an_image_smaller_than_the_psf(shape):
    assert defocus(np.ones(shape, np.float32), DRY_20X, 34.0) == pytest.approx(np.ones(shape), rel=1e-3)


def test_camera_noise_has_the_statistics_it_claims():
    camera = Camera(photons_per_count=3.0, offset=100.0, read_noise=2.0)
    seen = camera.expose(np.full((400, 400), 900.0), np.random.default_rng(0))
    assert seen.dtype == np.uint16
    assert seen.mean() == pytest.approx(1000, abs=0.5)
    assert seen.var() == pytest.approx(900 / 3 + 4 + 1 / 12, rel=0.02)


def test_camera_saturates_and_never_wraps():
    seen = Camera(bits=12).expose(np.full((8, 8), 1e6), np.random.default_rng(0))
    assert (seen == 4095).all()


@pytest.mark.parametrize("wrong", [{"na": 0}, {"na": 1.2}, {"wavelength_um": 0}, {"pixel_um": -1}])
def test_impossible_optics_are_refused(wrong):
    with pytest.raises(ValueError):
        Optics(**wrong)


def test_an_even_oversampling_is_refused():
    with pytest.raises(ValueError, match="odd"):
        psf(DRY_20X, 0.0, oversample=4)


@pytest.mark.parametrize("name", ["spherical", "coma", "astigmatism"])
def test_zernike_terms_have_the_rms_they_name_and_cost_the_strehl_of_marechal(name):
    waves = 0.05
    aberrations = Aberrations(**{name: waves}, angle=0.7)
    grid = np.linspace(-DRY_20X.na, DRY_20X.na, 401)
    inside = np.hypot(grid[:, None], grid[None, :]) <= DRY_20X.na
    phase = aberrations.phase(DRY_20X, grid[:, None], grid[None, :])[inside]
    assert phase.std() == pytest.approx(2 * np.pi * waves, rel=0.01)
    assert abs(phase.mean()) < 0.01
    aberrated = Optics(0.55, 0.52, 0.645, aberrations=aberrations)
    half = half_width(aberrated, 0.0)
    peak, perfect = (psf_oversampled(optics, 0.0, half, 5).max() for optics in (aberrated, DRY_20X))
    assert peak / perfect == pytest.approx(np.exp(-((2 * np.pi * waves) ** 2)), rel=0.02)


def test_spherical_aberration_tells_the_two_sides_of_focus_apart():
    aberrated = Optics(0.55, 0.52, 0.645, aberrations=Aberrations(spherical=0.1))
    above, below = psf(aberrated, 8.0), psf(aberrated, -8.0)
    assert above.sum() == pytest.approx(1, abs=1e-5)
    assert np.abs(above - below).sum() > 0.2
    np.testing.assert_allclose(psf(DRY_20X, 8.0), psf(DRY_20X, -8.0), atol=1e-7)


def test_a_deep_focus_in_water_is_blurred_and_its_focus_stays():
    deep = Optics(0.75, 0.52, 0.3, aberrations=Aberrations(depth_um=50.0))
    half = half_width(deep, 6.0)
    peaks = {z: psf(deep, z, half).max() for z in (-6.0, -3.0, 0.0, 3.0, 6.0)}
    assert max(peaks, key=lambda z: peaks[z]) == 0.0
    assert peaks[0.0] < 0.9 * psf(Optics(0.75, 0.52, 0.3), 0.0, half).max()
