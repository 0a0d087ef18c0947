"""Hot and dead pixels: found, never seen by the network, given back as they were, left out of verdicts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import j1

from defocus.engine.image.bands import extremes
from defocus.engine.image.hot_pixels import HotPixels, hot_pixels, without
from defocus.engine.image.normalization import DTYPES, from_unit, to_unit
from defocus.engine.inference.engine import Engine
from defocus.engine.quality.assess import assess
from defocus.training.physics.optics import Camera, Optics, defocus
from defocus.training.physics.specimen import draw_cells

PLACES = [(0, 0), (40, 60), (41, 90), (89, 3), (89, 104)]  # corners and borders among them
CAMERA = Camera(photons_per_count=3.0, offset=100.0, read_noise=1.5)


@pytest.fixture(scope="module")
def plane() -> np.ndarray:
    """Cells 10 um out of focus, uint16 (90, 105): mirrored up to a multiple of 16."""
    rng = np.random.default_rng(3)
    return CAMERA.expose(defocus(draw_cells((90, 105), rng) * 200, Optics(na=0.55), 10), rng)


def hot_in(plane: np.ndarray) -> HotPixels:
    return hot_pixels(plane, extremes(plane))


def heated(plane: np.ndarray, value: float) -> np.ndarray:
    hot = plane.copy()
    for place in PLACES:
        hot[place] = value
    return hot


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype.itemsize > 1], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.filterwarnings("error")
def test_they_are_found_in_any_dtype(plane, dtype, sign):
    scaled = (plane.astype(float) / 8 * sign + (0 if sign > 0 or dtype.kind != "u" else 30000)).astype(dtype)
    limit = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    value = min(limit.max, 60000) if sign > 0 else max(limit.min, -60000)
    found = hot_in(heated(scaled, value))
    assert [(one.y, one.x) for one in found] == PLACES
    for one in found:
        around = scaled[max(0, one.y - 1) : one.y + 2, max(0, one.x - 1) : one.x + 2].astype(float)
        assert around.min() <= one.median <= around.max()


@pytest.mark.parametrize(("na", "pixel_um"), [(0.3, 0.645), (0.3, 1.3), (0.55, 0.3), (0.55, 0.645), (0.75, 0.3)])
def test_a_point_in_focus_is_none(na, pixel_um):
    """In the middle of its pixel, where it gives least to its neighbours: an Airy pattern, 2 J1(x) / x squared."""
    fine = 15  # samples a pixel
    offset = (np.arange(7 * fine) - 7 * fine // 2) * (pixel_um / fine)
    x = 2 * np.pi * na / 0.52 * np.maximum(np.hypot(offset[:, None], offset), 1e-9)
    airy = np.square(2 * j1(x) / x).reshape(7, fine, 7, fine).sum(axis=(1, 3))
    sharp = np.zeros((64, 64))
    for y, x in ((20, 30), (50, 11)):
        sharp[y - 3 : y + 4, x - 3 : x + 4] = airy / airy.max() * 2e4
    seen = CAMERA.expose(sharp, np.random.default_rng(0))
    assert seen.max() > 100 * np.percentile(seen, 97)
    assert not hot_in(seen)


def test_neither_are_many_nor_neighbours_nor_flat_planes():
    dark = np.random.default_rng(0).poisson(100, (64, 80)).astype(np.uint16)
    many, pair = dark.copy(), dark.copy()
    many[::4, ::20] = 65535
    pair[10, 10:12] = 65535
    for plane in (dark, many, pair, np.zeros((9, 9)), np.ones((1, 1), np.uint8), np.eye(3)):
        assert not hot_in(plane)


def test_a_window_without_them_is_a_copy_and_others_are_not(plane):
    hot = heated(plane, 65535)
    found = hot_in(hot)
    view = hot[30:60, 50:100]
    cooled = without(view, (30, 50), found)
    assert view.max() == 65535
    assert cooled.max() < 2000
    assert (cooled != view).sum() == 2
    assert without(hot[5:30], (5, 0), found).base is hot


@pytest.mark.parametrize("tile", [None, 64])
@pytest.mark.parametrize("value", [20000, 65535])
def test_they_come_back_and_change_nothing_else(tiny_model, plane, tile, value):
    """What is restored beside them is what a plane without them gives, also in tiles and mirrored beyond the border."""
    hot = heated(plane, value)
    cold = without(hot, (0, 0), hot_in(hot))
    stack, clean = np.stack([hot, plane]), np.stack([cold, plane])
    with Engine.load(tiny_model, backend="cpu", tile=tile) as engine:
        restored, expected = engine(stack), engine(clean)
    np.testing.assert_array_equal(restored[0][tuple(zip(*PLACES, strict=True))], value)
    assert (np.abs(restored.astype(int) - expected) > 1).sum() == len(PLACES)


def test_where_the_session_converts_the_counts_it_is_the_same(tiny_model, plane, monkeypatch):
    """As on a card. Here the conversion is the host's, so bits can be compared."""
    with Engine.load(tiny_model, backend="cpu", threads=1) as engine:
        session = type(engine._sessions.session)

        def run_uint16(self, batch, intensities):
            units = [
                [to_unit(*one) for one in zip(planes, known, strict=True)]
                for planes, known in zip(batch, intensities, strict=True)
            ]
            restored = self.run(np.array(units))
            return np.array(
                [
                    [from_unit(*one, batch.dtype) for one in zip(*both, strict=True)]
                    for both in zip(restored, intensities, strict=True)
                ]
            )

        hot = heated(plane, 65535)
        expected = engine(hot)
        monkeypatch.setattr(session, "takes_uint16", lambda self, dtype: dtype == np.uint16, raising=False)
        monkeypatch.setattr(session, "run_uint16", run_uint16, raising=False)
        np.testing.assert_array_equal(engine(hot), expected)


def test_the_verdict_is_that_of_the_plane_without_them(plane):
    hot = heated(plane, 65535)
    cold = without(hot, (0, 0), hot_in(hot))
    with Engine.load(backend="cpu") as engine:
        found, expected = (assess(seen, engine(seen), "YX")[0] for seen in (hot, cold))
    assert expected.verdict == "consistent"
    assert found.verdict == expected.verdict
    for name in ("focus_in", "focus_out", "fidelity", "max_local_residual", "blur_px"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=0.02), name
