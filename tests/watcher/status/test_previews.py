"""The small pictures of a file before and after."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile

from defocus.engine.errors import InputError
from defocus.watcher.status.previews import SIDE, previews


@pytest.mark.parametrize("shape", [(64, 80), (2000, 1500), (5, 64, 80), (64, 80, 3)])
def test_previews_are_small_and_on_one_scale(tmp_path, shape):
    ramp = np.linspace(0, 4000, shape[-2] if shape[-1] == 3 else shape[-1])
    after = np.broadcast_to(ramp[:, None] if shape[-1] == 3 else ramp, shape).astype(np.uint16)
    photometric = "rgb" if shape[-1] == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "after.tif", after, photometric=photometric)
    tifffile.imwrite(tmp_path / "before.tif", after // 2, photometric=photometric)
    first, second = (imagecodecs.png_decode(png) for png in previews(tmp_path / "before.tif", tmp_path / "after.tif"))
    assert first.shape == second.shape
    assert max(first.shape) <= 900
    assert abs(float(second.mean()) / max(float(first.mean()), 1) - 2) < 0.2


def test_a_file_that_has_gone_has_no_preview(tmp_path):
    with pytest.raises(InputError):
        previews(tmp_path / "a.tif", tmp_path / "b.tif")


@pytest.mark.parametrize("shape", [(4, 5000), (5000, 4), (1, 2000)])
def test_a_narrow_image_has_a_narrow_preview(tmp_path, shape):
    """A line scan, a kymograph: fewer pixels across than are averaged into one along."""
    image = np.random.default_rng(0).integers(0, 4000, shape, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", image)
    png = imagecodecs.png_decode(previews(tmp_path / "a.tif", tmp_path / "a.tif")[0])
    assert max(png.shape) <= SIDE
    assert min(png.shape) == 1
    assert np.ptp(png) > 100
