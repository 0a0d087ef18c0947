"""The model inside the package: it sharpens what it never saw, leaves what is sharp, and has no seams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from defocus import Engine
from defocus.engine.inference import backends
from defocus.engine.tiff.read import read_tiff
from defocus.training.data.fields import Field, load_field
from defocus.training.evaluation.heldout import CAMERA, counts_pair, held_out_files
from defocus.training.evaluation.metrics import psnr
from defocus.training.physics.specimen import draw_cells

pytestmark = pytest.mark.seconds


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load("default", backend="cpu") as loaded:
        yield loaded


def test_its_card_says_what_it_is(engine):
    card = engine.card
    assert (card.name, card.channels, card.multiple) == ("default", 1, 16)
    assert card.defocus_um_range == (0.0, 42.0)
    assert card.na_range == (0.4, 0.6)
    assert "BBBC006" in card.training_data
    assert card.licence == "BSD-3-Clause"


@pytest.mark.parametrize("pattern", ["infocus_w2/*_k14_*", "infocus_w1/*_a05_*"])
def test_it_sharpens_real_fields_that_it_never_saw(engine, shared_data, pattern):
    (path,) = (shared_data / "bbbc006").glob(pattern)
    field = load_field(path)
    for z in (10, 22, 28):
        seen, sharp = counts_pair(field, z)
        assert psnr(sharp, engine(seen)) - psnr(sharp, seen) > 1.0, z
    seen, sharp = counts_pair(field, 0)
    assert psnr(sharp, engine(seen)) > 38


def test_it_sharpens_a_drawn_field(engine):
    field = Field(Path("drawn.tif"), draw_cells((320, 352), np.random.default_rng(4)))
    for z in (10, 22):
        seen, sharp = counts_pair(field, z)
        assert psnr(sharp, engine(seen)) - psnr(sharp, seen) > 0.8, z


def test_tiles_equal_the_whole_on_a_real_field(engine, shared_data):
    """Within a count of 16 bits at the default halo, on a plane stretched to all of them (docs/results/tiles.md).

    The least core that there is, 32 px: three rows of eight tiles, those in the middle with a halo on every side.
    """
    path = sorted((shared_data / "bbbc006" / "defocused_w1_z00").glob("*.tif"))[0]
    plane = np.pad(read_tiff(path).data, ((0, 24), (0, 0)), mode="symmetric").astype(np.float64)
    plane = ((plane - plane.min()) * (65535 / np.ptp(plane))).astype(np.uint16)
    with Engine.load("default", backend="cpu", tile=480) as tiled:
        difference = np.abs(tiled(plane).astype(np.int64) - engine(plane))
    assert tiled.settings.halo == engine.card.halo
    assert difference.max() <= 1


@pytest.mark.parametrize("backend", ["cpu", "mnn"])
def test_tiles_by_memory_equal_the_whole_of_a_drawn_specimen(engine, backend):
    """Within a count of ONNX Runtime's at the default halo: 1200 x 1000 px, in wide tiles for lack of memory."""
    if reason := backends.backend(backend).unavailable_reason():
        pytest.skip(reason)
    plane = draw_cells((1200, 1000), np.random.default_rng(8)).astype(np.float64)
    plane = ((plane - plane.min()) * (65535 / np.ptp(plane))).astype(np.uint16)
    with Engine.load(backend=backend, memory=1) as cut:
        assert len(cut.settings.tiles_for(1200, 1000, 16)) > 1
        assert cut.settings.halo == engine.card.halo
        found = cut(plane).astype(np.int64)
    assert len(engine.settings.tiles_for(1200, 1000, 16)) == 1
    assert np.abs(found - engine(plane)).max() <= 1


def test_a_whole_plane_through_mnn_is_near_that_of_onnx_runtime(engine):
    """Its fast convolutions round to 2e-4 of the range at most (the plane is stretched to all of 16 bits), 1e-5 rms."""
    if reason := backends.backend("mnn").unavailable_reason():
        pytest.skip(reason)
    plane = draw_cells((520, 696), np.random.default_rng(8)).astype(np.float64)
    plane = ((plane - plane.min()) * (65535 / np.ptp(plane))).astype(np.uint16)
    with Engine.load(backend="mnn") as fast:
        difference = (fast(plane).astype(np.float64) - engine(plane)) / 65535
    assert np.abs(difference).max() < 3e-4
    assert np.sqrt(np.mean(difference**2)) < 1e-5


@pytest.mark.parametrize("level", [30, 300, 3000])
def test_noise_is_not_turned_into_structure(engine, level):
    """A flat noisy field comes out flatter than it went in, at every scale: no blobs."""
    field = np.random.default_rng(0).poisson(level, (256, 256)).astype(np.uint16)
    restored = engine(field)
    assert restored.std() < 0.7 * field.std()
    assert abs(restored.mean() - field.mean()) < 0.01 * level + 1
    blobs = restored[4:-4, 4:-4].reshape(31, 8, 31, 8).mean(axis=(1, 3))  # means over 8 x 8 pixels
    assert blobs.std() < 3 * field.std() / 8


@pytest.mark.parametrize("z", [0, 10, 22, 34])
def test_the_light_stays(engine, z):
    """Total intensity above the camera's offset within 1 %."""
    field = Field(Path("drawn.tif"), draw_cells((520, 696), np.random.default_rng(9)))
    seen, _ = counts_pair(field, z)
    light = (engine(seen).astype(np.float64) - CAMERA.offset).sum()
    assert light == pytest.approx((seen.astype(np.float64) - CAMERA.offset).sum(), rel=0.01)


@pytest.mark.parametrize("tile", [None, 704])
def test_no_checkerboard_and_no_tiles_in_the_spectrum(tile):
    """Periods of the network's strides (2 to 16 px) and of the tiles stand out nowhere from their neighbourhood."""
    field = Field(Path("drawn.tif"), draw_cells((768, 768), np.random.default_rng(11)))
    seen, _ = counts_pair(field, 16)
    with Engine.load("default", backend="cpu", tile=tile) as engine:
        restored = engine(seen).astype(np.float64)
    window = np.hanning(768)
    spectrum = np.abs(np.fft.fft2((restored - restored.mean()) * window[:, None] * window[None, :])) ** 2
    periods = (2, 4, 8, 16, *([704 - 2 * 224] if tile else []))
    for period in periods:
        k = 768 // period
        for row, column in ((0, k), (k, 0), (k, k)):
            rows, columns = (np.arange(at - 8, at + 9) % 768 for at in (row, column))
            around = spectrum[np.ix_(rows, columns)]
            assert around[7:10, 7:10].mean() < 8 * np.median(around), (period, row, column)


def test_a_sharp_field_comes_back(engine, shared_data):
    """At 42 dB or better, on the mean of the held-out wells, against the noiseless truth."""
    folders = [shared_data / "bbbc006" / name for name in ("infocus_w1", "infocus_w2")]
    pairs = [counts_pair(load_field(path), 0) for path in held_out_files(folders)]
    assert len(pairs) == 5
    assert np.mean([psnr(sharp, engine(seen)) for seen, sharp in pairs]) >= 42
