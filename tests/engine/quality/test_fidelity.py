"""Fidelity: the truth explains what was seen; what was made up, moved or lost does not."""

from __future__ import annotations

import numpy as np
import pytest

from defocus.engine.image.normalization import DTYPES
from defocus.engine.quality.assess import assess, keep_sharp_planes
from defocus.engine.quality.fidelity import fidelity
from defocus.engine.quality.report import LISTED, PlaneReport, summary
from defocus.training.evaluation.heldout import TWINS
from defocus.training.physics.optics import Camera, Optics, defocus, transfer
from defocus.training.physics.specimen import draw_cells, smooth_noise

OPTICS = Optics(na=0.55)
CAMERA = Camera(photons_per_count=3.0, offset=100.0, read_noise=1.5)


def pair(z: float, shape=(320, 352), seed=0, peak=1500.0) -> tuple[np.ndarray, np.ndarray]:
    """(seen, sharp) uint16."""
    rng = np.random.default_rng(seed)
    sharp = draw_cells(shape, rng) * peak
    return CAMERA.expose(defocus(sharp, OPTICS, z), rng), CAMERA.expose(sharp, rng)


@pytest.mark.parametrize("z", [0, 8, 16, 30])
@pytest.mark.parametrize("peak", [100, 1500])
def test_the_truth_explains_what_was_seen_at_its_distance(z, peak):
    seen, sharp = pair(z, peak=peak)
    found = fidelity(seen, sharp)
    assert found is not None
    assert found.share_explained > 0.985
    assert found.max_local_residual < 0.15
    expected = OPTICS.disk_radius_um(z) / OPTICS.pixel_um
    assert found.blur_px == pytest.approx(0.92 * expected, rel=0.12, abs=0.8)


@pytest.mark.parametrize("z", [8, 20])
def test_the_family_of_blurs_is_that_of_the_optics(z):
    """A noiseless plane defocused by the wave-optical transfer function is explained to 2 in 1000."""
    sharp = draw_cells((512, 512), np.random.default_rng(5))
    seen = np.fft.irfft2(np.fft.rfft2(sharp) * transfer(OPTICS, z, sharp.shape, True), sharp.shape)
    found = fidelity(seen, sharp)
    assert found is not None
    assert found.share_explained > 0.998


@pytest.mark.parametrize("waves", TWINS)
@pytest.mark.parametrize("z", [10, 22, 34])
def test_it_holds_for_aberrated_blur(waves, z):
    """The truth explains what an aberrated pupil made of it, at about the radius that the distance has."""
    rng = np.random.default_rng(3)
    sharp = draw_cells((400, 480), rng) * 1500
    seen, truth = CAMERA.expose(defocus(sharp, TWINS[waves], z), rng), CAMERA.expose(sharp, rng)
    (report,) = assess(seen, truth, "YX")
    assert report.verdict == "consistent"
    assert report.fidelity is not None
    assert report.fidelity > 0.994
    assert report.blur_px is not None
    # 0.92 is what aberration-free optics have. Nearer, the caustic of the positive sign is narrower than diffraction.
    within = 0.15 if z > 10 else 0.35
    expected = 0.92 * TWINS[waves].disk_radius_um(z) / TWINS[waves].pixel_um
    assert report.blur_px == pytest.approx(expected, rel=within)


@pytest.mark.parametrize("z", [0, 12, 24])
def test_wrong_outputs_are_told_from_right_ones(z):
    seen, sharp = pair(z)
    other = pair(z, seed=9)[1]
    right = assess(seen, sharp, "YX")[0]
    assert right.doubt is not None
    assert right.doubt < 0.6
    output = sharp.astype(np.float64)
    moved, erased = np.roll(output, 25, axis=1), output.copy()
    erased[100:180, 100:200] = np.percentile(output, 20)
    texture = smooth_noise(output.shape, max(2, z), np.random.default_rng(1))
    wrong = {
        "moved": moved,
        "erased": erased,
        "other": other,
        "mixed": 0.6 * output + 0.4 * other,
        "texture": output + (texture - 0.5) * 2 * output.std(),
        "flat": np.full_like(output, output.mean()),
    }
    for kind, plane in wrong.items():
        report = assess(seen, plane.round().clip(0, 65535).astype(np.uint16), "YX")[0]
        assert report.verdict == "doubtful", (kind, report)


def test_noise_cannot_be_judged():
    seen = np.random.default_rng(0).poisson(300, (256, 256)).astype(np.uint16)
    assert fidelity(seen, np.full_like(seen, 300)) is None
    report = assess(seen, np.full_like(seen, 300), "YX")[0]
    assert report == PlaneReport()
    assert report.verdict == "no structure"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_planes_of_every_kind_give_numbers_or_none(dtype):
    blob = np.exp(-((np.mgrid[:80, :80] - 30) ** 2).sum(0) / 80) * 100
    most = np.iinfo(dtype).max if dtype.kind in "iu" else 1e4
    saturated = np.where(blob > 20, most, 0)
    for plane in (np.zeros((64, 64)), blob, saturated, blob[:16, :16], blob[:40, :33], blob[:3, :3], blob[:1, :1]):
        for other in (plane, np.zeros_like(plane), plane[::-1]):
            with np.errstate(divide="raise", invalid="raise", over="raise"):
                (report,) = assess(plane.astype(dtype), other.astype(dtype), "YX")
            for name in ("focus_in", "focus_out", "fidelity", "max_local_residual", "blur_px"):
                value = getattr(report, name)
                assert value is None or np.isfinite(value), (name, report)
            assert report.verdict


def test_large_numbers_do_not_overflow():
    seen, sharp = pair(12)
    expected = fidelity(seen, sharp)
    assert expected is not None
    for scale in (1e-30, 1e30):
        found = fidelity(seen.astype(np.float32) * np.float32(scale), sharp.astype(np.float32) * np.float32(scale))
        assert found is not None
        assert found.share_explained == pytest.approx(expected.share_explained, abs=1e-4)
        assert found.blur_px == pytest.approx(expected.blur_px, rel=1e-3)


def test_a_large_plane_is_judged_by_windows():
    seen, sharp = pair(16, (704, 704))
    (small,) = assess(seen, sharp, "YX")
    # Mirrored at its borders, as the optics continue it: a seam would be a residual.
    before, after = (np.pad(plane, (0, 2048 - 704), "symmetric") for plane in (seen, sharp))
    (report,) = assess(before, after, "YX")
    assert report.fidelity == pytest.approx(small.fidelity, abs=0.005)
    assert report.blur_px == pytest.approx(small.blur_px, rel=0.05)
    assert report.focus_in == pytest.approx(small.focus_in, rel=0.15)


def test_planes_are_reported_in_the_order_of_the_axes():
    planes = [pair(z, (96, 112), seed=z) for z in (0, 8, 16, 24)]
    seen, sharp = (np.stack([one[side] for one in planes]).reshape(2, 2, 96, 112) for side in (0, 1))
    reports = assess(seen, sharp, "TCYX")
    assert len(reports) == 4
    assert list(reports) == [assess(one, truth, "YX")[0] for one, truth in planes]
    swapped = assess(np.moveaxis(seen, 1, -1), np.moveaxis(sharp, 1, -1), "TYXC")
    assert swapped == reports
    assert assess(seen[:0], sharp[:0], "TCYX") == ()


def test_only_sharp_planes_are_copied():
    seen, sharp = pair(0)
    blurred, truth = pair(20)
    flat = np.full_like(seen, 300)
    noise = np.random.default_rng(0).poisson(300, seen.shape).astype(np.uint16)
    source = np.stack([seen, blurred, flat, noise])
    restored = np.stack([sharp, truth, flat, flat])
    result = restored.copy()
    assert [report.copied for report in assess(source, result, "ZYX")] == [False, False, True, False]
    assert np.array_equal(result, restored)
    reports = keep_sharp_planes(source, result, "ZYX", assess(source, result, "ZYX"))
    assert [report.copied for report in reports] == [True, False, True, True]
    assert np.array_equal(result, np.stack([seen, truth, flat, noise]))
    assert [report.verdict for report in reports] == ["sharp", "consistent", "no structure", "no structure"]


def test_a_plane_that_is_half_out_of_focus_is_not_copied():
    seen, sharp = pair(0, (400, 520))
    source = np.concatenate([seen, pair(12, (400, 520))[0]], axis=1)[:, 260:780]
    result = np.concatenate([sharp, sharp], axis=1)[:, 260:780].copy()
    (report,) = keep_sharp_planes(source, result, "YX", assess(source, result, "YX"))
    assert not report.copied
    assert not np.array_equal(source, result)


def test_many_planes_are_summed_up():
    reports = [PlaneReport(0.02, 0.03, 0.99 - 0.001 * i, 0.01 * i, 5.0) for i in range(LISTED)]
    listed = summary(reports)
    assert isinstance(listed, list)
    assert listed[0] == reports[0].as_dict()
    summed = summary([*reports, PlaneReport(copied=True)])
    assert isinstance(summed, dict)
    assert (summed["count"], summed["copied"]) == (LISTED + 1, 1)
    assert summed["fidelity"] == {"min": 0.927, "median": 0.9585}
    assert summed["max_local_residual"]["max"] == 0.63
    assert sum(summed["verdicts"].values()) == LISTED + 1
