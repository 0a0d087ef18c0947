"""TIFFs as microscopes and their programs write them: what goes in comes out, with our provenance added."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tifffile

from defocus.engine.image.memmap import DiskAllocator, is_disk_backed
from defocus.engine.tiff.read import (
    PROCESSING_SOFTWARE,
    PROVENANCE_TAG,
    TiffFile,
    check_complete,
    read_provenance,
    read_tiff,
    write_tiff,
)

RNG = np.random.default_rng(0)
MADE_BY = {"software": "defocus 0.0", "model": "tiny", "model_sha256": "ab" * 32, "settings": {"tile": 64}}
MICROMETRE = "\u00b5m"


def counts(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return RNG.integers(0, 200 if np.dtype(dtype).itemsize == 1 else 4000, shape).astype(dtype)


OME = {
    "axes": "TCZYX",
    "PhysicalSizeX": 0.645,
    "PhysicalSizeXUnit": MICROMETRE,
    "PhysicalSizeY": 0.645,
    "PhysicalSizeYUnit": MICROMETRE,
    "PhysicalSizeZ": 2.0,
    "Channel": {"Name": ["Hoechst", "Phalloidin \u03b2"]},
    "Plane": {"DeltaT": [float(i) for i in range(12)]},
}
IMAGEJ = {
    "axes": "TZCYX",
    "unit": "um",
    "spacing": 2.0,
    "finterval": 1.5,
    "mode": "composite",
    "Labels": [f"plane {i}" for i in range(12)],
    "Ranges": (0.0, 4000.0, 10.0, 3000.0),
    "LUTs": [np.stack([np.arange(256, dtype=np.uint8) * (c == k) for k in range(3)]) for c in range(2)],
    "Info": "objective = 20x",
}
GREY = {"photometric": "minisblack"}
FLAVOURS = {  # name: (shape, dtype, arguments of TiffWriter, arguments of write)
    "plain": ((50, 70), "uint16", {}, {"metadata": None}),
    "plain_8bit": ((50, 70), "uint8", {}, {"metadata": None}),
    "float": ((50, 70), "float32", {}, {"metadata": None}),
    "lzw_strips": ((50, 70), "uint16", {}, {"compression": "lzw", "rowsperstrip": 11, "metadata": None}),
    "lzw_predictor": ((50, 70), "uint16", {}, {"compression": "lzw", "predictor": True}),
    "deflate_float": ((50, 70), "float32", {}, {"compression": "zlib", "predictor": True}),
    "zstd": ((5, 50, 70), "uint16", {}, {"compression": "zstd"}),
    "packbits": ((50, 70), "uint8", {}, {"compression": "packbits"}),
    "lzma": ((50, 70), "uint16", {}, {"compression": "lzma"}),
    "deflate_one_strip": ((400, 400), "uint16", {}, {"compression": "zlib", "rowsperstrip": 400}),
    "half_precision": ((50, 70), "float16", {}, {"compression": "lzw", "predictor": True}),
    "tiled": ((130, 90), "uint16", {}, {"tile": (32, 48)}),
    "tiled_lzw_big": ((2, 130, 90), "uint16", {"bigtiff": True}, {"tile": (64, 64), "compression": "lzw"}),
    "big_endian": ((50, 70), "uint16", {"byteorder": ">"}, {"metadata": None}),
    "big_endian_lzw": ((5, 50, 70), "uint16", {"byteorder": ">"}, {"compression": "lzw", "predictor": True}),
    "bigtiff": ((50, 70), "uint16", {"bigtiff": True}, {}),
    "big_endian_bigtiff": ((50, 70), "int16", {"bigtiff": True, "byteorder": ">"}, {}),
    "multi_page": ((5, 50, 70), "uint16", {}, {"metadata": None}),
    "shaped": ((2, 5, 50, 70), "uint16", {}, {"metadata": {"axes": "TZYX"}}),
    "rgb": ((50, 70, 3), "uint8", {}, {"photometric": "rgb"}),
    "rgb_planes": ((3, 50, 70), "uint8", {}, {"photometric": "rgb", "planarconfig": "separate"}),
    "rgb_planes_pages": ((4, 3, 50, 70), "uint8", {}, {"photometric": "rgb", "planarconfig": "separate"}),
    "rgb_lzw_pages": ((4, 50, 70, 3), "uint8", {}, {"photometric": "rgb", "compression": "lzw", "predictor": True}),
    "volume_tiles": ((4, 50, 70), "uint16", {}, {"volumetric": True, "tile": (16, 32, 32), **GREY}),
    "volume_strips": ((4, 50, 70), "uint16", {}, {"volumetric": True, **GREY}),
    "one_directory": ((4, 50, 70), "uint16", {}, {"truncate": True, "metadata": {"axes": "ZYX"}, **GREY}),
    "rgba": ((50, 70, 4), "uint8", {}, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "min_is_white": ((50, 70), "uint8", {}, {"photometric": "miniswhite"}),
    "palette": (
        (50, 70),
        "uint8",
        {},
        {"photometric": "palette", "colormap": np.arange(768, dtype=np.uint16).reshape(3, 256)},
    ),
    "imagej": ((2, 3, 2, 50, 70), "uint16", {"imagej": True}, {"resolution": (1.55, 1.55), "metadata": IMAGEJ}),
    "imagej_one_directory": (
        (4, 50, 70),
        "uint16",
        {"imagej": True, "byteorder": ">"},
        {"truncate": True, "metadata": {"axes": "ZYX"}},
    ),
    "imagej_plane": ((50, 70), "float32", {"imagej": True}, {"metadata": {"unit": "um"}}),
    "imagej_rgb": ((2, 50, 70, 3), "uint8", {"imagej": True}, {"photometric": "rgb", "metadata": {"axes": "ZYXS"}}),
    "ome": ((2, 2, 3, 50, 70), "uint16", {"ome": True}, {"metadata": OME, **GREY}),
    "ome_lzw_tiled": (
        (2, 2, 3, 50, 70),
        "uint16",
        {"ome": True, "bigtiff": True},
        {"metadata": OME, **GREY, "compression": "lzw", "tile": (32, 32)},
    ),
    "ome_rgb": ((50, 70, 3), "uint8", {"ome": True}, {"photometric": "rgb", "metadata": {"axes": "YXS"}}),
    "one_pixel": ((1, 1), "uint16", {}, {"metadata": None}),
    "one_row": ((1, 300), "uint16", {}, {"metadata": None, "compression": "lzw"}),
}
OTHER_TAGS = [
    (65001, "s", 0, "stage at 12.5", True),
    (285, "s", 0, "page name", True),
    (286, "2I", 1, (25, 2), True),  # XPosition
    (65002, "2i", 2, (-1, 3, 7, 1), True),
    (65003, "d", 3, (0.5, 1.5, -2.0), True),
    (65004, "B", 3, b"abc", True),
]


def rewrite(source: TiffFile, out: Path) -> None:
    write_tiff(source, [image.data for image in source.images], out, MADE_BY)


@pytest.fixture(params=FLAVOURS)
def written(request, tmp_path) -> tuple[Path, np.ndarray]:
    shape, dtype, writer, arguments = FLAVOURS[request.param]
    data = counts(*shape, dtype=dtype)
    path = tmp_path / ("image.ome.tif" if writer.get("ome") else "image.tif")
    with tifffile.TiffWriter(path, **writer) as tif:
        tif.write(
            data,
            resolutionunit=3 if "resolution" not in arguments else 1,
            **({"resolution": (15503.9, 15503.9)} | arguments),
            software="AcquireMaster 3.1",
            datetime="2026:11:23 10:00:00",
            extratags=OTHER_TAGS,
        )
    return path, data


KEPT_TAGS = (285, 286, 305, 306, 320, 50838, 50839, 65001, 65002, 65003, 65004)


def facts(path: Path) -> dict[str, object]:
    """All that must be kept, as tifffile sees it."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        tags = {tag.code: tag.value for tag in page.tags}
        series = tif.series[0]
        return {
            "kind": (tif.is_ome, tif.is_imagej, tif.is_shaped, tif.is_bigtiff, tif.byteorder),
            "series": (len(tif.series), series.axes, series.shape, series.dtype),
            "flags": tif.flags,
            "pages": len(tif.pages),
            "storage": (page.compression, page.predictor, page.is_tiled, page.tile, page.rowsperstrip),
            "colour": (page.photometric, page.planarconfig, page.samplesperpixel, page.extrasamples),
            "resolution": [Fraction(*tags[code]) if code in tags else None for code in (282, 283)] + [tags.get(296)],
            "descriptions": [p.aspage().tags.valueof(270) for p in tif.pages],
            "imagej": repr(tif.imagej_metadata),
            "ome": tif.ome_metadata,
            "others": {code: repr(tags.get(code)) for code in KEPT_TAGS},
        }


def test_read_gives_data_and_axes(written):
    path, data = written
    stack = read_tiff(path)
    with tifffile.TiffFile(path) as tif:
        expected = tif.series[0]
        alpha = tif.pages.first.extrasamples
        shape = (*expected.shape[:-1], 3) if alpha else expected.shape
        assert (stack.axes, stack.data.shape) == (expected.axes, shape)
    np.testing.assert_array_equal(stack.data, data[..., :3] if alpha else data.reshape(shape))
    assert stack.data.dtype == data.dtype
    assert stack.data.dtype.isnative


def test_what_was_read_is_written_as_it_was(written, tmp_path):
    path, _ = written
    stack = read_tiff(path)
    out = tmp_path / "out" / path.name
    out.parent.mkdir()
    restored = stack.data[..., ::-1, :].copy() if "S" not in stack.axes else stack.data // 2
    write_tiff(stack, [restored], out, MADE_BY)
    again = read_tiff(out)
    np.testing.assert_array_equal(again.data, restored)
    assert again.axes == stack.axes
    assert facts(out) == facts(path)
    assert read_provenance(out) == MADE_BY
    assert read_provenance(path) is None
    with tifffile.TiffFile(out) as tif:
        assert tif.pages.first.tags[PROCESSING_SOFTWARE].value == "defocus 0.0 (model tiny)"
    check_complete(out)


def test_what_is_read_onto_a_disk_is_the_same(written, tmp_path):
    """Every layout, by way of arrays on disk: the same pixels, the same file, nothing left over."""
    path, _ = written
    (tmp_path / "out").mkdir()
    usual, large = read_tiff(path), read_tiff(path, DiskAllocator(tmp_path / "out", 1))
    assert is_disk_backed(large.data)
    assert not is_disk_backed(usual.data)
    np.testing.assert_array_equal(large.data, usual.data)
    assert large.data.dtype == usual.data.dtype
    assert large.axes == usual.axes
    restored = [image.data // 2 for image in usual.images]
    for name, stack in (("usual", usual), ("large", large)):
        write_tiff(stack, restored, tmp_path / "out" / f"{name}.tif", MADE_BY)
    assert (tmp_path / "out" / "usual.tif").read_bytes() == (tmp_path / "out" / "large.tif").read_bytes()
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize("wrong", [np.zeros((5, 6), np.uint8), np.zeros((6, 5), np.uint16)])
def test_only_data_like_those_read_are_written(wrong, tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((5, 6), np.uint16))
    with pytest.raises(ValueError, match="cannot take the place"):
        write_tiff(read_tiff(path), [wrong], tmp_path / "b.tif", MADE_BY)


def test_of_a_pyramid_the_full_resolution_is_kept(tmp_path):
    path, out = tmp_path / "a.tif", tmp_path / "b.tif"
    full = counts(128, 160)
    with tifffile.TiffWriter(path) as tif:
        tif.write(full, subifds=1, tile=(64, 64))
        tif.write(full[::2, ::2], subfiletype=1, tile=(64, 64))
    stack = read_tiff(path)
    np.testing.assert_array_equal(stack.data, full)
    rewrite(stack, out)
    np.testing.assert_array_equal(tifffile.imread(out), full)


def test_a_second_reader_agrees(tmp_path):
    """Pillow, which shares no code with tifffile, reads what we wrote."""
    image_module = pytest.importorskip("PIL.Image", reason='needs Pillow: pip install ".[demo]"')
    data = counts(52, 70)
    for name, arguments in {"lzw": {"compression": "lzw"}, "plain": {}, "deflate": {"compression": "zlib"}}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", data, **arguments)
        write_tiff(read_tiff(tmp_path / f"{name}.tif"), [data // 2], tmp_path / f"{name}_out.tif", MADE_BY)
        with image_module.open(tmp_path / f"{name}_out.tif") as image:
            np.testing.assert_array_equal(np.asarray(image), data // 2)


def test_real_files_of_a_microscope(shared_data, tmp_path):
    paths = sorted((shared_data / "bbbc006" / "defocused_w1_z00").glob("*.tif"))
    assert len(paths) == 12
    for path in paths:
        stack = read_tiff(path)
        assert (stack.data.shape, stack.data.dtype, stack.axes) == ((520, 696), np.uint16, "YX")
        out = tmp_path / path.name
        rewrite(stack, out)
        assert facts(out) == facts(path)
        np.testing.assert_array_equal(tifffile.imread(out), stack.data)


def test_metaseries_files_of_a_microscope(shared_data, tmp_path):
    paths = sorted((shared_data / "beads").glob("*.tif"))[:4]
    assert paths
    for path in paths:
        stack, out = read_tiff(path), tmp_path / path.name
        rewrite(stack, out)
        assert facts(out) == facts(path)
        with tifffile.TiffFile(path) as first, tifffile.TiffFile(out) as second:
            assert second.metaseries_metadata == first.metaseries_metadata
            np.testing.assert_array_equal(second.asarray(), first.asarray())


def test_somebody_elses_tag_is_not_taken_for_our_provenance(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, counts(20, 20), extratags=[(PROVENANCE_TAG, "s", 0, "mine", True)])
    assert read_provenance(path) is None
