"""Pixels that are stored in ways that programs should not use, but do: wrong byte counts, palettes of 16 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from defocus.engine.errors import InputError
from defocus.engine.tiff.integrity import check_complete
from defocus.engine.tiff.read import read_tiff, write_tiff

from .test_replace import MADE_BY, check_bytes, image, rewrite

GREY = np.tile(np.linspace(0, 65535, 65536).astype(np.uint16), (3, 1))
PALETTES = {"grey": GREY, "inverted": GREY[:, ::-1], "red": GREY * np.array([[1], [0], [0]], np.uint16)}


@pytest.mark.parametrize("name", PALETTES)
def test_palettes_of_16_bits_are_corrected_where_they_are_a_scale(name, tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    with tifffile.TiffWriter(path) as tif:
        for _ in range(3):
            tif.write(image(), photometric="palette", colormap=PALETTES[name], metadata=None)
    source, _ = rewrite(path, out)
    assert (source.axes, source.notes) == ("IYX", ())
    check_bytes(source, path, out)
    with tifffile.TiffFile(out) as tif:
        np.testing.assert_array_equal(tif.pages.first.tags[320].value, PALETTES[name])


def test_palettes_of_16_bits_that_give_names_are_refused(tmp_path):
    names = np.random.default_rng(0).integers(0, 65536, (3, 65536)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", image(), photometric="palette", colormap=names, metadata=None)
    with pytest.raises(InputError, match="its palette gives colours or names, not intensities"):
        read_tiff(tmp_path / "a.tif")


def write_with_counts(path: Path, change: Any, pages: int = 2, **arguments: Any) -> np.ndarray:
    """Uncompressed pages whose byte counts have been changed by a function of them; their pixels."""
    planes = np.stack([image() + number for number in range(pages)])
    with tifffile.TiffWriter(path, byteorder=arguments.pop("byteorder", "<")) as tif:
        for plane in planes:
            tif.write(plane, photometric="minisblack", metadata=None, **arguments)
    with tifffile.TiffFile(path, mode="r+") as tif:
        for page in tif.pages:
            tag = page.aspage().tags[325 if "tile" in arguments else 279]
            counts = [change(count) for count in page.databytecounts]
            tag.overwrite(counts if len(counts) > 1 else counts[0])
    return planes


STORED: dict[str, dict[str, Any]] = {
    "one strip": {"rowsperstrip": 96},
    "strips": {"rowsperstrip": 40},
    "tiles": {"tile": (64, 64)},
    "big-endian": {"byteorder": ">", "rowsperstrip": 7},
}
WRONG = {"zero": lambda count: 0, "shorter": lambda count: count * 3 // 4, "a byte": lambda count: 1}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("stored", STORED)
def test_uncompressed_pixels_are_as_long_as_they_are_whatever_is_said(stored, wrong, tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    planes = write_with_counts(path, WRONG[wrong], **STORED[stored])
    check_complete(path, finished=True)
    source, _ = rewrite(path, out)
    np.testing.assert_array_equal(source.data, planes)
    check_bytes(source, path, out)
    with tifffile.TiffFile(path) as before, tifffile.TiffFile(out) as after:
        assert [page.databytecounts for page in before.pages] == [page.databytecounts for page in after.pages]


def test_pixels_that_would_be_another_pages_are_not_there(tmp_path):
    """Half of a page: what follows it is the next one."""
    path = tmp_path / "a.tif"
    planes = np.stack([image(), image()])
    with tifffile.TiffWriter(path) as tif:
        tif.write(planes[0, :48], photometric="minisblack", metadata=None)
        tif.write(planes[1], photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags["ImageLength"].overwrite(96)
        tif.pages.first.tags["RowsPerStrip"].overwrite(96)
    with pytest.raises(InputError, match="page 0 has fewer bytes than pixels"):
        read_tiff(path)


def with_holes(dtype: str, value: float) -> np.ndarray:
    """An image with a block and a corner without a value."""
    data = image(dtype=dtype)
    data[20:40, 30:70] = value
    data[-7:, -9:] = value
    return data


NO_VALUE = [("uint16", 0), ("uint16", 65535), ("int16", -32768), ("float32", -9999), ("float32", np.nan)]
NO_VALUE += [("float32", float(np.finfo("float32").min)), ("uint8", 255)]
LAYOUTS: dict[str, dict[str, Any]] = {"strips": {}, "tiles": {"tile": (48, 48), "compression": "zlib"}}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "value"), NO_VALUE)
def test_pixels_without_a_value_stay_so_and_no_other_becomes_one(dtype, value, layout, tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    data = with_holes(dtype, value)
    holes = np.isnan(data) if np.isnan(value) else data == value
    text = f"{value:.17g}".encode() + b"\0"
    arguments = {"photometric": "minisblack", "metadata": None, "extratags": [(42113, 2, len(text), text, True)]}
    tifffile.imwrite(path, data, **arguments, **LAYOUTS[layout])
    source = read_tiff(path)
    given = source.data.copy()
    assert given[~holes].min() <= given[holes].min() <= given[holes].max() <= given[~holes].max()
    np.testing.assert_array_equal(given[~holes], data[~holes])
    restored = given // 2 + 1 if given.dtype.kind in "iu" else given / 2
    if not np.isnan(value):
        restored[5, 5:9] = value  # what a correction comes to
    write_tiff(source, [restored.copy()], out, MADE_BY)
    check_bytes(source, path, out)
    written = tifffile.imread(out)
    np.testing.assert_array_equal(np.isnan(written) if np.isnan(value) else written == value, holes)
    holes[5, 5:9] = True
    np.testing.assert_array_equal(written[~holes], restored[~holes])


@pytest.mark.parametrize("means", [False, True])
def test_reduced_copies_have_no_value_where_they_had_none(means, tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    data = with_holes("float32", -9999)
    small = data[::2, ::2].copy()
    if means:
        small[small != -9999] += 1
    with tifffile.TiffWriter(path) as tif:
        text = [(42113, 2, 6, b"-9999\0", True)]
        tif.write(data, photometric="minisblack", metadata=None, subifds=1, extratags=text)
        tif.write(small, photometric="minisblack", metadata=None, subfiletype=1, extratags=text)
    source = read_tiff(path)
    write_tiff(source, [source.data / 2], out, MADE_BY)
    with tifffile.TiffFile(out) as tif:
        page = tif.series[0].levels[1].asarray()
    np.testing.assert_array_equal(page == -9999, small == -9999)
    assert page[page != -9999].min() >= 0
    if not means:
        np.testing.assert_array_equal(page[page != -9999], (data / 2)[::2, ::2][page != -9999])


def test_without_such_pixels_or_a_sensible_value_nothing_is_done(tmp_path):
    path = tmp_path / "a.tif"
    for text in (b"-9999\0", b"none\0", b"1e400\0", b"0.5\0"):
        tags = [(42113, 2, len(text), text, True)]
        tifffile.imwrite(path, image(), photometric="minisblack", metadata=None, extratags=tags)
        source = read_tiff(path)
        assert source.images[0].blank is None
        assert np.shares_memory(source.data, source.bytes)
