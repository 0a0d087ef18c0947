"""The model inside the package: it sharpens what it never saw, leaves what is sharp, and has no seams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from defocus import Engine
from defocus.engine import tiff
from defocus.training.fields import Field, load_field
from defocus.training.heldout import counts_pair
from defocus.training.metrics import psnr
from defocus.training.specimen import draw_cells


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load("default", backend="cpu") as loaded:
        yield loaded


def test_its_card_says_what_it_is(engine):
    card = engine.card
    assert (card.name, card.channels, card.multiple) == ("default", 1, 16)
    assert card.defocus_um_range == (0.0, 36.0)
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
    """Within a count of 16 bits at the default halo, on a plane stretched to all of them (docs/tiles.md)."""
    path = sorted((shared_data / "bbbc006" / "defocused_w1_z00").glob("*.tif"))[0]
    plane = np.pad(tiff.read(path).data, ((0, 200), (0, 64)), mode="symmetric").astype(np.float64)
    plane = ((plane - plane.min()) * (65535 / np.ptp(plane))).astype(np.uint16)
    with Engine.load("default", backend="cpu", tile=480) as tiled:
        difference = np.abs(tiled(plane).astype(np.int64) - engine(plane))
    assert tiled.settings.halo == engine.card.halo
    assert difference.max() <= 1


def test_noise_is_not_turned_into_structure(engine):
    """A flat noisy field comes out flatter than it went in."""
    field = np.random.default_rng(0).poisson(300, (256, 256)).astype(np.uint16)
    restored = engine(field)
    assert restored.std() < 0.7 * field.std()
    assert abs(restored.mean() - field.mean()) < 3
