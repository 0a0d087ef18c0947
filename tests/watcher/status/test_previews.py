"""The small pictures of a file before and after."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
import tifffile

from defocus.engine.errors import InputError
from defocus.engine.formats.preview import SIDE, previews
from defocus.engine.tiff import preview
from defocus.engine.tiff.preview import MEMORY, middle_plane
from defocus.watcher.status import previews as module
from defocus.watcher.status.previews import Previews


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


@pytest.mark.parametrize(
    ("shape", "how"),
    [
        ((1999, 1501), {}),
        ((1999, 1501), {"compression": "zlib", "rowsperstrip": 7}),
        ((1999, 1501), {"compression": "zlib", "predictor": True, "rowsperstrip": 1000}),
        ((1999, 1501), {"tile": (208, 304), "compression": "lzw"}),
        ((1999, 1501), {"byteorder": ">"}),
        ((1999, 1501), {"byteorder": ">", "tile": (64, 64)}),
        ((999, 1501, 3), {"photometric": "rgb"}),
        ((999, 1501, 3), {"photometric": "rgb", "tile": (64, 64)}),
        ((3, 999, 1501), {"photometric": "rgb", "planarconfig": "separate"}),
    ],
)
def test_bands_give_what_the_whole_plane_gives(tmp_path, shape, how):
    image = np.random.default_rng(0).integers(0, 60_000, shape).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", image, **how)
    grey = image.astype(float)
    if image.ndim == 3:
        grey = grey.mean(axis=-1) if shape[-1] == 3 else grey[0]
    step = -(-max(grey.shape) // SIDE)
    rows, columns = (np.arange(0, length, step) for length in grey.shape)
    sums = np.add.reduceat(np.add.reduceat(grey, rows, axis=0), columns, axis=1)
    high, wide = (np.minimum(step, length - np.arange(0, length, step)) for length in grey.shape)
    counts = np.outer(high, wide)
    np.testing.assert_allclose(middle_plane(tmp_path / "a.tif", SIDE), sums / counts, rtol=1e-6)


@pytest.mark.parametrize("how", [{}, {"compression": "zlib"}])
def test_a_picture_of_256_mpx_takes_no_gigabyte(tmp_path, how):
    """The peak of a process of its own, above what it takes for a small one."""
    program = (
        "import resource, sys; from pathlib import Path; from defocus.engine.formats.preview import previews;"
        "previews(Path(sys.argv[1]), Path(sys.argv[1]));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, Path('/proc/self/status').read_text())"
    )
    peaks = []
    for name, side in (("small", 1000), ("large", 16_000)):
        path = tmp_path / f"{name}.tif"
        tiles = (np.full((512, 512), 1000 + n % 256, np.uint16) for n in range((-(-side // 512)) ** 2))
        rows = (np.full((1, side), 1000 + row % 256, np.uint16) for row in range(side))
        arguments = {"data": tiles, "tile": (512, 512), **how} if how else {"data": rows, "rowsperstrip": 1}
        tifffile.imwrite(path, shape=(side, side), dtype=np.uint16, **arguments)
        done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
        peaks.append(int(re.search(r"RssAnon:\s+(\d+)", done.stdout)[1]))  # type: ignore[index]
        peaks[-1] = (
            max(peaks[-1], int(done.stdout.split()[0])) if how else peaks[-1]
        )  # a map of a file can be taken back
    assert (peaks[1] - peaks[0]) * 1024 < MEMORY


def test_one_piece_that_is_too_large_is_refused(tmp_path):
    side = 6000
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((side, side), np.uint16), compression="zlib", rowsperstrip=side)
    with pytest.raises(InputError, match="in pieces too large"):
        previews(tmp_path / "a.tif", tmp_path / "a.tif")


def test_a_pair_is_made_once_until_its_file_changes(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(module, "previews", lambda *paths: made.append(paths) or (b"a", b"b"))
    path, cache = tmp_path / "a.tif", Previews()
    path.write_bytes(b"1")
    assert cache.pair(path, path) == cache.pair(path, path) == (b"a", b"b")
    assert len(made) == 1
    path.write_bytes(b"22")
    cache.pair(path, path)
    assert len(made) == 2
    with pytest.raises(InputError, match="no such file"):
        cache.pair(path, tmp_path / "none.tif")


def test_a_file_that_is_cut_short_while_it_is_looked_at_ends_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((4000, 2000), np.uint16))
    add = preview.Binned.add

    def cut(binned, piece, top, left):
        os.truncate(path, 1000)
        add(binned, piece, top, left)

    monkeypatch.setattr(preview.Binned, "add", cut)
    with pytest.raises(InputError, match="truncated"):
        previews(path, path)
